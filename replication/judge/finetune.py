"""Discriminative nets that start from encoders and are fine-tuned (paper, sections 4.2.2, 4.5 and 4.6)."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ksae_lib import schedule
from ksae_lib.engines.gpu import choose_largest
from ksae_lib.loop import DivergenceError, Row, run_epochs
from replication.methods import base
from replication.methods.base import AT_LEAST_ONE, POSITIVE, SHARE, setting
from replication.methods.layer import Layer

_BLOCK = 5_000
# On a processor, one net after the other repeats to the bit what stored runs did.
_AT_ONCE_ON = ("cuda",)


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(base.Checked):
    """Everything that decides a fine-tuning run; the defaults are the paper's for MNIST (section 4.2.2).

    Raises:
        ValueError: an impossible value, in one sentence.
    """

    epochs: int = setting(200, AT_LEAST_ONE)
    """In all; layer-wise fine-tuning divides them among its stages."""
    batch_size: int = setting(100, AT_LEAST_ONE)
    learning_rate: float = setting(1.0, POSITIVE)
    learning_rate_end: float | None = setting(0.001, POSITIVE)
    """Reached linearly in the last epoch of a stage; None: constant."""
    momentum: float = setting(0.25, SHARE)
    momentum_end: float | None = setting(None, SHARE)
    """The paper says what momentum starts at, not where it ends; None: constant."""
    alpha: float = setting(3.0, base.ALPHA)
    """k-sparse layers keep the αk largest."""
    layerwise: bool = True
    """Deep nets in three stages (section 4.6); False: all layers at once."""
    frozen: bool = False
    """Train the softmax layer alone: a readout by the rule of section 4.2.2."""
    max_norm: float | None = setting(None, POSITIVE)
    """Largest norm of the weights into a hidden unit after a step (Hinton et al. 2012); None: no limit."""
    units: int = setting(1000, AT_LEAST_ONE)
    weight_std: float = setting(0.01, POSITIVE)
    """Of a net without pre-training: its hidden units, and the standard deviation of their Gaussian weights."""
    seed: int = setting(0, base.WHOLE)


class DiscriminativeNet(nn.Module):
    """Hidden layers, from the input upwards, and a softmax layer of so many classes that starts at zero."""

    def __init__(self, layers: Sequence[Layer], classes: int) -> None:
        super().__init__()
        self.layers: Any = nn.ModuleList(layers)
        self.softmax: Any = nn.Linear(layers[-1].weight.shape[0], classes, dtype=layers[-1].weight.dtype)
        nn.init.zeros_(self.softmax.weight)
        nn.init.zeros_(self.softmax.bias)

    def forward(self, x: Tensor, noise: torch.Generator | None = None, fixed: int = 0) -> Tensor:
        """Logits (shapes: [batch, inputs] → [batch, classes]).

        With ``noise``, as in training: then all but the ``fixed`` lowest layers have dropout.
        """
        for number, layer in enumerate(self.layers):
            x = layer(x, noise if number >= fixed else None)
        return self.softmax(x)

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


def finetune(
    nets: Sequence[DiscriminativeNet],
    x: np.ndarray,
    y: np.ndarray,
    configs: Sequence[FinetuneConfig],
    held_out: tuple[np.ndarray, np.ndarray],
    *,
    tested: tuple[np.ndarray, np.ndarray] | None = None,
    device: base.Device = "auto",
    progress: bool | None = None,
) -> list[pd.DataFrame | DivergenceError]:
    """Minimize each net's cross-entropy, in place, on its own order of the examples (sections 4.2.2, 4.5, 4.6).

    Args:
        nets: from ``new_net``, on the processor. On a GPU all are trained at once, else one after the other.
        x: examples (shape: [examples, inputs]), float32, finite.
        y: classes from 0 (shape: [examples]).
        configs: the run of each net.
        held_out: examples and classes to watch, never trained on.
        tested: further ones, which the history has an error of, and which decide nothing.
        device: where. Nets that are trained at once share one stream of dropout noise.
        progress: show a bar; None: only on a terminal.

    Returns:
        For each net one row an epoch: epoch, fixed_layers, learning_rate, momentum, loss, validation_error in percent,
        test_error where it is ``tested``, seconds (an epoch's divided by the nets trained at once); or the error it
        diverged with.

    Raises:
        ValueError: examples, classes or a device that cannot be used, or nets that cannot be trained at once: they may
            differ in seed, weights and number of kept units.
    """
    base.check_examples(x)
    base.check_classes(y, len(x), len(nets[0].softmax.bias))
    where, runs, config = base.torch_device(device), len(nets), configs[0]
    if runs > 1 and where.type not in _AT_ONCE_ON:
        pairs = zip(nets, configs, strict=True)
        how: dict[str, Any] = {"tested": tested, "device": device, "progress": progress}
        return [finetune([n], x, y, [c], held_out, **how)[0] for n, c in pairs]
    if len(kinds := {_kind(*one) for one in zip(nets, configs, strict=True)}) != 1:
        raise ValueError(f"Nets to be fine-tuned at once must be alike, these are of {len(kinds)} kinds.")
    # A net alone keeps its two-dimensional products: in a stack of one they are rounded otherwise.
    together = nets[0] if runs == 1 and where.type == "cpu" else _stacked(nets, where)
    parameters = list[Tensor](together.parameters())
    velocity = [torch.zeros_like(p) for p in parameters]
    own = [p.detach().view(runs, *one.shape) for p, one in zip(parameters, nets[0].parameters(), strict=True)]
    noise = torch.Generator(where).manual_seed(config.seed + 1)
    examples, classes = (torch.from_numpy(part).to(where) for part in (x, y))
    watched = {"validation": held_out} | ({"test": tested} if tested else {})
    on_device = {name: [torch.from_numpy(part).to(where) for part in pair] for name, pair in watched.items()}
    plan = [(fixed, n, epochs) for fixed, epochs in stages(len(together.layers), config) for n in range(epochs)]

    def epoch(number: int) -> list[Row]:
        fixed, of_stage, epochs = plan[number]
        if of_stage == 0:
            torch._foreach_zero_(velocity)
        rate = schedule.linear_by_epoch(of_stage, epochs, config.learning_rate, config.learning_rate_end)
        momentum = schedule.linear_by_epoch(of_stage, epochs, config.momentum, config.momentum_end)
        orders = np.stack([schedule.order_of(one.seed, number, len(x)) for one in configs])
        trained, speed = parameters[2 * fixed :], velocity[2 * fixed :]
        total = torch.zeros(runs, dtype=torch.float64, device=where)
        for rows in torch.from_numpy(orders).to(where).split(config.batch_size, 1):
            losses = _cross_entropies(together(examples[rows], noise, fixed), classes[rows])
            gradients = torch.autograd.grad(losses.sum(), trained)
            with torch.no_grad():
                torch._foreach_mul_(speed, momentum)
                torch._foreach_add_(speed, gradients, alpha=-rate)
                torch._foreach_add_(trained, speed)
                for layer in together.layers[fixed:] if config.max_norm else ():
                    norms = layer.weight.norm(dim=-1, keepdim=True)
                    layer.weight.mul_((config.max_norm / norms).clamp_(max=1))
            total += losses.detach().double() * rows.shape[1]
        row = {"epoch": number, "fixed_layers": fixed, "learning_rate": rate, "momentum": momentum}
        measured = {"loss": total.cpu() / len(x)}
        for name, (images, labels) in on_device.items():
            wrong = together.is_wrong(images, labels).view(runs, -1).sum(1)
            measured[f"{name}_error"] = 100 * wrong.double().cpu() / len(labels)
        return [{**row, **{name: float(value[run]) for name, value in measured.items()}} for run in range(runs)]

    def is_finite(run: int) -> bool:
        return all(bool(p[run].isfinite().all()) for p in own)

    with base.few_threads(len(x)):
        histories = run_epochs("Fine-tuning", len(plan), epoch, is_finite=is_finite, progress=progress)
    for run, net in enumerate(nets):
        for parameter, value in zip(net.parameters(), own, strict=True):
            parameter.data.copy_(value[run])
    return [one if isinstance(one, DivergenceError) else pd.DataFrame(one) for one in histories]


def stages(layers: int, config: FinetuneConfig) -> list[tuple[int, int]]:
    """Number of fixed layers and epochs of each stage (section 4.6).

    Deep and layer-wise: softmax alone, then each layer from the top down joins; a stage has an equal part of the
    epochs, the last one also the remainder. Otherwise one stage, with everything or, if it is frozen, softmax alone.
    """
    if config.frozen:
        return [(layers, config.epochs)]
    number = layers + 1 if layers > 1 and config.layerwise else 1
    share = config.epochs // number
    return [*((layers - stage, share) for stage in range(number - 1)), (0, config.epochs - share * (number - 1))]


def _cross_entropies(logits: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy of each net (shape: [nets])."""
    # Torch sums the mean of one net in an order of its own, which stored histories have.
    if len(y) == 1:
        return cross_entropy(logits[0], y[0]).unsqueeze(0)
    return cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none").view(y.shape).mean(1)


def _kind(net: DiscriminativeNet, config: FinetuneConfig) -> tuple[Any, ...]:
    """What nets must have in common to be fine-tuned at once."""
    layers = ((layer.weight.shape, layer.unit, layer.kept is None, layer.dropout) for layer in net.layers)
    return replace(config, seed=0), net.softmax.weight.shape, *layers


def _stacked(nets: Sequence[DiscriminativeNet], device: torch.device) -> DiscriminativeNet:
    """Alike nets as one whose parameters are stacked (shape: [nets, …]) on a device."""
    together = copy.deepcopy(nets[0])
    together.softmax = Layer(together.softmax.weight, together.softmax.bias, "linear")
    for layer, *same in zip(*([*net.layers, net.softmax] for net in (together, *nets)), strict=True):
        for name in ("weight", "bias"):
            setattr(layer, name, nn.Parameter(torch.stack([getattr(one, name).detach() for one in same]).to(device)))
        if layer.kept is not None:
            layer.kept = torch.tensor([one.kept for one in same], device=device).view(-1, 1, 1)
            layer.select = choose_largest(device, layer.weight.dtype)
    return together
