"""ReLU, dropout and denoising autoencoders: one module, two dropout rates (Hinton et al. 2012; Vincent et al. 2008)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from replication.methods.base import Baseline, Device, SGDConfig, check_examples, check_share, descend, run_epochs
from replication.methods.layer import drop

Visible = Literal["linear", "sigmoid"]


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig(SGDConfig):
    """``h = max(0, Wᵀx + b)``, ``x̂ = Wh + b′``, tied weights.

    The paper's rows: ReLU autoencoder (no dropout), dropout (50% of the hidden units), denoising (20% of the inputs),
    dropout + denoising (both).
    """

    method: str = "autoencoder"
    hidden_dropout: float = 0.0
    """Share of hidden units left out of each training example."""
    input_dropout: float = 0.0
    """Share of inputs set to zero in each training example; the clean example is to be reconstructed."""
    visible: Visible = "linear"
    """``linear``: squared error, as the k-sparse autoencoder's E; ``sigmoid``: cross-entropy, for inputs in [0, 1]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("hidden_dropout", self.hidden_dropout)
        check_share("input_dropout", self.input_dropout)
        if self.visible not in ("linear", "sigmoid"):
            raise ValueError(f"visible = {self.visible!r} is unknown: choose linear or sigmoid.")

    @property
    def label(self) -> str:
        """Short name for run ids: what is dropped, and the length of training."""
        parts = (("dropout", self.hidden_dropout), ("denoising", self.input_dropout))
        return "-".join([name for name, rate in parts if rate] or ["relu"]) + f"-e{self.epochs}"

    def build(self, inputs: int) -> Autoencoder:
        """Untrained autoencoder, weights from the config's seed."""
        return Autoencoder(inputs, self)

    def fit(
        self, x: np.ndarray, held_out: np.ndarray | None = None, progress: bool | None = None, device: Device = "cpu"
    ) -> tuple[Autoencoder, pd.DataFrame]:
        """Minimize the reconstruction error; see ``BaselineConfig.fit``."""
        check_examples(x)
        model = self.build(x.shape[1]).to(device)
        noise = self.noise(device)
        step = descend(model, self, lambda x: model.loss(x, noise))
        history = run_epochs(x, self, step, progress=progress, device=device)
        return model.cpu(), history


class Autoencoder(Baseline):
    """A tied-weights ReLU autoencoder with dropout on its inputs and hidden units while it trains.

    Args:
        inputs: number of input dimensions.
        config: its sizes and rates.
    """

    def __init__(self, inputs: int, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(
            torch.empty(config.units, inputs).normal_(0, config.weight_std, generator=config.generator())
        )
        self.bias = nn.Parameter(torch.zeros(config.units))
        self.visible_bias = nn.Parameter(torch.zeros(inputs))

    def hidden(self, x: Tensor) -> Tensor:
        """``h = max(0, Wᵀx + b)`` (shape: [batch, units])."""
        return torch.relu(x @ self.weight.T + self.bias)

    def loss(self, x: Tensor, noise: torch.Generator) -> Tensor:
        """Reconstruction error under dropout, summed over dimensions, averaged over the batch (scalar).

        Kept entries are scaled by 1 / (1 − rate), so that clean inputs and all units can be used at test time.
        """
        c = self.config
        h = drop(self.hidden(drop(x, c.input_dropout, noise)), c.hidden_dropout, noise)
        out = h @ self.weight + self.visible_bias
        if c.visible == "sigmoid":
            return binary_cross_entropy_with_logits(out, x, reduction="sum") / len(x)
        return ((x - out) ** 2).sum(-1).mean()

    def encode(self, x: Tensor) -> Tensor:
        """All hidden activities of the clean input (section 4.4)."""
        return self.hidden(x)
