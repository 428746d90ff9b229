"""Discriminative nets that start from encoders and are fine-tuned (paper, sections 4.2.2, 4.5 and 4.6)."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from ksae_lib import schedule
from ksae_lib.engines.cpu import mostly_zero
from ksae_lib.model import KSparseAutoencoder
from ksae_lib.training import DivergenceError
from replication.judge.sparse_net import SparseNetEngine
from replication.methods.autoencoder import Autoencoder
from replication.methods.base import Baseline, blocks, check_positive
from replication.methods.dbn import DBN
from replication.methods.kl_sparse import KLSparseAutoencoder
from replication.methods.layer import Layer
from replication.methods.rbm import RBM


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Everything that decides a fine-tuning run; the defaults are the paper's for MNIST (section 4.2.2).

    Raises:
        ValueError: an impossible value, in one sentence.
    """

    epochs: int = 200
    """In all; layer-wise fine-tuning divides them among its stages."""
    batch_size: int = 100
    learning_rate: float = 1.0
    learning_rate_end: float | None = 0.001
    """Reached linearly in the last epoch of a stage; None: constant."""
    momentum: float = 0.25
    momentum_end: float | None = None
    """The paper says what momentum starts at, not where it ends; None: constant."""
    alpha: float = 3.0
    """k-sparse layers keep the αk largest."""
    layerwise: bool = True
    """Deep nets in three stages (section 4.6); False: all layers at once."""
    units: int = 1000
    """Hidden units of a net without pre-training."""
    weight_std: float = 0.01
    """Standard deviation of the Gaussian weights of a net without pre-training."""
    engine: Literal["auto", "reference"] = "auto"
    """``auto`` trains k-sparse nets on inputs that are mostly zero by sparse kernels, all else by autograd;
    ``reference``: all by autograd."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "units"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} is not possible: it must be at least 1.")
        for name in ("learning_rate", "learning_rate_end", "weight_std"):
            check_positive(name, getattr(self, name))
        for name in ("momentum", "momentum_end"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"{name} = {value} is not possible: choose a number from 0 to below 1.")
        if not 1 <= self.alpha < math.inf:
            raise ValueError(f"alpha = {self.alpha} is not possible: the paper's α is a number, at least 1.")
        if self.engine not in ("auto", "reference"):
            raise ValueError(f"engine = {self.engine!r} is unknown: choose auto or reference.")
        if self.seed < 0:
            raise ValueError(f"seed = {self.seed} is not possible: choose a whole number from 0.")


class DiscriminativeNet(nn.Module):
    """Hidden layers and a softmax layer that starts at zero.

    Args:
        layers: from the input upwards, at least one.
        classes: number of classes.
    """

    def __init__(self, layers: Sequence[Layer], classes: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.softmax = nn.Linear(layers[-1].weight.shape[0], classes, dtype=layers[-1].weight.dtype)
        nn.init.zeros_(self.softmax.weight)
        nn.init.zeros_(self.softmax.bias)

    def forward(self, x: Tensor, noise: torch.Generator | None = None, fixed: int = 0) -> Tensor:
        """Logits (shape: [batch, classes]).

        Args:
            x: examples (shape: [batch, inputs]).
            noise: source of the dropout of training; None: as at test time.
            fixed: so many of the lowest layers are not trained; they are used as at test time, without dropout.
        """
        for number, layer in enumerate(self.layers):
            if number < fixed:
                with torch.no_grad():
                    x = layer(x)
            else:
                x = layer(x, noise)
        return self.softmax(x)

    @torch.no_grad()
    def mistakes(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Indices of the misclassified examples."""
        guesses = torch.cat([self(block).argmax(-1) for block in blocks(x)])
        return np.flatnonzero(guesses.numpy() != y)


def new_net(
    encoders: Sequence[KSparseAutoencoder | Baseline], inputs: int, classes: int, config: FinetuneConfig
) -> DiscriminativeNet:
    """The net that encoders, from the input upwards, initialize; without any, one ReLU layer of random weights.

    Raises:
        ValueError: αk > units, or an encoder that cannot be fine-tuned.
    """
    layers = [layer for encoder in encoders for layer in _layers(encoder, config)]
    if not layers:
        noise = torch.Generator().manual_seed(config.seed)
        weight = torch.empty(config.units, inputs).normal_(0, config.weight_std, generator=noise)
        layers = [Layer(weight, torch.zeros(config.units), "relu")]
    return DiscriminativeNet(layers, classes)


def _layers(encoder: KSparseAutoencoder | Baseline, config: FinetuneConfig) -> list[Layer]:
    if isinstance(encoder, KSparseAutoencoder):
        return [Layer(encoder.weight, encoder.bias, encoder.activation, encoder.alpha_k(config.alpha))]
    if isinstance(encoder, Autoencoder):
        rates = encoder.config.input_dropout, encoder.config.hidden_dropout
        return [Layer(encoder.weight, encoder.bias, "relu", None, *rates)]
    if isinstance(encoder, DBN):
        return [layer for machine in encoder.machines for layer in _layers(machine, config)]  # type: ignore[arg-type]
    if isinstance(encoder, RBM | KLSparseAutoencoder):
        return [Layer(encoder.weight, encoder.bias, "sigmoid")]
    raise ValueError(f"{type(encoder).__name__} has no units to fine-tune: choose another encoder.")


class NetEngine(Protocol):
    """Trains a net for one epoch by SGD with momentum; velocities start at zero."""

    def run_epoch(self, order: np.ndarray, rate: float, momentum: float) -> float:
        """Mean cross-entropy of the examples in ``order``, each measured just before its batch's update."""


