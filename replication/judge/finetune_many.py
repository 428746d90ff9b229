"""Fine-tuning several nets at once on one device, as ``finetune`` does it one by one (sections 4.2.2, 4.5 and 4.6)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import log_softmax
from tqdm import tqdm

from ksae_lib import schedule
from ksae_lib.engines.gpu import choose_largest
from ksae_lib.many import check_alike, diverged
from ksae_lib.training import DivergenceError
from replication.judge.finetune import DiscriminativeNet, FinetuneConfig, refuse_unfit, stages
from replication.methods.layer import ACTIVATIONS, Layer, drop

ALIKE_TUNINGS = ("epochs", "batch_size", "learning_rate", "learning_rate_end", "momentum", "momentum_end", "layerwise")
_EVALUATED_AT_ONCE = 2_000


class BatchedNets:
    """Nets alike in all but weights and numbers of kept units; one forward pass serves all.

    Args:
        nets: they keep their parameters until ``write_back``.
        device: where the work is done.

    Raises:
        ValueError: nets that differ in sizes, units or dropout.
    """

    def __init__(self, nets: Sequence[DiscriminativeNet], device: torch.device | str) -> None:
        kinds = {kind_of(net) for net in nets}
        if len(kinds) != 1:
            raise ValueError(f"Nets to be fine-tuned at once must be alike, these are of {len(kinds)} kinds.")
        self.nets = list(nets)
        self.device = torch.device(device)
        self.layers: list[Layer] = [layer for layer in nets[0].layers if isinstance(layer, Layer)]
        own = [[p.detach() for p in net.parameters()] for net in nets]
        self.parameters = [torch.stack(same).to(self.device).requires_grad_() for same in zip(*own, strict=True)]
        self._kept = [
            None
            if layer.kept is None
            else torch.tensor([net.layers[number].kept for net in nets], device=self.device).view(-1, 1, 1)
            for number, layer in enumerate(self.layers)
        ]
        self._select = choose_largest(self.device, self.parameters[0].dtype)

    def forward(self, x: Tensor, noise: torch.Generator | None = None, fixed: int = 0) -> Tensor:
        """Logits (shape: [nets, batch, classes]) of examples (shape: [nets, batch, inputs]); see the net's own."""
        for number, layer in enumerate(self.layers):
            own = noise if number >= fixed else None
            with torch.set_grad_enabled(own is not None):
                weight, bias = self.parameters[2 * number : 2 * number + 2]
                x = x if own is None else drop(x, layer.input_dropout, own)
                z = torch.baddbmm(bias.unsqueeze(1), x, weight.mT)
                kept = self._kept[number]
                z = z if kept is None else z * self._select(z.detach(), kept)
                x = ACTIVATIONS[layer.unit](z)
                x = x if own is None else drop(x, layer.hidden_dropout, own)
        weight, bias = self.parameters[-2:]
        return torch.baddbmm(bias.unsqueeze(1), x, weight.mT)

    @torch.no_grad()
    def mistakes(self, x: Tensor, y: Tensor) -> Tensor:
        """How many examples each net misclassifies (shape: [nets])."""
        wrong = torch.zeros(len(self.nets), dtype=torch.int64, device=self.device)
        for block, classes in zip(x.split(_EVALUATED_AT_ONCE), y.split(_EVALUATED_AT_ONCE), strict=True):
            wrong += (self.forward(block.expand(len(self.nets), -1, -1)).argmax(-1) != classes).sum(1)
        return wrong

    def write_back(self) -> None:
        """Copy the parameters to the nets."""
        for number, value in enumerate(self.parameters):
            for net, own in zip(self.nets, value.detach().cpu(), strict=True):
                list(net.parameters())[number].data.copy_(own)


