"""The training loop every engine shares: schedules, history, checkpoints, divergence (section 4.2)."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from ksae_lib import schedule
from ksae_lib.checkpoint import CHECKPOINT_SECONDS, Checkpoint, data_digest
from ksae_lib.engines.base import Engine, EpochResult
from ksae_lib.engines.cpu import CpuEngine, SupportDtype
from ksae_lib.engines.reference import ReferenceEngine
from ksae_lib.model import Activation, BiasInit, KSparseAutoencoder
from ksae_lib.selection import check_k

EngineName = Literal["auto", "gpu", "cpu", "reference"]
# Measured on MNIST with 1000 units: from this share of kept units the reference engine is as fast as the cpu engine.
_DENSE_FROM = 0.5


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides a training run; the defaults are the paper's for MNIST (section 4.2).

    Raises:
        ValueError: an impossible value, in one sentence.
    """

    units: int = 1000
    """Hidden units."""
    k: int = 25
    """Units kept per example at the end of the schedule."""
    k_start: int | None = 100
    """Units kept in the first epoch; None, or not above k: constant k."""
    k_ramp: float = 0.5
    """Part of the epochs during which k falls."""
    epochs: int = 5000
    batch_size: int = 100
    """Not stated in the paper; 100 fits its learning rates."""
    learning_rate: float = 0.01
    learning_rate_end: float | None = None
    """Reached linearly in the last epoch; None: constant."""
    momentum: float = 0.9
    momentum_end: float | None = None
    weight_std: float = 0.01
    """The paper's σ."""
    bias_init: BiasInit = "zeros"
    """``zeros`` as printed, or ``centered``: start from centred data."""
    activation: Activation = "linear"
    engine: EngineName = "cpu"
    """``auto``: see ``choose_engine``."""
    support_dtype: SupportDtype = "float32"
    """cpu engine only: ``bfloat16`` finds the support from a bfloat16 product."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("units", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} is not possible: it must be at least 1.")
        check_k(self.k, self.units)
        if self.k_start is not None:
            check_k(self.k_start, self.units, "k_start")
        for name in ("learning_rate", "learning_rate_end", "weight_std"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} = {value} is not possible: it must be a positive number.")
        for name in ("momentum", "momentum_end"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"{name} = {value} is not possible: choose a number from 0 to below 1.")
        if not 0 <= self.k_ramp <= 1:
            raise ValueError(f"k_ramp = {self.k_ramp} is not a part of the run: choose a number from 0 to 1.")
        if self.seed < 0:
            raise ValueError(f"seed = {self.seed} is not possible: choose a whole number from 0.")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} = {getattr(self, name)!r} is unknown: choose one of {', '.join(choices)}.")


_CHOICES = {
    "bias_init": get_args(BiasInit),
    "activation": get_args(Activation),
    "engine": get_args(EngineName),
    "support_dtype": get_args(SupportDtype),
}


class DivergenceError(RuntimeError):
    """The loss stopped being finite."""


def new_model(config: TrainConfig, x: np.ndarray) -> KSparseAutoencoder:
    """Untrained model for examples ``x`` (shape: [examples, inputs]), initialized from the config's seed."""
    model = KSparseAutoencoder(x.shape[1], config.units, config.k, config.activation)
    rng = torch.Generator().manual_seed(config.seed)
    mean = torch.from_numpy(x.mean(axis=0, dtype=np.float64)).float() if config.bias_init == "centered" else None
    model.initialize(config.weight_std, rng, config.bias_init, mean)
    return model


def choose_engine(config: TrainConfig) -> tuple[EngineName, str]:
    """The engine for a run, and why: the config's, or for ``auto`` the fastest this machine has.

    Raises:
        ValueError: the config asks for a GPU and there is none.
    """
    missing = gpu_missing()
    if config.engine == "gpu" and missing is not None:
        raise ValueError(f"engine = 'gpu' is not possible: {missing}. Choose auto or cpu.")
    if config.engine != "auto":
        return config.engine, "asked for"
    if missing is None:
        return "gpu", f"this machine has a {torch.cuda.get_device_name()}"
    if config.k > _DENSE_FROM * config.units:
        return "reference", f"{missing}, and sparse kernels do not pay with k = {config.k} of {config.units} units"
    return "cpu", missing


def gpu_missing() -> str | None:
    """Why the gpu engine cannot be used here; None: it can."""
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    return None if find_spec("triton") else "Triton is not installed"


def make_engine(model: KSparseAutoencoder, x: np.ndarray, config: TrainConfig) -> Engine:
    """The engine the config names, set up for ``model`` and ``x``.

    Raises:
        ValueError: the config asks for a GPU and there is none.
    """
    name, _ = choose_engine(config)
    if name == "gpu":
        from ksae_lib.engines.gpu import GpuEngine

        return GpuEngine(model, x, config.batch_size)
    if name == "reference":
        return ReferenceEngine(model, x, config.batch_size)
    return CpuEngine(model, x, config.batch_size, config.support_dtype)


