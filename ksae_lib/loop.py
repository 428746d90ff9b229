"""The loop over epochs that everything trained by gradient shares: history, checkpoints, divergence, progress."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from ksae_lib.io import atomic_path

CHECKPOINT_SECONDS = 30.0
Row = dict[str, Any]


class DivergenceError(RuntimeError):
    """The loss or a parameter stopped being finite."""


def data_digest(x: np.ndarray) -> str:
    """SHA-256 of examples."""
    return hashlib.sha256(np.ascontiguousarray(x).data).hexdigest()


class Checkpoint:
    """State of a training after whole epochs, in one file that is whole or absent.

    Args:
        path: the file.
        run: what is trained, JSON-ready: a checkpoint of anything else is refused.
        state: tensors that are saved, and restored in place.
    """

    def __init__(self, path: Path, run: dict[str, Any], state: Mapping[str, Tensor]) -> None:
        self.path = path
        self.state = state
        self.run = json.dumps(run, sort_keys=True)

    def save(self, history: list[list[Row]]) -> None:
        """Save the state with the history so far."""
        with atomic_path(self.path) as temporary:
            save_file(dict(self.state), temporary, metadata={"run": self.run, "history": json.dumps(history)})

    def load(self) -> list[list[Row]]:
        """Restore the state; the history so far, empty where there is no checkpoint.

        Raises:
            ValueError: the file is of another training or cannot be read.
        """
        if not self.path.exists():
            return []
        try:
            with safe_open(self.path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("run") != self.run:
                    raise ValueError(f"{self.path} is not a checkpoint of this run: name another file or delete it.")
                for name, tensor in self.state.items():
                    tensor.copy_(file.get_tensor(name))
        except SafetensorError as error:
            raise ValueError(f"{self.path} cannot be read ({error}): delete it to start the run again.") from error
        history: list[list[Row]] = json.loads(metadata["history"])
        return history


def run_epochs(
    what: str,
    epochs: int,
    epoch: Callable[[int], list[Row]],
    *,
    is_finite: Callable[[int], bool] = lambda run: True,
    checkpoint: Checkpoint | None = None,
    progress: bool | None = None,
) -> list[pd.DataFrame | DivergenceError]:
    """Carry out the epochs of one run, or of several that are trained at once.

    Args:
        what: is done, the beginning of the sentence that tells of a divergence.
        epochs: their number.
        epoch: carries out the epoch of that number, from 0; returns a row of history for each run, with at least
            ``loss`` and ``learning_rate``. ``seconds``, the epoch's time divided by the runs, is added if absent.
        is_finite: whether the parameters of the run of that number are finite; asked wherever its loss is.
        checkpoint: resumed from if it exists, saved every half minute and after the last epoch. It stays after
            success, so that the caller can store the result first.
        progress: show a bar; None: only on a terminal.

    Returns:
        For each run its history, one row an epoch, or the error it diverged with. The loop ends when all have.

    Raises:
        ValueError: the checkpoint is of another training or cannot be read.
    """
    history = checkpoint.load() if checkpoint is not None else []
    saved, last_saved = len(history), time.monotonic()
    errors: dict[int, DivergenceError] = {}
    with tqdm(total=epochs, initial=saved, unit="epoch", disable=None if progress is None else not progress) as bar:
        for number in range(saved, epochs):
            started = time.perf_counter()
            rows = epoch(number)
            seconds = (time.perf_counter() - started) / len(rows)
            history.append([{**row, "seconds": row.get("seconds", seconds)} for row in rows])
            for run, row in enumerate(rows):
                if run not in errors and not (math.isfinite(row["loss"]) and is_finite(run)):
                    kept = checkpoint.path if checkpoint is not None and saved else None
                    errors[run] = _divergence(what, number, row, kept, saved)
            if len(errors) == len(rows):
                break
            bar.set_postfix(loss=f"{rows[0]['loss']:.4g}", refresh=False)
            bar.update()
            due = number + 1 == epochs or time.monotonic() - last_saved > CHECKPOINT_SECONDS
            if checkpoint is not None and due:
                checkpoint.save(history)
                saved, last_saved = len(history), time.monotonic()
    runs = len(history[0]) if history else 0
    return [errors.get(run) or pd.DataFrame([rows[run] for rows in history]) for run in range(runs)]


def _divergence(what: str, epoch: int, row: Row, checkpoint: Path | None, saved: int) -> DivergenceError:
    kept = f" The checkpoint after {saved} epochs is kept: {checkpoint}." if checkpoint is not None else ""
    k = f" with k = {row['k']}" if "k" in row else ""
    return DivergenceError(
        f"{what} diverged: the loss or a weight stopped being finite (loss {row['loss']:.3g}) in epoch {epoch} "
        f"(counted from 0) at learning rate {row['learning_rate']:g}{k}. Lower the learning rate.{kept}"
    )
