"""A layer of a discriminative net, with the regularizer of its pre-training (paper, section 4.5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ksae_lib.selection import supp_k

Unit = Literal["linear", "relu", "sigmoid"]
ACTIVATIONS: dict[Unit, Callable[[Tensor], Tensor]] = {
    "linear": lambda z: z,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
}


class Layer(nn.Module):
    """``h = f(Wᵀx + b)`` with the regularizer of its pre-training (section 4.5).

    Weights and biases may be those of several alike layers (shapes: [layers, units, inputs], [layers, units]); each
    then has examples of its own (shape: [layers, batch, inputs]).

    Args:
        weight: one unit a row (shape: [units, inputs]); copied.
        bias: shape [units]; copied.
        unit: f.
        kept: k-sparse layers keep that many of the largest, at training and test time; None: all.
        input_dropout: share of inputs set to zero while training.
        hidden_dropout: share of units left out while training.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        unit: Unit,
        kept: int | None = None,
        input_dropout: float = 0.0,
        hidden_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone())
        self.bias = nn.Parameter(bias.detach().clone())
        self.unit = unit
        self.kept: int | Tensor | None = kept
        self.select: Callable[[Tensor, Any], Tensor] = supp_k
        self.input_dropout = input_dropout
        self.hidden_dropout = hidden_dropout

    def forward(self, x: Tensor, noise: torch.Generator | None = None) -> Tensor:
        """Activities (shape: [batch, units]); with ``noise``, as in training."""
        if noise is not None:
            x = drop(x, self.input_dropout, noise)
        z = x @ self.weight.mT + self.bias.unsqueeze(-2)
        if self.kept is not None:
            z = z * self.select(z.detach(), self.kept)
        h = ACTIVATIONS[self.unit](z)
        return h if noise is None else drop(h, self.hidden_dropout, noise)


def drop(x: Tensor, rate: float, noise: torch.Generator) -> Tensor:
    """Each entry set to zero with probability ``rate``, the others divided by 1 − rate."""
    if rate == 0:
        return x
    kept = torch.rand(x.shape, generator=noise, device=x.device) >= rate
    return x * kept / (1 - rate)
