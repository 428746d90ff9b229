"""The loop over epochs that everything trained by gradient shares: history, checkpoints, divergence, progress."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from ksae_lib.io import KsaeError, load_tensors, save_tensors

CHECKPOINT_SECONDS = 30.0
_SHOWN = {"k": "k", "live": "live_units"}
Row = dict[str, Any]
"""What one epoch of one run reports."""
History = list[Row]
"""The epochs of one run, first to last."""


class DivergenceError(KsaeError):
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

    def save(self, epochs: list[list[Row]], diverged: Mapping[int, str]) -> None:
        """Save the state after these epochs, of which each has a row for each run, and which runs diverged."""
        metadata = {"run": self.run, "history": epochs, "diverged": {str(run): why for run, why in diverged.items()}}
        save_tensors(self.state, self.path, metadata)

    def load(self) -> tuple[list[list[Row]], dict[int, str]]:
        """Restore the state; the epochs so far and which runs diverged, empty where there is no checkpoint.

        Raises:
            ValueError: the file is of another training or cannot be read.
        """
        if not self.path.exists():
            return [], {}
        try:
            tensors, metadata = load_tensors(self.path)
        except ValueError as error:
            raise ValueError(f"{error} Delete it, or name another file, to start the run again.") from error
        if metadata.get("run") != self.run:
            raise ValueError(f"{self.path} is not a checkpoint of this run: name another file or delete it.")
        for name, tensor in self.state.items():
            tensor.copy_(tensors[name])
        return metadata["history"], {int(run): why for run, why in metadata["diverged"].items()}


def columns(history: History) -> dict[str, np.ndarray]:
    """A history as one array a column, as ``pandas.DataFrame(history)`` would show it."""
    return {name: np.array([row[name] for row in history]) for name in history[0]} if history else {}


def run_epochs(
    what: str,
    epochs: int,
    epoch: Callable[[int], list[Row]],
    *,
    is_finite: Callable[[int], bool] = lambda run: True,
    checkpoint: Checkpoint | None = None,
    progress: bool | None = None,
) -> list[History | DivergenceError]:
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
    done, diverged = checkpoint.load() if checkpoint is not None else ([], {})
    saved, last_saved = len(done), time.monotonic()
    with tqdm(total=epochs, initial=saved, unit="epoch", disable=None if progress is None else not progress) as bar:
        for number in range(saved, epochs):
            started = time.perf_counter()
            rows = epoch(number)
            seconds = (time.perf_counter() - started) / len(rows)
            done.append([{**row, "seconds": row.get("seconds", seconds)} for row in rows])
            for run, row in enumerate(rows):
                if run not in diverged and not (math.isfinite(row["loss"]) and is_finite(run)):
                    kept = checkpoint.path if checkpoint is not None and saved else None
                    diverged[run] = _advice(what, number, row, kept, saved)
            if len(diverged) == len(rows):
                break
            first = next(row for run, row in enumerate(rows) if run not in diverged)
            shown = {name: first[key] for name, key in _SHOWN.items() if key in first}
            bar.set_postfix(loss=f"{first['loss']:.4g}", **shown, refresh=False)
            bar.update()
            due = number + 1 == epochs or time.monotonic() - last_saved > CHECKPOINT_SECONDS
            if checkpoint is not None and due:
                checkpoint.save(done, diverged)
                saved, last_saved = len(done), time.monotonic()
    runs = range(len(done[0]) if done else 0)
    return [DivergenceError(diverged[run]) if run in diverged else [rows[run] for rows in done] for run in runs]


def _advice(what: str, epoch: int, row: Row, checkpoint: Path | None, saved: int) -> str:
    kept = f" The checkpoint after {saved} epochs is kept: {checkpoint}." if checkpoint is not None else ""
    k, smaller = (f" with k = {row['k']}", " or start the schedule from a smaller k") if "k" in row else ("", "")
    return (
        f"{what} diverged: the loss or a weight stopped being finite (loss {row['loss']:.3g}) in epoch "
        f"{row.get('epoch', epoch)} (counted from 0) at learning rate {row['learning_rate']:g}{k}. Lower the learning "
        f"rate{smaller}.{kept}"
    )
