"""The arbiter: plain torch autograd, as a reader of the paper would write it."""

from collections.abc import Sequence

import numpy as np
import torch

from ksae_lib.engines.base import Engine, EpochResult
from ksae_lib.selection import RULES


class ReferenceEngine(Engine):
    """Gradients by autograd, the printed momentum update on every parameter (section 4.2.2)."""

    name = "reference"
    rules = RULES

    def run_epoch(
        self, orders: np.ndarray, ks: Sequence[int], rates: Sequence[float], momentum: float
    ) -> list[EpochResult]:
        """Train one epoch through autograd."""
        (model,), (order,), (k,), (rate,) = self.models, orders, ks, rates
        parameters = dict(model.named_parameters())
        total = torch.zeros((), dtype=torch.float64)
        uses = torch.zeros(model.units, dtype=torch.int64)
        for start in range(0, len(order), self.batch_size):
            x = torch.from_numpy(self.x[order[start : start + self.batch_size]])
            reconstruction, code = model(x, k)
            error = ((x - reconstruction) ** 2).sum(-1)
            gradients = torch.autograd.grad(error.mean(), list(parameters.values()))
            with torch.no_grad():
                for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
                    velocity = self.velocity[name]
                    velocity.mul_(momentum).sub_(gradient, alpha=rate)
                    parameter.add_(velocity)
                total += error.detach().sum().double()
                uses += (code != 0).sum(0)
        return [EpochResult(float(total) / len(order), uses.numpy(), self._finite())]
