"""Restricted Boltzmann machines, binary and Gaussian-binary (Hinton 2002; persistent chains: Tieleman 2008)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from replication.methods.base import Baseline, Device, SGDConfig, check_examples, run_epochs


@dataclass(frozen=True, kw_only=True)
class RBMConfig(SGDConfig):
    """``E(v, h) = −vᵀWᵀh − b′ᵀv − bᵀh`` with binary v and h, trained by contrastive divergence.

    Inputs in [0, 1] are taken as probabilities.
    """

    method: str = "rbm"
    cd_steps: int = 1
    """Gibbs steps to the negative sample: CD-k."""
    persistent: bool = False
    """Go on with the chains of the last update (PCD) instead of starting them at the data."""
    weight_decay: float = 0.0
    learning_rate: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cd_steps < 1:
            raise ValueError(f"cd_steps = {self.cd_steps} is not possible: it must be at least 1.")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay = {self.weight_decay} is not possible: it must not be negative.")

    def build(self, inputs: int) -> RBM:
        """Untrained machine, weights from the config's seed."""
        return RBM(inputs, self)

    def check_inputs(self, x: np.ndarray) -> None:
        """Refuse what the visible units cannot be.

        Raises:
            ValueError: inputs outside [0, 1].
        """
        if x.min() < 0 or x.max() > 1:
            raise ValueError("An RBM with binary units takes inputs from 0 to 1: rescale them.")

    def fit(
        self, x: np.ndarray, held_out: np.ndarray | None = None, progress: bool | None = None, device: Device = "cpu"
    ) -> tuple[RBM, pd.DataFrame]:
        """Contrastive divergence; loss is the squared error of a one-step reconstruction.

        With ``held_out`` the history also has ``free_energy_gap``: their mean free energy minus that of as many
        examples trained on. A gap that grows is overfitting.

        Raises:
            ValueError: inputs outside [0, 1].
        """
        check_examples(x)
        self.check_inputs(x)
        rbm = self.build(x.shape[1])
        rbm.set_visible_bias(torch.from_numpy(x.mean(0, dtype=np.float64)).float())
        rbm.to(device)
        pair = None if held_out is None else (held_out, x[: len(held_out)])
        watched = None if pair is None else tuple(torch.from_numpy(part).to(device) for part in pair)

        def gap() -> dict[str, float]:
            if watched is None:
                return {}
            new, seen = watched
            return {"free_energy_gap": float(rbm.free_energy(new).mean() - rbm.free_energy(seen).mean())}

        history = run_epochs(x, self, _Trainer(rbm, self, device).step, gap, progress, device)
        return rbm.cpu(), history


@dataclass(frozen=True, kw_only=True)
class GaussianRBMConfig(RBMConfig):
    """``E(v, h) = ½‖v − b′‖² − vᵀWᵀh − bᵀh``: real inputs of unit variance, binary h (Hinton 2010, section 13.2)."""

    method: str = "gaussian_rbm"
    weight_decay: float = 0.0002
    learning_rate: float = 0.001

    def build(self, inputs: int) -> GaussianRBM:
        """Untrained machine, weights from the config's seed."""
        return GaussianRBM(inputs, self)

    def check_inputs(self, x: np.ndarray) -> None:
        """Any real inputs will do; those of unit variance fit the model."""