def finetune_many(
    nets: Sequence[DiscriminativeNet],
    x: np.ndarray,
    y: np.ndarray,
    configs: Sequence[FinetuneConfig],
    held_out: tuple[np.ndarray, np.ndarray],
    device: torch.device | str = "cuda",
    progress: bool | None = None,
) -> list[pd.DataFrame | DivergenceError]:
    """Minimize each net's cross-entropy, in place, on its own order of the examples.

    Args:
        nets: from ``new_net``, alike in sizes, units and dropout.
        x: examples (shape: [examples, inputs]), float32, finite.
        y: classes from 0 (shape: [examples]).
        configs: the runs; they may differ in seed, α and start.
        held_out: examples and classes to watch, never trained on.
        device: where the work is done; the noise of dropout is that device's, one stream for all nets.
        progress: show a bar; None: only on a terminal.

    Returns:
        For each net its history as ``finetune`` returns it, or the error it diverged with. Seconds are an epoch's
        divided by the number of nets.

    Raises:
        ValueError: nets or runs that differ in more than they may, or examples that cannot be trained on.
    """
    check_alike(configs, ALIKE_TUNINGS)
    refuse_unfit(nets[0], x, y)
    config, together = configs[0], BatchedNets(nets, device)
    examples, classes = (torch.from_numpy(part).to(device) for part in (x, y))
    watched = [torch.from_numpy(part).to(device) for part in held_out]
    noise = torch.Generator(device).manual_seed(config.seed + 1)
    rows: list[list[dict[str, Any]]] = []
    with tqdm(total=config.epochs, unit="epoch", disable=None if progress is None else not progress) as bar:
        for fixed, epochs in stages(len(together.layers), config):
            trained = together.parameters[2 * fixed :]
            velocities = [torch.zeros_like(p) for p in trained]
            for epoch in range(epochs):
                started = time.perf_counter()
                rate = schedule.linear_by_epoch(epoch, epochs, config.learning_rate, config.learning_rate_end)
                momentum = schedule.linear_by_epoch(epoch, epochs, config.momentum, config.momentum_end)
                orders = np.stack([schedule.order_of(c.seed, len(rows), len(x)) for c in configs])
                total = torch.zeros(len(nets), dtype=torch.float64, device=device)
                for batch in torch.from_numpy(orders).to(device).split(config.batch_size, 1):
                    logits = together.forward(examples[batch], noise, fixed)
                    losses = -log_softmax(logits, -1).gather(-1, classes[batch].unsqueeze(-1)).mean((1, 2))
                    gradients = torch.autograd.grad(losses.sum(), trained)
                    with torch.no_grad():
                        torch._foreach_mul_(velocities, momentum)
                        torch._foreach_add_(velocities, gradients, alpha=-rate)
                        torch._foreach_add_(trained, velocities)
                    total += losses.detach().double() * batch.shape[1]
                seconds = (time.perf_counter() - started) / len(nets)
                errors = 100 * together.mistakes(*watched).double() / len(watched[1])
                shared = {"epoch": len(rows), "fixed_layers": fixed, "learning_rate": rate, "momentum": momentum}
                rows.append(
                    [
                        {**shared, "loss": loss, "seconds": seconds, "validation_error": error}
                        for loss, error in zip((total / len(x)).tolist(), errors.tolist(), strict=True)
                    ]
                )
                bar.update()
    together.write_back()
    outcomes: list[pd.DataFrame | DivergenceError] = []
    for number, net in enumerate(nets):
        history = [of_epoch[number] for of_epoch in rows]
        error = diverged("Fine-tuning", history, net.parameters())
        outcomes.append(pd.DataFrame(history) if error is None else error)
    return outcomes


def kind_of(net: DiscriminativeNet) -> tuple[Any, ...]:
    """What nets have in common that can be fine-tuned at once."""
    parts = [
        (tuple(layer.weight.shape), layer.unit, layer.kept is None, layer.input_dropout, layer.hidden_dropout)
        for layer in net.layers
        if isinstance(layer, Layer)
    ]
    return (*parts, net.softmax.out_features, net.softmax.weight.dtype)
