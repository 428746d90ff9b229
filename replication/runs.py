"""A run of the study, its id, and the store: one folder a run, found by its id, whole or absent."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from ksae_lib.io import KsaeError, save_tensors, sweep, sync_file, temporary_prefix
from replication.code_digest import closure_digest
from replication.data import DATASETS
from replication.data.base import DataConfig
from replication.judge.finetune import FinetuneConfig
from replication.judge.readout import ReadoutConfig
from replication.methods import method_from_json
from replication.methods.base import Method

_ENGINES = {
    "cpu": ("ksae_lib.engines.cpu", "ksae_lib.engines.kernels"),
    "gpu": ("ksae_lib.engines.gpu", "ksae_lib.engines.triton_select"),
    "reference": ("ksae_lib.engines.reference",),
}
_VERSION = 1
"""Part of every id: raise it when the same config starts to mean other numbers."""
_LATER = {
    "below": None, "below_alpha": None, "dense_relu": False, "refit": False,
    "share": None, "source": None, "selection": "sort",
}  # fmt: skip
"""Settings that came later, left out of ids where they say nothing: earlier ids stay valid."""
_SAID = {"train": {"engine": "cpu"}, "finetune": {"engine": "auto"}}
"""What every config says since engines were part of it: ids stay valid, the engine that was used is in the metrics."""
_FILES = ("config.json", "metrics.json", "history.csv")
_WEIGHTS = "weights.safetensors"
_READS = 20
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


class StoreError(KsaeError):
    """A run is missing, cannot be read, or must not be written."""


@dataclass(frozen=True, kw_only=True)
class EncoderRun:
    """One method fitted without labels, on data or on the codes of an encoder below."""

    method: Method
    data: DataConfig = field(default_factory=DataConfig)
    below: EncoderRun | None = None
    """The first layer of a deep net (section 4.6)."""
    below_alpha: float | None = None
    """Codes of a k-sparse encoder below keep the αk largest."""

    @cached_property
    def run_id(self) -> str:
        """Readable name and digest of the config."""
        upper = "" if self.below is None else "upper-"
        return f"train-{_data_name(self.data)}{upper}{self.method.label}-s{self.method.seed}-{_digest(self)}"

    @property
    def seed(self) -> int | None:
        """Seed of the method, None where chance has no part."""
        return self.method.seed if self.method.uses_seed else None


@dataclass(frozen=True, kw_only=True)
class ReadoutRun:
    """One logistic regression on the frozen codes of an encoder, or on raw pixels."""

    data: DataConfig = field(default_factory=DataConfig)
    encoder: EncoderRun | None = None
    readout: ReadoutConfig = field(default_factory=ReadoutConfig)

    @cached_property
    def run_id(self) -> str:
        """Readable name and digest of the config."""
        name = f"{_data_name(self.data)}pixels" if self.encoder is None else _name(self.encoder)
        return f"readout-{name}-{_digest(self)}"

    @property
    def seed(self) -> int | None:
        """Seed of the encoder, None where chance has no part."""
        return None if self.encoder is None else self.encoder.seed


@dataclass(frozen=True, kw_only=True)
class FinetuneRun:
    """One discriminative net, started from an encoder and those below it or from random weights, and fine-tuned."""

    data: DataConfig = field(default_factory=DataConfig)
    encoder: EncoderRun | None = None
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)

    @cached_property
    def run_id(self) -> str:
        """Readable name and digest of the config."""
        name = f"{_data_name(self.data)}random-weights" if self.encoder is None else _name(self.encoder)
        stages = "" if self.finetune.layerwise else "-at-once"
        return f"finetune-{name}{stages}-f{self.finetune.epochs}-s{self.finetune.seed}-{_digest(self)}"

    @property
    def seed(self) -> int:
        """Seed of the net."""
        return self.finetune.seed


Supervised = ReadoutRun | FinetuneRun
Run = EncoderRun | Supervised


def stack(encoder: EncoderRun | None) -> tuple[EncoderRun, ...]:
    """An encoder and those below it, the lowest first."""
    return () if encoder is None else (*stack(encoder.below), encoder)


def requires(run: Run) -> tuple[EncoderRun, ...]:
    """The encoders whose weights a run needs, the lowest first."""
    return stack(run.below if isinstance(run, EncoderRun) else run.encoder)


def to_json(run: Run) -> dict[str, Any]:
    """The run's config as stored in ``config.json``."""
    if isinstance(run, EncoderRun):
        return {"kind": run.method.kind, "version": _VERSION, **_encoder_json(run)}
    made = {"data": _brief(run.data), "encoder": None if run.encoder is None else _encoder_json(run.encoder)}
    kind, settings = ("readout", run.readout) if isinstance(run, ReadoutRun) else ("finetune", run.finetune)
    return {"kind": kind, "version": _VERSION, **made, kind: _brief(settings) | _SAID.get(kind, {})}


