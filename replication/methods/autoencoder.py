"""ReLU, dropout and denoising autoencoders: two dropout rates (Hinton et al. 2012; Vincent et al. 2008)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Generator, Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from replication.methods.base import SHARE, setting
from replication.methods.layer import Unit
from replication.methods.sgd import SGDBaseline


@dataclass(frozen=True, kw_only=True)
class Autoencoder(SGDBaseline):
    """``h = max(0, Wᵀx + b)``, ``x̂ = Wh + b′``, tied weights.

    The paper's rows: ReLU autoencoder (no dropout), dropout (50% of the hidden units), denoising (20% of the inputs),
    dropout + denoising (both).
    """

    unit: ClassVar[Unit] = "relu"

    method: str = "autoencoder"
    hidden_dropout: float = setting(0.0, SHARE)
    """Share of hidden units left out of each training example."""
    input_dropout: float = setting(0.0, SHARE)
    """Share of inputs set to zero in each training example; the clean example is to be reconstructed."""
    visible: Literal["linear", "sigmoid"] = "linear"
    """``linear``: squared error, as the k-sparse autoencoder's E; ``sigmoid``: cross-entropy, for inputs in [0, 1]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.visible not in ("linear", "sigmoid"):
            raise ValueError(f"visible = {self.visible!r} is unknown: choose linear or sigmoid.")

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