class AutogradNetEngine:
    """The arbiter: autograd and the printed momentum update.

    Args:
        net: trained in place.
        x: examples (shape: [examples, inputs]).
        y: classes (shape: [examples]).
        batch_size: examples per update.
        fixed: so many of the lowest layers stay as they are.
        noise: source of the dropout.
    """

    def __init__(
        self, net: DiscriminativeNet, x: np.ndarray, y: np.ndarray, batch_size: int, fixed: int, noise: torch.Generator
    ) -> None:
        self.net, self.fixed, self.noise, self.batch_size = net, fixed, noise, batch_size
        self.x, self.y = torch.from_numpy(x), torch.from_numpy(y)
        trained = [*net.layers[fixed:], net.softmax]
        self.parameters = [p for part in trained for p in part.parameters()]
        self.velocities = [torch.zeros_like(p) for p in self.parameters]

    def run_epoch(self, order: np.ndarray, rate: float, momentum: float) -> float:
        """See ``NetEngine``."""
        total = 0.0
        for rows in torch.from_numpy(order).split(self.batch_size):
            loss = cross_entropy(self.net(self.x[rows], self.noise, self.fixed), self.y[rows])
            gradients = torch.autograd.grad(loss, self.parameters)
            with torch.no_grad():
                for parameter, velocity, gradient in zip(self.parameters, self.velocities, gradients, strict=True):
                    velocity.mul_(momentum).sub_(gradient, alpha=rate)
                    parameter.add_(velocity)
            total += float(loss.detach()) * len(rows)
        return total / len(order)


def make_engine(
    net: DiscriminativeNet, x: np.ndarray, y: np.ndarray, config: FinetuneConfig, fixed: int, noise: torch.Generator
) -> NetEngine:
    """The engine the config names; sparse kernels where every hidden layer is k-sparse and most inputs are zero."""
    if config.engine == "auto" and all(layer.kept is not None for layer in net.layers) and mostly_zero(x):
        return SparseNetEngine(net.layers, net.softmax, x, y, config.batch_size, fixed)
    return AutogradNetEngine(net, x, y, config.batch_size, fixed, noise)


def stages(layers: int, config: FinetuneConfig) -> Iterator[tuple[int, int]]:
    """Number of fixed layers and epochs of each stage (section 4.6).

    Deep and layer-wise: softmax alone, then each layer from the top down joins; a stage has an equal part of the
    epochs, the last one also the remainder. Otherwise one stage with everything.
    """
    number = layers + 1 if layers > 1 and config.layerwise else 1
    share = config.epochs // number
    for stage in range(number - 1):
        yield layers - stage, share
    yield 0, config.epochs - share * (number - 1)


def finetune(
    net: DiscriminativeNet,
    x: np.ndarray,
    y: np.ndarray,
    config: FinetuneConfig,
    held_out: tuple[np.ndarray, np.ndarray] | None = None,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Minimize the cross-entropy, in place (sections 4.2.2, 4.5, 4.6).

    Args:
        net: from ``new_net``.
        x: examples (shape: [examples, inputs]), float32, finite.
        y: classes from 0 (shape: [examples]).
        config: the run.
        held_out: examples and classes to watch, never trained on.
        progress: show a bar; None: only on a terminal.

    Returns:
        One row an epoch: epoch, fixed_layers, learning_rate, momentum, loss, seconds and, with ``held_out``,
        validation_error in percent.

    Raises:
        DivergenceError: the loss stopped being finite.
        ValueError: examples or classes that cannot be trained on.
    """
    refuse_unfit(net, x, y)
    noise = torch.Generator().manual_seed(config.seed + 1)
    rows: list[dict[str, Any]] = []
    with tqdm(total=config.epochs, unit="epoch", disable=None if progress is None else not progress) as bar:
        for fixed, epochs in stages(len(net.layers), config):
            engine = make_engine(net, x, y, config, fixed, noise)
            for epoch in range(epochs):
                started = time.perf_counter()
                rate = schedule.linear_by_epoch(epoch, epochs, config.learning_rate, config.learning_rate_end)
                momentum = schedule.linear_by_epoch(epoch, epochs, config.momentum, config.momentum_end)
                order = schedule.order_of(config.seed, len(rows), len(x))
                loss = engine.run_epoch(order, rate, momentum)
                if not (math.isfinite(loss) and all(bool(p.isfinite().all()) for p in net.parameters())):
                    raise DivergenceError(
                        f"Fine-tuning diverged: the loss or a weight stopped being finite (loss {loss:.3g}) in epoch "
                        f"{len(rows)} (counted from 0) at learning rate {rate:g}. Lower the learning rate."
                    )
                row = {"epoch": len(rows), "fixed_layers": fixed, "learning_rate": rate, "momentum": momentum}
                row |= {"loss": loss, "seconds": time.perf_counter() - started}
                if held_out is not None:
                    row["validation_error"] = 100 * len(net.mistakes(*held_out)) / len(held_out[1])
                rows.append(row)
                bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
                bar.update()
    return pd.DataFrame(rows)


def refuse_unfit(net: DiscriminativeNet, x: np.ndarray, y: np.ndarray) -> None:
    """Refuse what a net cannot be fine-tuned on.

    Raises:
        ValueError: examples or classes that cannot be trained on.
    """
    if x.ndim != 2 or len(x) == 0 or y.shape != (len(x),):
        raise ValueError(f"Examples have shape {x.shape} and classes {y.shape}: one row and one class for each.")
    classes = net.softmax.out_features
    if not np.issubdtype(y.dtype, np.integer) or y.min() < 0 or y.max() >= classes:
        raise ValueError(f"Classes must be whole numbers from 0 to {classes - 1}.")
    if not np.isfinite(x).all():
        raise ValueError("Examples hold NaN or infinite values: remove or replace them first.")
