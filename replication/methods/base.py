"""What every baseline is: a module fitted without labels that codes images for a later task."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ksae_lib import schedule
from ksae_lib.model import KSparseAutoencoder
from ksae_lib.training import DivergenceError

Device: TypeAlias = torch.device | str
_CHUNK = 5_000


class Baseline(nn.Module, ABC):
    """A feature learner of Table 1 that is not the k-sparse autoencoder."""

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """Codes of clean examples at test time (shapes: [batch, inputs] → [batch, units])."""


@dataclass(frozen=True, kw_only=True)
class BaselineConfig(ABC):
    """Everything that decides a baseline's run.

    Raises:
        ValueError: an impossible value, in one sentence.
    """

    uses_seed: ClassVar[bool] = True
    """Whether another seed gives another result."""

    method: str
    units: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        _at_least_one("units", self.units)
        if self.seed < 0:
            raise ValueError(f"seed = {self.seed} is not possible: choose a whole number from 0.")

    @property
    def label(self) -> str:
        """Short name for run ids."""
        return self.method.replace("_", "-")

    @abstractmethod
    def build(self, inputs: int) -> Baseline | KSparseAutoencoder:
        """The module before training, or to load weights into."""

    @abstractmethod
    def fit(
        self, x: np.ndarray, held_out: np.ndarray | None = None, progress: bool | None = None, device: Device = "cpu"
    ) -> tuple[Baseline | KSparseAutoencoder, pd.DataFrame]:
        """Train on examples (shape: [examples, inputs]).

        Args:
            x: float32, finite.
            held_out: examples to watch, never trained on.
            progress: show a bar; None: only on a terminal.
            device: where it is trained; the random numbers of training are that device's.

        Returns:
            The trained module, on the processor, and its history, one row an epoch.

        Raises:
            DivergenceError: the loss stopped being finite.
            ValueError: no examples, not one row for each, or NaN.
        """


@dataclass(frozen=True, kw_only=True)
class SGDConfig(BaselineConfig):
    """A baseline trained by SGD with momentum, ``v ← m v − η ∇E``, as the k-sparse autoencoder is (section 4.2.2)."""

    epochs: int = 20
    batch_size: int = 100
    learning_rate: float = 0.01
    learning_rate_end: float | None = None
    """Reached linearly in the last epoch; None: constant."""
    momentum: float = 0.9
    weight_std: float = 0.01
    """Standard deviation of the Gaussian weights at the start."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("epochs", "batch_size"):
            _at_least_one(name, getattr(self, name))
        for name in ("learning_rate", "learning_rate_end", "weight_std"):
            check_positive(name, getattr(self, name))
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum = {self.momentum} is not possible: choose a number from 0 to below 1.")

    @property
    def label(self) -> str:
        """Short name for run ids, with the length of training."""
        return f"{super().label}-e{self.epochs}"

    def generator(self) -> torch.Generator:
        """Source of the weights at the start."""
        return torch.Generator().manual_seed(self.seed)

    def noise(self, device: Device) -> torch.Generator:
        """Source of the random numbers of training."""
        return torch.Generator(device).manual_seed(self.seed + 1)


def run_epochs(
    x: np.ndarray,
    config: SGDConfig,
    step: Callable[[Tensor, float], Tensor],
    measure: Callable[[], dict[str, float]] = dict,
    progress: bool | None = None,
    device: Device = "cpu",
) -> pd.DataFrame:
    """Pass over the examples in an order that seed and epoch decide, the k-sparse engines' own order.

    Args:
        x: examples (shape: [examples, inputs]).
        config: the run.
        step: updates on one batch (shape: [batch, inputs]) at a learning rate and returns its mean loss (scalar).
        measure: more columns for the history, called after each epoch.
        progress: show a bar; None: only on a terminal.
        device: where the batches are.

    Returns:
        One row an epoch: epoch, learning_rate, loss, seconds and what ``measure`` gives.

    Raises:
        DivergenceError: the loss stopped being finite.
    """
    examples = torch.from_numpy(np.ascontiguousarray(x, np.float32)).to(device)
    rows: list[dict[str, Any]] = []
    with tqdm(total=config.epochs, unit="epoch", disable=None if progress is None else not progress) as bar:
        for epoch in range(config.epochs):
            started = time.perf_counter()
            rate = schedule.linear_by_epoch(epoch, config.epochs, config.learning_rate, config.learning_rate_end)
            order = torch.from_numpy(schedule.order_of(config.seed, epoch, len(x))).to(device)
            # Added up on the device: a step waits for nothing.
            total = torch.zeros((), dtype=torch.float64, device=device)
            for rows_ in order.split(config.batch_size):
                total += step(examples[rows_], rate).double() * len(rows_)
            loss = float(total) / len(x)
            if not math.isfinite(loss):
                raise DivergenceError(
                    f"{config.method} diverged: its loss became {loss} in epoch {epoch} (counted from 0) at learning "
                    f"rate {rate:g}. Lower the learning rate."
                )
            rows.append(
                {"epoch": epoch, "learning_rate": rate, "loss": loss, **measure()}
                | {"seconds": time.perf_counter() - started}
            )
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update()
    return pd.DataFrame(rows)


def descend(
    module: nn.Module, config: SGDConfig, loss: Callable[[Tensor], Tensor]
) -> Callable[[Tensor, float], Tensor]:
    """A step for ``run_epochs``: autograd of ``loss`` and the printed momentum update on every parameter."""
    parameters = list(module.parameters())
    velocities = [torch.zeros_like(p) for p in parameters]

    def step(x: Tensor, rate: float) -> Tensor:
        value = loss(x)
        gradients = torch.autograd.grad(value, parameters)
        with torch.no_grad():
            for parameter, velocity, gradient in zip(parameters, velocities, gradients, strict=True):
                velocity.mul_(config.momentum).sub_(gradient, alpha=rate)
                parameter.add_(velocity)
        return value.detach()

    return step


@torch.no_grad()
def encode_all(module: Baseline, x: np.ndarray) -> np.ndarray:
    """Codes of many examples, block by block (shape: [examples, units], float32)."""
    return np.concatenate([module.encode(block).numpy() for block in blocks(x)])


def blocks(x: np.ndarray) -> Iterator[Tensor]:
    """Examples in blocks that fit into memory beside their codes."""
    for start in range(0, len(x), _CHUNK):
        yield torch.from_numpy(np.array(x[start : start + _CHUNK], np.float32))


def check_examples(x: np.ndarray) -> None:
    """Refuse examples that cannot be trained on.

    Raises:
        ValueError: no examples, not one row for each, or NaN.
    """
    if x.ndim != 2 or len(x) == 0:
        raise ValueError(f"Examples have shape {x.shape}: there are no examples, or not one row for each.")
    if not np.isfinite(x).all():
        raise ValueError("Examples hold NaN or infinite values: remove or replace them first.")


def check_share(name: str, value: float) -> None:
    """Refuse what is not a share below one.

    Raises:
        ValueError: in one sentence.
    """
    if not 0 <= value < 1:
        raise ValueError(f"{name} = {value} is not possible: choose a number from 0 to below 1.")


def check_positive(name: str, value: float | None) -> None:
    """Refuse what is neither a positive number nor None.

    Raises:
        ValueError: in one sentence.
    """
    if value is not None and not 0 < value < math.inf:
        raise ValueError(f"{name} = {value} is not possible: it must be a positive number.")


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} = {value} is not possible: it must be at least 1.")
