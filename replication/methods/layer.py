"""A layer of a discriminative net, with the regularizer of its pre-training (paper, section 4.5)."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn

from ksae_lib.selection import supp_k

Unit = Literal["linear", "relu", "sigmoid"]


class Layer(nn.Module):
    """``h = f(Wᵀx + b)`` with the regularizer of its pre-training (section 4.5).

    Weights and biases may be those of several alike layers (shapes: [layers, units, inputs], [layers, units]); each
    then has examples of its own (shape: [layers, batch, inputs]).

    Args:
        weight: one unit a row (shape: [units, inputs]); copied.
        bias: shape [units]; copied.
        unit: f.
        kept: k-sparse layers keep that many of the largest, at training and test time; None: all.
        dropout: shares of inputs and of units left out while training.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        unit: Unit,
        kept: int | None = None,
        dropout: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone())
        self.bias = nn.Parameter(bias.detach().clone())
        self.unit = unit
        self.kept: int | Tensor | None = kept
        self.select: Callable[[Tensor, Any], Tensor] = supp_k
        self.dropout = dropout

    def forward(self, x: Tensor, noise: Generator | None = None) -> Tensor:
        """Activities (shape: [batch, units]); with ``noise``, as in training."""
        of_inputs, of_units = self.dropout if noise is not None else (0.0, 0.0)
        z = drop(x, of_inputs, noise) @ self.weight.mT + self.bias.unsqueeze(-2)
        if self.kept is not None:
            z = z * self.select(z.detach(), self.kept)
        h = z if self.unit == "linear" else getattr(torch, self.unit)(z)
        return drop(h, of_units, noise)


def drop(x: Tensor, rate: float, noise: Generator | None) -> Tensor:
    """Each entry set to zero with probability ``rate``, the others divided by 1 − rate."""
    if rate == 0:
        return x
    kept = torch.rand(x.shape, generator=noise, device=x.device) >= rate
    return x * kept / (1 - rate)
