"""The sparse autoencoder of the CS294A lecture notes (Ng 2011): sigmoid units pulled to a small mean activation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from replication.methods.base import INSIDE, NOT_NEGATIVE, POSITIVE, setting
from replication.methods.sgd import SGDBaseline


@dataclass(frozen=True, kw_only=True)
class KLSparse(SGDBaseline):
    """``h = σ(W₁x + b₁)``, ``x̂ = σ(W₂h + b₂)``; ½‖x − x̂‖² + λ/2 (‖W₁‖² + ‖W₂‖²) + β Σ KL(ρ‖ρ̂)."""

    tied: ClassVar[bool] = False

    method: str = "kl_sparse"
    rho: float = setting(0.05, INSIDE)
    """Wanted mean activation ρ of each unit."""
    beta: float = setting(3.0, NOT_NEGATIVE)
    """Weight of the penalty."""
    weight_decay: float = setting(0.0, NOT_NEGATIVE)
    """The notes' λ."""
    learning_rate: float = setting(0.1, POSITIVE)

    def loss(self, model: Any, x: Tensor, noise: Generator | None = None) -> Tensor:
        """The notes' cost of a batch, ρ̂ taken over the batch (scalar)."""
        h = model(x)
        error = 0.5 * ((x - torch.sigmoid(h @ model.decoder + model.visible_bias)) ** 2).sum(-1).mean()
        cost = error + self.beta * kl_penalty(h.mean(0), self.rho).sum()
        if self.weight_decay:
            cost = cost + 0.5 * self.weight_decay * ((model.weight**2).sum() + (model.decoder**2).sum())
        return cost


def kl_penalty(mean_activation: Tensor, rho: float) -> Tensor:
    """``KL(ρ‖ρ̂) = ρ log(ρ/ρ̂) + (1 − ρ) log((1 − ρ)/(1 − ρ̂))`` of each unit: zero at ρ̂ = ρ, infinite at 0 and 1."""
    p = mean_activation.clamp(1e-6, 1 - 1e-6)
    return rho * torch.log(rho / p) + (1 - rho) * torch.log((1 - rho) / (1 - p))