class RBM(Baseline):
    """Binary restricted Boltzmann machine.

    Args:
        inputs: number of visible units.
        config: sizes and training.
    """

    def __init__(self, inputs: int, config: RBMConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(
            torch.empty(config.units, inputs).normal_(0, config.weight_std, generator=config.generator()),
            requires_grad=False,
        )
        self.bias = nn.Parameter(torch.zeros(config.units), requires_grad=False)
        self.visible_bias = nn.Parameter(torch.zeros(inputs), requires_grad=False)

    def set_visible_bias(self, mean: Tensor) -> None:
        """Start from the log-odds of the mean example, so that the weights need not learn it."""
        p = mean.clamp(0.001, 0.999)
        self.visible_bias.copy_(torch.log(p / (1 - p)))

    def encode(self, x: Tensor) -> Tensor:
        """p(h = 1 | v) (shape: [batch, units])."""
        return torch.addmm(self.bias, x, self.weight.T).sigmoid_()

    def decode(self, h: Tensor) -> Tensor:
        """p(v = 1 | h) (shape: [batch, inputs])."""
        return torch.addmm(self.visible_bias, h, self.weight).sigmoid_()

    def sample_visible(self, mean: Tensor, random: torch.Generator) -> Tensor:
        """Visible units given what ``decode`` gives (shape: [batch, inputs])."""
        return bernoulli(mean, random)

    def free_energy(self, v: Tensor) -> Tensor:
        """``F(v) = −b′ᵀv − Σ log(1 + exp(Wv + b))``, so that p(v) ∝ exp(−F(v)) (shape: [batch])."""
        return -(v @ self.visible_bias) - nn.functional.softplus(v @ self.weight.T + self.bias).sum(-1)


class GaussianRBM(RBM):
    """Restricted Boltzmann machine with Gaussian visible and binary hidden units; see ``GaussianRBMConfig``."""

    def set_visible_bias(self, mean: Tensor) -> None:
        """Start from the mean example."""
        self.visible_bias.copy_(mean)

    def decode(self, h: Tensor) -> Tensor:
        """E[v | h] (shape: [batch, inputs])."""
        return h @ self.weight + self.visible_bias

    def sample_visible(self, mean: Tensor, random: torch.Generator) -> Tensor:
        """The mean and noise of unit variance."""
        return mean + torch.randn(mean.shape, generator=random, device=mean.device)

    def free_energy(self, v: Tensor) -> Tensor:
        """``F(v) = ½‖v − b′‖² − Σ log(1 + exp(Wv + b))`` (shape: [batch])."""
        hidden = nn.functional.softplus(v @ self.weight.T + self.bias).sum(-1)
        return 0.5 * ((v - self.visible_bias) ** 2).sum(-1) - hidden


def bernoulli(p: Tensor, random: torch.Generator) -> Tensor:
    """Zeros and ones, ones with probability p."""
    return (torch.rand(p.shape, generator=random, device=p.device) < p).to(p.dtype)


class _Trainer:
    """Contrastive divergence with momentum on one machine."""

    def __init__(self, rbm: RBM, config: RBMConfig, device: Device = "cpu") -> None:
        self.rbm = rbm
        self.config = config
        self.random = config.noise(device)
        self.velocities = [torch.zeros_like(p) for p in (rbm.weight, rbm.bias, rbm.visible_bias)]
        self.chains: Tensor | None = None

    @torch.no_grad()
    def step(self, v: Tensor, rate: float) -> Tensor:
        """One update along ⟨hvᵀ⟩ of the data − ⟨hvᵀ⟩ at the end of the chains; squared error of a reconstruction."""
        rbm, c = self.rbm, self.config
        h = rbm.encode(v)
        start = bernoulli(h, self.random)
        reconstruction = rbm.decode(start)
        chain = start if self.chains is None else self.chains
        for _ in range(c.cd_steps):
            mean = reconstruction if chain is start else rbm.decode(chain)
            negative_v = rbm.sample_visible(mean, self.random)
            negative_h = rbm.encode(negative_v)
            chain = bernoulli(negative_h, self.random)
        if c.persistent:
            self.chains = chain
        for velocity in self.velocities:
            velocity.mul_(c.momentum)
        by_weight, by_bias, by_visible_bias = self.velocities
        by_weight.addmm_(h.T, v, alpha=rate / len(v)).addmm_(negative_h.T, negative_v, alpha=-rate / len(chain))
        if c.weight_decay:
            by_weight.add_(rbm.weight, alpha=-rate * c.weight_decay)
        by_bias.add_(h.mean(0) - negative_h.mean(0), alpha=rate)
        by_visible_bias.add_(v.mean(0) - negative_v.mean(0), alpha=rate)
        for parameter, velocity in zip((rbm.weight, rbm.bias, rbm.visible_bias), self.velocities, strict=True):
            parameter.add_(velocity)
        return ((v - reconstruction) ** 2).sum(-1).mean()
