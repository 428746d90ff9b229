"""Autoencoders of the literature: dropout and denoising (Hinton et al. 2012; Vincent et al. 2008), KL (Ng 2011)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from replication.methods.base import INSIDE, NOT_NEGATIVE, POSITIVE, SHARE, setting
from replication.methods.layer import Unit
from replication.methods.sgd import SGDBaseline


@dataclass(frozen=True, kw_only=True)
class Autoencoder(SGDBaseline):
    """``h = max(0, Wᵀx + b)``, ``x̂ = Wh + b′``, tied weights.

    The paper's rows drop 50% of the units (dropout), 20% of the inputs (denoising), or both; nothing: a ReLU one.
    """

    unit: ClassVar[Unit] = "relu"
    method: str = "autoencoder"
    hidden_dropout: float = setting(0.0, SHARE)
    """Share of hidden units left out of each training example."""
    input_dropout: float = setting(0.0, SHARE)
    """Share of inputs set to zero in each training example; the clean example is to be reconstructed."""
    visible: str = setting("linear", (lambda value: value in ("linear", "sigmoid"), "choose linear or sigmoid"))
    """``linear``: squared error, as the k-sparse autoencoder's E; ``sigmoid``: cross-entropy, for inputs in [0, 1]."""

    @property
    def label(self) -> str:
        """Readable part of run ids: what is dropped, and the length of training."""
        parts = (("dropout", self.hidden_dropout), ("denoising", self.input_dropout))
        return "-".join([name for name, rate in parts if rate] or ["relu"]) + f"-e{self.epochs}"

    def loss(self, model: Any, x: Tensor, noise: Generator) -> Tensor:
        """Reconstruction error under dropout, summed over dimensions, averaged over the batch (scalar).

        Kept entries are scaled by 1 / (1 − rate), so that clean inputs and all units can be used at test time.
        """
        out = model(x, noise) @ model.weight + model.visible_bias
        if self.visible == "sigmoid":
            return binary_cross_entropy_with_logits(out, x, reduction="sum") / len(x)
        return ((x - out) ** 2).sum(-1).mean()


@dataclass(frozen=True, kw_only=True)
class KLSparse(SGDBaseline):
    """The CS294A lecture notes' autoencoder, whose sigmoid units are pulled to a small mean activation.

    ``h = σ(W₁x + b₁)``, ``x̂ = σ(W₂h + b₂)``; ½‖x − x̂‖² + λ/2 (‖W₁‖² + ‖W₂‖²) + β Σ KL(ρ‖ρ̂).
    """

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
