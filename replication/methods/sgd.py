"""Baselines of one layer of units that SGD with momentum trains, on any device torch has."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Generator, Tensor, nn

from ksae_lib import schedule
from ksae_lib.loop import DivergenceError, Row, run_epochs
from replication.methods import base
from replication.methods.base import Device, Fitted, setting
from replication.methods.layer import Layer, Unit


@dataclass(frozen=True, kw_only=True)
class SGDBaseline(base.Baseline):
    """A baseline trained as the k-sparse autoencoder is (section 4.2.2): ``loss`` is minimized."""

    unit: ClassVar[Unit] = "sigmoid"
    tied: ClassVar[bool] = True
    # Fields of the methods that have them.
    input_dropout = hidden_dropout = 0.0

    epochs: int = setting(20, base.AT_LEAST_ONE)
    batch_size: int = setting(100, base.AT_LEAST_ONE)
    learning_rate: float = setting(0.01, base.POSITIVE)
    learning_rate_end: float | None = setting(None, base.POSITIVE)
    """Reached linearly in the last epoch; None: constant."""
    momentum: float = setting(0.9, base.SHARE)
    weight_std: float = setting(0.01, base.POSITIVE)
    """Standard deviation of the Gaussian weights at the start."""

    def build(self, inputs: int) -> Any:
        """The layer before training, with visible biases and, where weights are not tied, a decoder."""
        noise = Generator().manual_seed(self.seed)
        weight = torch.empty(self.units, inputs).normal_(0, self.weight_std, generator=noise)
        layer: Any = Layer(weight, torch.zeros(self.units), self.unit, None, (self.input_dropout, self.hidden_dropout))
        layer.visible_bias = nn.Parameter(torch.zeros(inputs))
        if not self.tied:
            layer.decoder = nn.Parameter(torch.empty_like(weight).normal_(0, self.weight_std, generator=noise))
        layer.chains = None
        return layer

    def encode(self, model: Any, x: Tensor) -> Tensor:
        """All activities of the clean input (section 4.4)."""
        return model(x)

    def hidden_layers(self, model: Any, alpha: float = 1.0) -> list[Layer]:
        """The layer with the dropout of its pre-training (section 4.5)."""
        return [Layer(model.weight, model.bias, model.unit, dropout=model.dropout)]

    def prepare(self, model: Any, x: np.ndarray) -> None:
        """Get a new model ready to be trained on examples."""

    def loss(self, model: Any, x: Tensor, noise: Generator) -> Tensor:
        """Averaged over a batch (scalar)."""
        raise NotImplementedError

    def descend(self, model: Any, x: Tensor, rate: float, noise: Generator, velocities: dict[str, Tensor]) -> Tensor:
        """Add −η∇E of a batch to the velocities of the model's parameters; the batch's loss (scalar)."""
        loss = self.loss(model, x, noise)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        torch._foreach_sub_(list(velocities.values()), gradients, alpha=rate)
        return loss.detach()

    def fit(self, x: np.ndarray, device: Device = "auto", progress: bool | None = None) -> Fitted:
        """Repeat ``v ← m v − η ∇E``, ``θ ← θ + v`` (section 4.2.2); see ``Method.fit``.

        Seed and epoch decide the order of the examples, as in the k-sparse engines.
        """
        base.check_examples(x)
        where = base.torch_device(device)
        model = self.build(x.shape[1])
        self.prepare(model, x)
        model.to(where)
        noise = Generator(where).manual_seed(self.seed + 1)
        parameters = [p.detach() for p in model.parameters()]
        velocities = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
        speed = list(velocities.values())
        examples = torch.from_numpy(np.ascontiguousarray(x, np.float32)).to(where)

        def epoch(number: int) -> list[Row]:
            rate = schedule.linear_by_epoch(number, self.epochs, self.learning_rate, self.learning_rate_end)
            order = torch.from_numpy(schedule.order_of(self.seed, number, len(x))).to(where)
            # Added up on the device: a step waits for nothing.
            total = torch.zeros((), dtype=torch.float64, device=where)
            for rows in order.split(self.batch_size):
                torch._foreach_mul_(speed, self.momentum)
                loss = self.descend(model, examples[rows], rate, noise, velocities)
                torch._foreach_add_(parameters, speed)
                total += loss.double() * len(rows)
            return [{"epoch": number, "learning_rate": rate, "loss": float(total) / len(x)}]

        def is_finite(run: int) -> bool:
            return all(bool(p.isfinite().all()) for p in parameters)

        (history,) = run_epochs(self.method, self.epochs, epoch, is_finite=is_finite, progress=progress)
        if isinstance(history, DivergenceError):
            raise history
        return model.cpu(), pd.DataFrame(history)
