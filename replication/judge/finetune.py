"""Discriminative nets that start from encoders and are fine-tuned (paper, sections 4.2.2, 4.5 and 4.6)."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ksae_lib import schedule
from ksae_lib.engines.cpu import mostly_zero
from ksae_lib.engines.gpu import choose_largest
from ksae_lib.loop import Checkpoint, DivergenceError, data_digest, run_epochs
from replication.judge.sparse_net import SparseNetEngine
from replication.judge.threads import few_threads
from replication.methods.base import Device, check_examples, torch_device
from replication.methods.layer import Layer

_BLOCK = 5_000
_ALIKE = ("epochs", "batch_size", "learning_rate", "learning_rate_end", "momentum", "momentum_end", "layerwise")
Engine = Literal["auto", "reference"]


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
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "units"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} is not possible: it must be at least 1.")
        for name in ("learning_rate", "learning_rate_end", "weight_std"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} = {value} is not possible: it must be a positive number.")
        for name in ("momentum", "momentum_end"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"{name} = {value} is not possible: choose a number from 0 to below 1.")
        if not 1 <= self.alpha < math.inf:
            raise ValueError(f"alpha = {self.alpha} is not possible: the paper's α is a number, at least 1.")
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
        self.layers: Any = nn.ModuleList(layers)
        self.softmax: Any = nn.Linear(layers[-1].weight.shape[0], classes, dtype=layers[-1].weight.dtype)
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
        logits: Tensor = self.softmax(x)
        return logits

    @torch.no_grad()
    def is_wrong(self, x: Tensor, y: Tensor) -> Tensor:
        """Which examples are misclassified (shape: [examples]; of stacked nets [nets, examples])."""
        stack = self.softmax.weight.shape[:-2]
        guesses = [self(block.expand(*stack, *block.shape)).argmax(-1) for block in x.split(_BLOCK)]
        return torch.cat(guesses, -1) != y

    def mistakes(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Indices of the misclassified examples."""
        return np.flatnonzero(self.is_wrong(torch.from_numpy(np.array(x, np.float32)), torch.from_numpy(y)).numpy())


def new_net(layers: Sequence[Layer], inputs: int, classes: int, config: FinetuneConfig) -> DiscriminativeNet:
    """The net of these layers, from the input upwards; of none, one ReLU layer of random weights."""
    if not layers:
        noise = torch.Generator().manual_seed(config.seed)
        weight = torch.empty(config.units, inputs).normal_(0, config.weight_std, generator=noise)
        layers = [Layer(weight, torch.zeros(config.units), "relu")]
    return DiscriminativeNet(layers, classes)


def batch_key(config: FinetuneConfig, net: DiscriminativeNet) -> tuple[Any, ...]:
    """What runs must have in common to be fine-tuned at once; α, units kept, start and seed may differ."""
    kinds = [
        (tuple(layer.weight.shape), layer.unit, layer.kept is None, layer.input_dropout, layer.hidden_dropout)
        for layer in net.layers
    ]
    softmax = tuple(net.softmax.weight.shape), net.softmax.weight.dtype
    return (*(getattr(config, name) for name in _ALIKE), *kinds, *softmax)