class Settings(NamedTuple):
    """What the schedules say of one epoch."""

    k: int
    rate: float
    momentum: float

    @classmethod
    def of(cls, config: TrainConfig, epoch: int) -> Settings:
        """Settings of an epoch, counted from 0 (section 4.2)."""
        return cls(
            schedule.sparsity(epoch, config.epochs, config.k, config.k_start, config.k_ramp),
            schedule.linear_by_epoch(epoch, config.epochs, config.learning_rate, config.learning_rate_end),
            schedule.linear_by_epoch(epoch, config.epochs, config.momentum, config.momentum_end),
        )

    def row(self, epoch: int, result: EpochResult, seconds: float) -> dict[str, Any]:
        """The epoch's row of the history."""
        return {
            "epoch": epoch, "k": self.k, "learning_rate": self.rate, "momentum": self.momentum, "loss": result.loss,
            "live_units": int(np.count_nonzero(result.uses)), "seconds": seconds,
        }  # fmt: skip


def train(
    x: np.ndarray,
    config: TrainConfig,
    *,
    checkpoint: Path | None = None,
    progress: bool | None = None,
    model: KSparseAutoencoder | None = None,
) -> tuple[KSparseAutoencoder, pd.DataFrame]:
    """Train a k-sparse autoencoder (sections 2.1 and 4.2).

    The order of the examples in an epoch depends on seed and epoch alone, so that a resumed run ends
    bit-equal to one that was never stopped, on the same machine.

    Args:
        x: examples (shape: [examples, inputs]), float32, finite.
        config: the run.
        checkpoint: file to resume from if it exists, and to save to every half minute and after the last epoch;
            it stays after success so that the caller can store the result first.
        progress: show a bar; None: only on a terminal.
        model: start from this model, of the config's units, k and activation, instead of a fresh one.

    Returns:
        The trained model and its history, one row an epoch: epoch, k, learning_rate, momentum, loss,
        live_units (units kept at least once in the epoch), seconds.

    Raises:
        DivergenceError: the loss became NaN or infinite; the last good checkpoint is kept.
        ValueError: wrong shape, NaN, a checkpoint of another run, or a model that is not the config's.
        TypeError: not float32.
    """
    if x.ndim != 2 or len(x) == 0:
        raise ValueError(f"Examples have shape {x.shape}: there are no examples, or not one row for each.")
    model = new_model(config, x) if model is None else model
    _check_model(model, config)
    _check_examples(model, x)
    engine = make_engine(model, x, config)
    saver = None
    if checkpoint is not None:
        state = {name: p.detach() for name, p in model.named_parameters()}
        state |= {f"velocity.{name}": v for name, v in engine.velocity.items()}
        saver = Checkpoint(checkpoint, {"config": asdict(config), "data": data_digest(x)}, state)
    rows: list[dict[str, Any]] = saver.load() if saver is not None else []
    bar = tqdm(total=config.epochs, initial=len(rows), unit="epoch", disable=None if progress is None else not progress)
    last_saved, saved_epochs = time.monotonic(), len(rows)
    try:
        for epoch in range(len(rows), config.epochs):
            started = time.perf_counter()
            now = Settings.of(config, epoch)
            result = engine.run_epoch(schedule.order_of(config.seed, epoch, len(x)), *now)
            if not (math.isfinite(result.loss) and all(bool(p.isfinite().all()) for p in model.parameters())):
                raise DivergenceError(_advice(epoch, now, result.loss, checkpoint, saved_epochs))
            rows.append(now.row(epoch, result, time.perf_counter() - started))
            bar.set_postfix(loss=f"{result.loss:.3f}", k=now.k, live=rows[-1]["live_units"], refresh=False)
            bar.update()
            if saver is not None and time.monotonic() - last_saved > CHECKPOINT_SECONDS:
                saver.save(rows)
                last_saved, saved_epochs = time.monotonic(), len(rows)
    finally:
        bar.close()
    if saver is not None and saved_epochs < len(rows):
        saver.save(rows)
    return model, pd.DataFrame(rows)


def _check_model(model: KSparseAutoencoder, config: TrainConfig) -> None:
    for name in ("units", "k", "activation"):
        has, wanted = getattr(model, name), getattr(config, name)
        if has != wanted:
            raise ValueError(f"The model has {name} = {has}, the config {wanted}: they must be the same.")


def _check_examples(model: KSparseAutoencoder, x: np.ndarray) -> None:
    step = 10_000
    for start in range(0, len(x), step):
        model.check_input(torch.from_numpy(np.array(x[start : start + step])))


def _advice(epoch: int, now: Settings, loss: float, checkpoint: Path | None, saved_epochs: int) -> str:
    kept = f" The checkpoint after {saved_epochs} epochs is kept: {checkpoint}." if checkpoint and saved_epochs else ""
    return (
        f"Training diverged: the loss or a weight stopped being finite (loss {loss:.3g}) in epoch {epoch} (counted "
        f"from 0) at learning rate {now.rate:g} with k = {now.k}. Lower the learning rate or start the schedule from a "
        "smaller k: with MNIST at the paper's settings, rate 0.03 diverges at any k, and k_start = 500 diverges at "
        f"rate 0.01.{kept}"
    )
