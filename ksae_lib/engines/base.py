"""What every engine is: epochs of the paper's training, of one model or of several at once."""

from abc import ABC, abstractmethod
from collections.abc import Container, Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ksae_lib.model import KSparseAutoencoder
from ksae_lib.selection import K_LARGEST


class EpochResult(NamedTuple):
    """What one epoch of one model reports."""

    loss: float
    """E averaged over the epoch's examples, each measured just before its batch's update."""
    uses: np.ndarray
    """How often each unit's code was not zero (shape: [units])."""
    finite: bool = True
    """Whether all parameters are finite after the epoch."""


class Engine(ABC):
    """Trains models by SGD with momentum as printed: v ← m v − η ∇E, θ ← θ + v (section 4.2.2).

    Args:
        models: to be trained; float32, or float64 for gradient tests. Between epochs their parameters are in
            ``parameters`` and reach the models with ``write_back``.
        x: examples (shape: [examples, inputs]) of the models' dtype; may be memory-mapped.
        batch_size: examples per update; a last, smaller batch is averaged over its own size.

    Attributes:
        parameters, velocity: by name, everything that an epoch changes.

    Raises:
        ValueError: several models, and the engine trains one at a time.
    """

    name: ClassVar[str]
    rules: ClassVar[Container[str]] = K_LARGEST
    """The selection rules the engine knows."""

    def __init__(self, models: Sequence[KSparseAutoencoder], x: np.ndarray, batch_size: int) -> None:
        if len(models) != 1:
            raise ValueError(f"The {self.name} engine trains one model at a time, not {len(models)}.")
        self.models = list(models)
        self.x = np.asarray(x)
        self.batch_size = batch_size
        self.parameters: dict[str, Tensor] = {name: p.detach() for name, p in models[0].named_parameters()}
        self.velocity: dict[str, Tensor] = {name: torch.zeros_like(p) for name, p in self.parameters.items()}

    @abstractmethod
    def run_epoch(
        self, orders: np.ndarray, ks: Sequence[int], rates: Sequence[float], momentum: float
    ) -> list[EpochResult]:
        """Train on every example once.

        Args:
            orders: of the examples, one row a model (shape: [models, examples]).
            ks: units each model keeps.
            rates: learning rate of each model.
            momentum: of all models.

        Returns:
            What each model reports.
        """

    def state(self) -> dict[str, Tensor]:
        """Parameters and velocities, for checkpoints."""
        return self.parameters | {f"velocity.{name}": value for name, value in self.velocity.items()}

    def write_back(self) -> None:  # noqa: B027 - most engines train the models' own parameters
        """Bring the parameters to the models; here they are there already."""

    def _finite(self) -> bool:
        return all(bool(p.isfinite().all()) for p in self.parameters.values())
