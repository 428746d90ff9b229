"""Restricted Boltzmann machines (Hinton 2002; persistent chains: Tieleman 2008), alone and stacked (Hinton 2006)."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Generator, Tensor, nn

from replication.methods.base import AT_LEAST_ONE, NOT_NEGATIVE, POSITIVE, Device, Fitted, setting
from replication.methods.layer import Layer
from replication.methods.sgd import SGDBaseline


@dataclass(frozen=True, kw_only=True)
class RBM(SGDBaseline):
    """``E(v, h) = −vᵀWᵀh − b′ᵀv − bᵀh`` with binary v and h, trained by contrastive divergence.

    Inputs are taken as probabilities; those outside [0, 1] raise a ``ValueError``.
    """

    method: str = "rbm"
    cd_steps: int = setting(1, AT_LEAST_ONE)
    """Gibbs steps to the negative sample: CD-k."""
    persistent: bool = False
    """Go on with the chains of the last update (PCD) instead of starting them at the data."""
    weight_decay: float = setting(0.0, NOT_NEGATIVE)
    learning_rate: float = setting(0.05, POSITIVE)

    def encode(self, model: Any, x: Tensor) -> Tensor:
        """p(h = 1 | v) (shape: [batch, units])."""
        return torch.addmm(model.bias, x, model.weight.T).sigmoid_()

    def decode(self, model: Any, h: Tensor) -> Tensor:
        """p(v = 1 | h) (shape: [batch, inputs])."""
        return torch.addmm(model.visible_bias, h, model.weight).sigmoid_()

    def sample_visible(self, mean: Tensor, noise: Generator) -> Tensor:
        """Visible units given what ``decode`` gives (shape: [batch, inputs])."""
        return bernoulli(mean, noise)

    @torch.no_grad()
    def prepare(self, model: Any, x: np.ndarray) -> None:
        """Start from the log-odds of the mean example, which weights then need not learn."""
        if x.min() < 0 or x.max() > 1:
            raise ValueError("An RBM with binary units takes inputs from 0 to 1: rescale them.")
        p = torch.from_numpy(x.mean(0, dtype=np.float64)).float().clamp(0.001, 0.999)
        model.visible_bias.copy_(torch.log(p / (1 - p)))

    @torch.no_grad()
    def descend(self, model: Any, v: Tensor, rate: float, noise: Generator, velocities: dict[str, Tensor]) -> Tensor:
        """Along ⟨hvᵀ⟩ of the data − ⟨hvᵀ⟩ at the end of the chains; squared error of a one-step reconstruction."""
        h = self.encode(model, v)
        start = bernoulli(h, noise)
        reconstruction = self.decode(model, start)
        chain = start if model.chains is None else model.chains
        for _ in range(self.cd_steps):
            mean = reconstruction if chain is start else self.decode(model, chain)
            negative_v = self.sample_visible(mean, noise)
            negative_h = self.encode(model, negative_v)
            chain = bernoulli(negative_h, noise)
        if self.persistent:
            model.chains = chain
        weight = velocities["weight"].addmm_(h.T, v, alpha=rate / len(v))
        weight.addmm_(negative_h.T, negative_v, alpha=-rate / len(chain))
        if self.weight_decay:
            weight.add_(model.weight, alpha=-rate * self.weight_decay)
        velocities["bias"].add_(h.mean(0) - negative_h.mean(0), alpha=rate)
        velocities["visible_bias"].add_(v.mean(0) - negative_v.mean(0), alpha=rate)
        return ((v - reconstruction) ** 2).sum(-1).mean()


@dataclass(frozen=True, kw_only=True)
class GaussianRBM(RBM):
    """``E(v, h) = ½‖v − b′‖² − vᵀWᵀh − bᵀh``: real inputs of unit variance, binary h (Hinton 2010, section 13.2)."""

    method: str = "gaussian_rbm"
    weight_decay: float = setting(0.0002, NOT_NEGATIVE)
    learning_rate: float = setting(0.001, POSITIVE)

    def decode(self, model: Any, h: Tensor) -> Tensor:
        """E[v | h] (shape: [batch, inputs])."""
        return h @ model.weight + model.visible_bias

    def sample_visible(self, mean: Tensor, noise: Generator) -> Tensor:
        """The mean and noise of unit variance."""
        return mean + torch.randn(mean.shape, generator=noise, device=mean.device)

    @torch.no_grad()
    def prepare(self, model: Any, x: np.ndarray) -> None:
        """Start from the mean example."""
        model.visible_bias.copy_(torch.from_numpy(x.mean(0, dtype=np.float64)).float())


@dataclass(frozen=True, kw_only=True)
class DBN(RBM):
    """``layers`` machines of ``units`` hidden units, each trained on the probabilities of the one below."""

    method: str = "dbn"
    layers: int = setting(2, AT_LEAST_ONE)

    def machine(self, number: int) -> RBM:
        """One machine, counted from 0; each has a seed of its own."""
        shared = {name: value for name, value in asdict(self).items() if name not in ("method", "layers")}
        return RBM(**shared | {"seed": self.seed + 1_000 * number})

    def build(self, inputs: int) -> nn.ModuleDict:
        """Untrained machines, the lowest first."""
        sizes = [inputs] + [self.units] * (self.layers - 1)
        return nn.ModuleDict({"machines": nn.ModuleList(self.machine(i).build(n) for i, n in enumerate(sizes))})

    def fit(self, x: np.ndarray, device: Device = "auto", progress: bool | None = None) -> Fitted:
        """Train one machine after the other; the history has a column ``layer``."""
        machines, histories = nn.ModuleList(), []
        for number in range(self.layers):
            machine = self.machine(number)
            fitted, history = machine.fit(x, device, progress)
            machines.append(fitted)
            histories.append(history.assign(layer=number))
            x = np.asarray(machine.codes(fitted, x, machine.code_mode())[0])
        return nn.ModuleDict({"machines": machines}), pd.concat(histories, ignore_index=True)

    def encode(self, model: Any, x: Tensor) -> Tensor:
        """Probabilities of the top layer (shape: [batch, units])."""
        for machine in model["machines"]:
            x = super().encode(machine, x)
        return x

    def hidden_layers(self, model: Any, alpha: float = 1.0) -> list[Layer]:
        """One layer for each machine."""
        return [layer for machine in model["machines"] for layer in super(DBN, self).hidden_layers(machine)]


def bernoulli(p: Tensor, noise: Generator) -> Tensor:
    """Zeros and ones, ones with probability p."""
    return (torch.rand(p.shape, generator=noise, device=p.device) < p).to(p.dtype)