def finetune(
    nets: Sequence[DiscriminativeNet],
    x: np.ndarray,
    y: np.ndarray,
    configs: Sequence[FinetuneConfig],
    held_out: tuple[np.ndarray, np.ndarray] | None = None,
    *,
    device: Device = "auto",
    engine: Engine = "auto",
    checkpoint: Sequence[Path] | None = None,
    progress: bool | None = None,
) -> list[pd.DataFrame | DivergenceError]:
    """Minimize each net's cross-entropy, in place, on its own order of the examples (sections 4.2.2, 4.5, 4.6).

    On a GPU all nets are trained at once, by autograd. On a processor they are trained one after the other, by sparse
    kernels if all layers are k-sparse and most inputs zero.

    Args:
        nets: from ``new_net``.
        x: examples (shape: [examples, inputs]), float32, finite.
        y: classes from 0 (shape: [examples]).
        configs: the run of each net; on a GPU all of one ``batch_key``.
        held_out: examples and classes to watch, never trained on.
        device: where. Noise of dropout is that device's; nets that are trained at once share one stream of it.
        engine: ``reference``: all nets at once by autograd on a processor too.
        checkpoint: a file for each run, resumed from if it exists; runs that are trained at once use the first.
        progress: show a bar; None: only on a terminal.

    Returns:
        For each net one row an epoch: epoch, fixed_layers, learning_rate, momentum, loss, seconds (an epoch's divided
        by the nets trained at once) and, with ``held_out``, validation_error in percent; or the error it diverged with.

    Raises:
        ValueError: examples or classes that cannot be trained on, or nets that cannot be trained at once.
    """
    _refuse_unfit(nets[0], x, y)
    where = torch_device(device)
    if len(nets) > 1 and where.type == "cpu" and engine == "auto":
        outcomes: list[pd.DataFrame | DivergenceError] = []
        for n, (net, one) in enumerate(zip(nets, configs, strict=True)):
            path = checkpoint and checkpoint[n : n + 1]
            outcomes += finetune([net], x, y, [one], held_out, device=device, checkpoint=path, progress=progress)
        return outcomes
    if len(kinds := {batch_key(one, net) for one, net in zip(configs, nets, strict=True)}) != 1:
        raise ValueError(f"Nets to be fine-tuned at once must be alike, these are of {len(kinds)} kinds.")
    config = configs[0]
    # A net alone keeps its two-dimensional products: in a stack of one they are rounded otherwise.
    alone = len(nets) == 1 and where.type == "cpu"
    together = nets[0] if alone else _stacked(nets, where)
    parameters = [p.detach() for p in together.parameters()]
    own = [[p if alone else p[run] for p in parameters] for run in range(len(nets))]
    velocity = [torch.zeros_like(p) for p in parameters]
    noise = torch.Generator(where).manual_seed(config.seed + 1)
    trainer: SparseNetEngine | AutogradEngine
    if alone and engine == "auto" and all(layer.kept is not None for layer in together.layers) and mostly_zero(x):
        trainer = SparseNetEngine(together, velocity, x, y, config.batch_size)
    else:
        examples, classes = (torch.from_numpy(part).to(where) for part in (x, y))
        trainer = AutogradEngine(together, velocity, examples, classes, config.batch_size, noise)
    watched = None if held_out is None else [torch.from_numpy(part).to(where) for part in held_out]
    plan = [(fixed, n, epochs) for fixed, epochs in stages(len(together.layers), config) for n in range(epochs)]
    state = {f"parameter{n}": p for n, p in enumerate(parameters)} | {"noise": noise.get_state()}
    state |= {f"velocity{n}": v for n, v in enumerate(velocity)}

    def epoch(number: int) -> list[dict[str, Any]]:
        started = time.perf_counter()
        fixed, of_stage, epochs = plan[number]
        if of_stage == 0:
            torch._foreach_zero_(velocity)
        rate = schedule.linear_by_epoch(of_stage, epochs, config.learning_rate, config.learning_rate_end)
        momentum = schedule.linear_by_epoch(of_stage, epochs, config.momentum, config.momentum_end)
        orders = np.stack([schedule.order_of(one.seed, number, len(x)) for one in configs])
        noise.set_state(state["noise"])
        losses = trainer.run_epoch(orders, rate, momentum, fixed)
        state["noise"].copy_(noise.get_state())
        seconds = (time.perf_counter() - started) / len(nets)
        row = {"epoch": number, "fixed_layers": fixed, "learning_rate": rate, "momentum": momentum}
        rows = [{**row, "loss": loss, "seconds": seconds} for loss in losses]
        if watched is None:
            return rows
        wrong = together.is_wrong(*watched).view(len(nets), -1).sum(1).tolist()
        return [{**row, "validation_error": 100 * n / len(watched[1])} for row, n in zip(rows, wrong, strict=True)]

    saver = None
    if checkpoint:
        start = [data_digest(p.cpu().numpy()) for p in parameters]
        run = {"runs": [asdict(one) for one in configs], "data": data_digest(x), "start": start}
        saver = Checkpoint(checkpoint[0], run, state)
    with few_threads(len(x)):
        trained = run_epochs(
            "Fine-tuning",
            len(plan),
            epoch,
            is_finite=lambda run: all(bool(p.isfinite().all()) for p in own[run]),
            checkpoint=saver,
            progress=progress,
        )
    for net, values in zip(nets, own, strict=True):
        for parameter, value in zip(net.parameters(), values, strict=True):
            parameter.data.copy_(value)
    return [one if isinstance(one, DivergenceError) else pd.DataFrame(one) for one in trained]