def from_json(config: dict[str, Any]) -> Run:
    """The run that ``config.json`` describes.

    Raises:
        StoreError: another version or an unknown kind.
        TypeError, ValueError, KeyError: unknown or impossible settings.
    """
    kind, version = config.get("kind"), config.get("version")
    if version != _VERSION or kind not in ("train", "baseline", "readout", "finetune"):
        raise StoreError(f"a config of version {version} and kind {kind!r} is not of this code")
    if kind in ("train", "baseline"):
        return _encoder_from_json(config)
    encoder = None if config["encoder"] is None else _encoder_from_json(config["encoder"])
    data, settings = DataConfig(**config["data"]), _without_said(config, kind)
    if kind == "finetune":
        return FinetuneRun(data=data, encoder=encoder, finetune=FinetuneConfig(**settings))
    return ReadoutRun(data=data, encoder=encoder, readout=ReadoutConfig(**settings))


def _encoder_json(run: EncoderRun) -> dict[str, Any]:
    kind = run.method.kind
    below = {} if run.below is None else {"below": _encoder_json(run.below), "below_alpha": run.below_alpha}
    return {"data": _brief(run.data), kind: _brief(run.method) | _SAID.get(kind, {}), **below}


def _encoder_from_json(config: dict[str, Any]) -> EncoderRun:
    kind = "train" if "train" in config else "baseline"
    below = None if config.get("below") is None else _encoder_from_json(config["below"])
    return EncoderRun(
        method=method_from_json({kind: _without_said(config, kind)}), data=DataConfig(**config["data"]), below=below,
        below_alpha=config.get("below_alpha"),
    )  # fmt: skip


def _brief(settings: Any) -> dict[str, Any]:
    return {k: v for k, v in asdict(settings).items() if k not in _LATER or v != _LATER[k]}


def _without_said(config: dict[str, Any], kind: str) -> dict[str, Any]:
    return {k: v for k, v in config[kind].items() if k not in _SAID.get(kind, {})}


def _data_name(data: DataConfig) -> str:
    """Begins the readable part of ids but those of MNIST."""
    return "" if data.name == "mnist" else f"{data.name}-"


def _name(encoder: EncoderRun) -> str:
    """The readable part of an encoder's id."""
    return encoder.run_id.removeprefix("train-").rpartition("-")[0]


