"""The sparse autoencoder of the CS294A lecture notes (Ng 2011): sigmoid units pulled to a small mean activation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from replication.methods.base import Baseline, Device, SGDConfig, check_examples, descend, run_epochs


@dataclass(frozen=True, kw_only=True)
class KLSparseConfig(SGDConfig):
    """``h = σ(W₁x + b₁)``, ``x̂ = σ(W₂h + b₂)``; ½‖x − x̂‖² + λ/2 (‖W₁‖² + ‖W₂‖²) + β Σ KL(ρ‖ρ̂)."""

    method: str = "kl_sparse"
    rho: float = 0.05
    """Wanted mean activation ρ of each unit."""
    beta: float = 3.0
    """Weight of the penalty."""
    weight_decay: float = 0.0
    """The notes' λ."""
    learning_rate: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.rho < 1:
            raise ValueError(f"rho = {self.rho} is not a mean activation: choose a number between 0 and 1.")
        for name in ("beta", "weight_decay"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)} is not possible: it must not be negative.")

    def build(self, inputs: int) -> KLSparseAutoencoder:
        """Untrained autoencoder, weights from the config's seed."""
        return KLSparseAutoencoder(inputs, self)

    def fit(
        self, x: np.ndarray, held_out: np.ndarray | None = None, progress: bool | None = None, device: Device = "cpu"
    ) -> tuple[KLSparseAutoencoder, pd.DataFrame]:
        """Minimize the penalized error, ρ̂ taken over each batch; see ``BaselineConfig.fit``."""
        check_examples(x)
        model = self.build(x.shape[1]).to(device)
        history = run_epochs(x, self, descend(model, self, model.loss), progress=progress, device=device)
        return model.cpu(), history


class KLSparseAutoencoder(Baseline):
    """A sigmoid autoencoder with a Kullback-Leibler sparsity penalty, untied weights as in the notes.

    Args:
        inputs: number of input dimensions.
        config: sizes and penalties.
    """

    def __init__(self, inputs: int, config: KLSparseConfig) -> None:
        super().__init__()
        self.config = config
        random = config.generator()
        self.weight = nn.Parameter(torch.empty(config.units, inputs).normal_(0, config.weight_std, generator=random))
        self.decoder = nn.Parameter(torch.empty(config.units, inputs).normal_(0, config.weight_std, generator=random))
        self.bias = nn.Parameter(torch.zeros(config.units))
        self.visible_bias = nn.Parameter(torch.zeros(inputs))

    def loss(self, x: Tensor) -> Tensor:
        """The notes' cost of a batch (scalar)."""
        c = self.config
        h = self.encode(x)
        error = 0.5 * ((x - torch.sigmoid(h @ self.decoder + self.visible_bias)) ** 2).sum(-1).mean()
        cost = error + c.beta * kl_penalty(h.mean(0), c.rho).sum()
        if c.weight_decay:
            cost = cost + 0.5 * c.weight_decay * ((self.weight**2).sum() + (self.decoder**2).sum())
        return cost

    def encode(self, x: Tensor) -> Tensor:
        """Activities h in (0, 1) (shape: [batch, units])."""
        return torch.sigmoid(x @ self.weight.T + self.bias)


def kl_penalty(mean_activation: Tensor, rho: float) -> Tensor:
    """``KL(ρ‖ρ̂) = ρ log(ρ/ρ̂) + (1 − ρ) log((1 − ρ)/(1 − ρ̂))`` of each unit: zero at ρ̂ = ρ, infinite at 0 and 1."""
    p = mean_activation.clamp(1e-6, 1 - 1e-6)
    return rho * torch.log(rho / p) + (1 - rho) * torch.log((1 - rho) / (1 - p))