def stages(layers: int, config: FinetuneConfig) -> list[tuple[int, int]]:
    """Number of fixed layers and epochs of each stage (section 4.6).

    Deep and layer-wise: softmax alone, then each layer from the top down joins; a stage has an equal part of the
    epochs, the last one also the remainder. Otherwise one stage with everything.
    """
    number = layers + 1 if layers > 1 and config.layerwise else 1
    share = config.epochs // number
    return [*((layers - stage, share) for stage in range(number - 1)), (0, config.epochs - share * (number - 1))]


@dataclass
class AutogradEngine:
    """The arbiter: autograd and the printed momentum update, for one net or for several stacked."""

    net: DiscriminativeNet
    """Trained in place; of several nets every parameter is stacked (shape: [nets, …])."""
    velocity: list[Tensor]
    """Of each parameter of the net, in their order; kept up to date."""
    x: Tensor
    """Examples (shape: [examples, inputs]), on the net's device."""
    y: Tensor
    """Classes (shape: [examples])."""
    batch_size: int
    noise: torch.Generator
    """Source of the dropout."""

    def run_epoch(self, orders: np.ndarray, rate: float, momentum: float, fixed: int) -> list[float]:
        """Train on every example once.

        Args:
            orders: of the examples, one row a net (shape: [nets, examples]).
            rate: learning rate η.
            momentum: m of ``v ← m v − η ∇E``.
            fixed: so many of the lowest layers stay as they are.

        Returns:
            Mean cross-entropy of each net, every example measured just before its batch's update.
        """
        trained = list[Tensor](self.net.parameters())[2 * fixed :]
        velocity = self.velocity[2 * fixed :]
        total = torch.zeros(len(orders), dtype=torch.float64, device=self.x.device)
        for rows in torch.from_numpy(orders).to(self.x.device).split(self.batch_size, 1):
            losses = _cross_entropies(self.net(self.x[rows], self.noise, fixed), self.y[rows])
            gradients = torch.autograd.grad(losses.sum(), trained)
            with torch.no_grad():
                torch._foreach_mul_(velocity, momentum)
                torch._foreach_add_(velocity, gradients, alpha=-rate)
                torch._foreach_add_(trained, velocity)
            total += losses.detach().double() * rows.shape[1]
        means: list[float] = (total / orders.shape[1]).tolist()
        return means


def _cross_entropies(logits: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy of each net (shape: [nets])."""
    # Torch sums the mean of one net in an order of its own, which stored histories have.
    if len(y) == 1:
        return cross_entropy(logits[0], y[0]).unsqueeze(0)
    return cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none").view(y.shape).mean(1)


def _stacked(nets: Sequence[DiscriminativeNet], device: torch.device) -> DiscriminativeNet:
    """Alike nets as one whose parameters are stacked (shape: [nets, …]) on a device."""
    together = copy.deepcopy(nets[0])
    together.softmax = Layer(together.softmax.weight, together.softmax.bias, "linear")
    for layer, *same in zip(*([*net.layers, net.softmax] for net in (together, *nets)), strict=True):
        layer.weight, layer.bias = (
            nn.Parameter(torch.stack([getattr(one, name).detach() for one in same]).to(device))
            for name in ("weight", "bias")
        )
        if layer.kept is not None:
            layer.kept = torch.tensor([one.kept for one in same], device=device).view(-1, 1, 1)
            layer.select = choose_largest(device, layer.weight.dtype)
    return together


def _refuse_unfit(net: DiscriminativeNet, x: np.ndarray, y: np.ndarray) -> None:
    check_examples(x)
    classes = net.softmax.weight.shape[0]
    if y.shape != (len(x),):
        raise ValueError(f"{len(x)} examples and classes of shape {y.shape}: there must be one class for each.")
    if not np.issubdtype(y.dtype, np.integer) or y.min() < 0 or y.max() >= classes:
        raise ValueError(f"Classes must be whole numbers from 0 to {classes - 1}.")