def _digest(run: Run) -> str:
    text = json.dumps(to_json(run), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def digest_of(run: Run, engine: str | None = None) -> str:
    """Digest of the code whose change could change this run.

    Training, readout and fine-tuning differ in it: a change of the readout's solver leaves encoders as they are.

    Args:
        run: the run.
        engine: that trained an encoder: the code of the others does not count.
    """
    methods = [one.method for one in requires(run)]
    if isinstance(run, EncoderRun):
        methods.append(run.method)
        roots = ["ksae_lib.metrics", *(["replication.judge.gabor"] if run.data.name == "patches" else [])]
    else:
        roots = ["replication.judge.finetune" if isinstance(run, FinetuneRun) else "replication.judge.readout"]
    roots += [type(method).__module__ for method in methods] + [DATASETS[run.data.name].load.__module__]
    others = [name for key, names in _ENGINES.items() if engine in _ENGINES and key != engine for name in names]
    return closure_digest(tuple(sorted(set(roots))), tuple(others))


@dataclass(frozen=True)
class StoredRun:
    """What one finished run left: its config, metrics and history."""

    run: Run
    metrics: dict[str, Any]
    history: pd.DataFrame

    @property
    def is_current(self) -> bool:
        """Whether the run is of the code that is here."""
        said = self.metrics.get("code_digest")
        return said is not None and said == digest_of(self.run, self.metrics.get("engine"))


class RunStore:
    """``<root>/<run_id>/{config.json, metrics.json, history.csv}`` and, where kept, ``weights.safetensors``.

    A folder appears, and is replaced, by one rename. Reading writes nothing and sees one version of a run.

    Args:
        root: ``results/<profile>/runs`` or a reader's own.
        read_only: refuse to write.
    """

    def __init__(self, root: Path, read_only: bool = False) -> None:
        self.root = root
        self.read_only = read_only

    def folder(self, run: Run) -> Path:
        """Where the run is, or will be."""
        return self.root / run.run_id

    def checkpoint(self, run: Run) -> Path:
        """Where a run under way keeps its checkpoint."""
        return self.root / ".checkpoints" / f"{run.run_id}.safetensors"

    def names(self) -> list[str]:
        """Ids of the runs that have a folder, in order."""
        return sorted(p.name for p in self.root.iterdir() if p.name[0] != ".") if self.root.is_dir() else []

    def seeds(self) -> list[int]:
        """Seeds that occur among the runs."""
        return sorted({int(seed) for name in self.names() for seed in re.findall(r"-s(\d+)-", name)} | {0})

    def has(self, run: Run, weights: bool = False) -> bool:
        """Whether the run is here and can be read, and, if asked, has weights."""
        if weights and not (self.folder(run) / _WEIGHTS).exists():
            return False
        return self.find(run) is not None

    def has_rounded_weights(self, run: Run) -> bool:
        """Whether the weights are kept as float16: good to look at, not to carry out other runs on."""
        with safe_open(self.folder(run) / _WEIGHTS, framework="pt") as file:
            return any(file.get_slice(name).get_dtype() == "F16" for name in file.keys())  # noqa: SIM118 - no mapping

    def find(self, run: Run) -> StoredRun | None:
        """The run, or None where it is missing or cannot be read."""
        with suppress(StoreError):
            return self.load(run)
        return None

    def load(self, run: Run) -> StoredRun:
        """Read a finished run.

        Raises:
            StoreError: it is not in the store, or cannot be read.
        """
        if not self.folder(run).is_dir():
            raise StoreError(f"{self.folder(run)} is missing: 'ksae run {run.run_id}' carries it out.")
        return self.read(run.run_id)

    def read(self, run_id: str) -> StoredRun:
        """Read the finished run of a folder.

        Raises:
            StoreError: it cannot be read, or is not the run of that name.
        """
        folder = self.root / run_id
        try:
            config, metrics, history = _read_together(folder)
            run = from_json(config)
        except (OSError, ValueError, TypeError, KeyError, StoreError) as error:
            raise StoreError(f"{folder} cannot be read ({error}): delete it to have it carried out again.") from error
        if not isinstance(metrics, dict) or run.run_id != run_id or metrics.get("run_id") != run_id:
            raise StoreError(f"{folder} holds another run than its name says: delete it to have it carried out again.")
        return StoredRun(run, metrics, history)

    def load_model(self, run: EncoderRun) -> nn.Module:
        """The trained model of a run.

        Raises:
            StoreError: its weights are not in the store, or cannot be read.
        """
        path = self.folder(run) / _WEIGHTS
        if not path.exists():
            raise StoreError(f"{path} is missing: 'ksae run --force {run.run_id}' trains the run again.")
        try:
            weights = {name: t.float() if t.is_floating_point() else t for name, t in load_file(path).items()}
            inputs = weights["weight"].shape[1] if "weight" in weights else self.load(run).metrics["inputs"]
            model = run.method.build(inputs)
            model.load_state_dict(weights)
        except (SafetensorError, OSError, RuntimeError, KeyError) as error:
            raise StoreError(
                f"{path} is damaged ({error}): delete its folder to have the run carried out again."
            ) from error
        return model

    def save(
        self, run: Run, metrics: dict[str, Any], history: pd.DataFrame, model: nn.Module | None = None
    ) -> StoredRun:
        """Store a finished run, in place of one that is there.

        Args:
            run: its config.
            metrics: JSON-serializable results and provenance; ``run_id`` is added.
            history: one row an epoch or a trial.
            model: keep its weights.

        Raises:
            StoreError: the store is read-only.
        """
        if self.read_only:
            raise StoreError(f"{self.root} is committed evidence: only --update-evidence writes there.")
        self.root.mkdir(parents=True, exist_ok=True)
        sweep(self.root)
        metrics = {"run_id": run.run_id, **metrics}
        new = Path(tempfile.mkdtemp(dir=self.root, prefix=temporary_prefix(self.folder(run)), suffix=".tmp"))
        try:
            new.chmod(0o755)
            (new / "config.json").write_text(_pretty(to_json(run)), encoding="utf-8")
            (new / "metrics.json").write_text(_pretty(metrics), encoding="utf-8")
            history.to_csv(new / "history.csv", index=False, lineterminator="\n", float_format="%.6g")
            if model is not None:
                save_tensors(model.state_dict(), new / _WEIGHTS, {})
            for path in new.iterdir():
                path.chmod(0o644)
                sync_file(path)
            _put(new, self.folder(run))
        finally:
            shutil.rmtree(new, ignore_errors=True)
        return StoredRun(run, metrics, history)


def _read_together(folder: Path) -> tuple[Any, Any, pd.DataFrame]:
    """The files of one version of a run: a folder that is replaced meanwhile is read again."""
    for attempt in range(_READS):
        here = os.open(folder, os.O_RDONLY)
        try:
            with ExitStack() as stack:
                config, metrics, history = (
                    stack.enter_context(os.fdopen(os.open(name, os.O_RDONLY, dir_fd=here), encoding="utf-8"))
                    for name in _FILES
                )
                return json.load(config), json.load(metrics), pd.read_csv(history)
        except FileNotFoundError:
            if attempt == _READS - 1 or folder.stat().st_ino == os.fstat(here).st_ino:
                raise
        finally:
            os.close(here)
    raise AssertionError("unreachable")


def _put(new: Path, folder: Path) -> None:
    """Give a folder its name by one rename; ``new`` holds what was there before, if anything was."""
    while True:
        try:
            new.rename(folder)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        with suppress(FileNotFoundError):
            _exchange(new, folder)
            return


def _exchange(first: Path, second: Path) -> None:
    """Exchange two folders' names in one step where the system can, else in two."""
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(first), os.fsencode(second)
    if hasattr(libc, "renameat2"):
        if libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
            return
        if ctypes.get_errno() == errno.ENOENT:
            raise FileNotFoundError(second)
    aside = first.with_name(f"{first.name}-earlier")
    second.rename(aside)
    first.rename(second)
    aside.rename(first)


def _pretty(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=1, allow_nan=False) + "\n"
