"""The store: one folder a run, found by its id, whole or absent."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors.torch import load_file, save_file
from torch import nn

from ksae_lib.io import sync_file
from ksae_lib.model import KSparseAutoencoder
from replication.methods import Baseline
from replication.plan import Encoder, Run, TrainRun, from_json, to_json


class StoreError(RuntimeError):
    """A run is missing, incomplete, or already there; the message says what to do."""


@dataclass(frozen=True)
class StoredRun:
    """What one finished run left: its config, metrics and history."""

    run: Run
    metrics: dict[str, Any]
    history: pd.DataFrame


class RunStore:
    """``<root>/<run_id>/{config.json, metrics.json, history.csv}`` and, where kept, ``weights.safetensors``.

    A folder appears by one rename, so that a killed process leaves it whole or absent.

    Args:
        root: ``results/<profile>/runs``.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, run: Run) -> Path:
        """Where the run is, or will be; completes a replacement that was killed half-way."""
        folder = self.root / run.run_id
        replaced = self._replaced(folder)
        if replaced.exists():
            if folder.exists():
                shutil.rmtree(replaced)
            else:
                replaced.rename(folder)
        return folder

    def checkpoint(self, run: Run) -> Path:
        """Where a run under way keeps its checkpoint."""
        return self.root / ".checkpoints" / f"{run.run_id}.safetensors"

    def has(self, run: Run, weights: bool = False) -> bool:
        """Whether the run is finished and, if asked, its weights are here."""
        folder = self.folder(run)
        return (folder / "metrics.json").exists() and (not weights or (folder / "weights.safetensors").exists())

    def load(self, run: Run) -> StoredRun:
        """Read a finished run.

        Raises:
            StoreError: it is not in the store, or cannot be read.
        """
        folder = self.folder(run)
        if not folder.exists():
            raise StoreError(f"{folder} is missing: 'ksae reproduce' trains it.")
        stored = self.read(run.run_id)
        if stored.run != run:
            raise StoreError(f"{folder} holds another run than its name says: delete it to have it trained again.")
        return stored

    def read(self, run_id: str) -> StoredRun:
        """Read the finished run of a folder.

        Raises:
            StoreError: it cannot be read, or is not the run of that name.
        """
        folder = self.root / run_id
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
            history = pd.read_csv(folder / "history.csv")
            run = from_json(config)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise StoreError(f"{folder} cannot be read ({error}): delete it to have it trained again.") from error
        if not isinstance(metrics, dict) or run.run_id != run_id or metrics.get("run_id", run_id) != run_id:
            raise StoreError(f"{folder} holds another run than its name says: delete it to have it trained again.")
        return StoredRun(run, metrics, history)

    def load_model(self, run: Encoder) -> KSparseAutoencoder | Baseline:
        """The trained model of a run, k-sparse autoencoder or baseline.

        Raises:
            StoreError: its weights are not in the store.
        """
        path = self.folder(run) / "weights.safetensors"
        if not path.exists():
            raise StoreError(f"{path} is missing: 'ksae run {run.run_id}' trains the run again.")
        weights = load_file(path)
        if isinstance(run, TrainRun):
            units, inputs = weights["weight"].shape
            model: KSparseAutoencoder | Baseline = KSparseAutoencoder(inputs, units, run.train.k, run.train.activation)
        else:
            model = run.baseline.build(self.load(run).metrics["inputs"])
        model.load_state_dict(weights)
        return model

    def save(
        self,
        run: Run,
        metrics: dict[str, Any],
        history: pd.DataFrame,
        model: nn.Module | None = None,
        replace: bool = False,
    ) -> Path:
        """Store a finished run.

        Args:
            run: its config.
            metrics: JSON-serializable results and provenance.
            history: one row an epoch or a trial.
            model: keep its weights.
            replace: allow an existing run of the same id to be replaced.

        Raises:
            StoreError: the run is there and ``replace`` is false.
        """
        folder = self.folder(run)
        if folder.exists() and not replace:
            raise StoreError(f"{folder} exists already: it is replaced only with --force.")
        self.root.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(dir=self.root, prefix=f".new-{run.run_id}-"))
        try:
            new.chmod(0o755)
            (new / "config.json").write_text(_pretty(to_json(run)), encoding="utf-8")
            (new / "metrics.json").write_text(_pretty(metrics), encoding="utf-8")
            history.to_csv(new / "history.csv", index=False, lineterminator="\n", float_format="%.6g")
            if model is not None:
                save_file({name: t.contiguous() for name, t in model.state_dict().items()}, new / "weights.safetensors")
            return self.adopt(new, run)
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def adopt(self, new: Path, run: Run) -> Path:
        """Move a finished run's folder, on the same file system, to where it belongs, in place of one there."""
        folder = self.folder(run)
        for path in new.iterdir():
            path.chmod(0o644)
            sync_file(path)
        if folder.exists():
            folder.rename(self._replaced(folder))
        new.rename(folder)
        shutil.rmtree(self._replaced(folder), ignore_errors=True)
        return folder

    @staticmethod
    def _replaced(folder: Path) -> Path:
        return folder.with_name(f".replaced-{folder.name}")


def _pretty(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=1, allow_nan=False) + "\n"
