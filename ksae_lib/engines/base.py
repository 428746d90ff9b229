"""What every engine is: one epoch of the paper's training, in place on a model's parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import numpy as np
import torch

from ksae_lib.model import KSparseAutoencoder


class EpochResult(NamedTuple):
    """What one epoch reports."""

    loss: float
    """E averaged over the epoch's examples, each measured just before its batch's update."""
    uses: np.ndarray
    """How often each unit's code was not zero (shape: [units])."""


class Engine(ABC):
    """Trains ``model`` on ``x`` by SGD with momentum as printed: v ← m v − η ∇E, θ ← θ + v (section 4.2.2).

    Args:
        model: trained in place; float32, or float64 for gradient tests.
        x: examples (shape: [examples, inputs]) of the model's dtype; may be memory-mapped.
        batch_size: examples per update; a last, smaller batch is averaged over its own size.
    """

    name: ClassVar[str]

    def __init__(self, model: KSparseAutoencoder, x: np.ndarray, batch_size: int) -> None:
        self.model = model
        self.x = np.asarray(x)
        self.batch_size = batch_size
        self.velocity = {name: torch.zeros_like(p) for name, p in model.named_parameters()}

    @abstractmethod
    def run_epoch(self, order: np.ndarray, k: int, rate: float, momentum: float) -> EpochResult:
        """Train on the examples in ``order`` (shape: [examples]) once, keeping ``k`` units."""
