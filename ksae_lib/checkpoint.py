"""Checkpoints of training: state after whole epochs in one file that is whole or absent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ksae_lib.io import atomic_path

CHECKPOINT_SECONDS = 30.0


def data_digest(x: np.ndarray) -> str:
    """SHA-256 of examples."""
    return hashlib.sha256(np.ascontiguousarray(x).data).hexdigest()


class Checkpoint:
    """State of one training after whole epochs, written beside and renamed.

    Args:
        path: the file.
        run: what is trained, JSON-ready: a checkpoint of anything else is refused.
        state: tensors that are saved, and restored in place.
    """

    def __init__(self, path: Path, run: dict[str, Any], state: Mapping[str, Tensor]) -> None:
        self.path = path
        self.state = state
        self.run = json.dumps(run, sort_keys=True)

    def save(self, rows: list[Any]) -> None:
        """Save the state with the history so far."""
        with atomic_path(self.path) as temporary:
            save_file(dict(self.state), temporary, metadata={"run": self.run, "history": json.dumps(rows)})

    def load(self) -> list[Any]:
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
        history: list[Any] = json.loads(metadata["history"])
        return history
