"""Baselines of one layer of units that SGD with momentum trains, on any device torch has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Unpack

import numpy as np
import pandas as pd
import torch
from torch import Generator, Tensor, nn

from ksae_lib import schedule
from ksae_lib.loop import DivergenceError, Row, run_epochs
from replication.methods import base
from replication.methods.base import Device, Fitted, How, setting
from replication.methods.layer import Layer, Unit


class Units(Layer):
    """A layer with visible biases and, where weights are not tied, a decoder; Gaussian weights from the seed."""

    def __init__(self, inputs: int, config: SGDBaseline) -> None:
        noise = Generator().manual_seed(config.seed)

        def weights() -> Tensor:
            return torch.empty(config.units, inputs).normal_(0, config.weight_std, generator=noise)

        super().__init__(
            weights(), torch.zeros(config.units), config.unit, None, config.input_dropout, config.hidden_dropout
        )
        self.visible_bias = nn.Parameter(torch.zeros(inputs))
        if not config.tied:
            self.decoder = nn.Parameter(weights())
        self.chains: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class SGDBaseline(base.Baseline):
    """A baseline trained as the k-sparse autoencoder is (section 4.2.2): ``loss`` is minimized."""

    unit: ClassVar[Unit] = "sigmoid"
    tied: ClassVar[bool] = True
    # Fields of the methods that have them.
    hidden_dropout = 0.0
    input_dropout = 0.0

    epochs: int = setting(20, base.AT_LEAST_ONE)
    batch_size: int = setting(100, base.AT_LEAST_ONE)
    learning_rate: float = setting(0.01, base.POSITIVE)
    learning_rate_end: float | None = setting(None, base.POSITIVE)
    """Reached linearly in the last epoch; None: constant."""
    momentum: float = setting(0.9, base.SHARE)
    weight_std: float = setting(0.01, base.POSITIVE)
    """Standard deviation of the Gaussian weights at the start."""

    def build(self, inputs: int) -> Any:
        """The layer before training."""
        return Units(inputs, self)

    def encode(self, model: Any, x: Tensor) -> Tensor:
        """All activities of the clean input (section 4.4)."""
        return model(x)

    def hidden_layers(self, model: Any, alpha: float = 1.0) -> list[Layer]:
        """The layer with the dropout of its pre-training (section 4.5)."""
        return [Layer(model.weight, model.bias, model.unit, None, model.input_dropout, model.hidden_dropout)]

    def used_engine(self, device: Device) -> str:
        """``gpu`` or, on a processor, ``torch``."""
        return "gpu" if base.torch_device(device).type == "cuda" else "torch"

    def prepare(self, model: Any, x: np.ndarray) -> None:
        """Get a new model ready to be trained on examples."""

    def loss(self, model: Any, x: Tensor, noise: Generator) -> Tensor:
        """Averaged over a batch (scalar)."""
        raise NotImplementedError

    def descend(self, model: Any, x: Tensor, rate: float, noise: Generator, velocities: dict[str, Tensor]) -> Tensor:
        """Add −η∇E of a batch to the velocities of the model's parameters; the batch's loss (scalar)."""
        loss = self.loss(model, x, noise)
        gradients = torch.autograd.grad(loss, [p for _, p in model.named_parameters()])
        for velocity, gradient in zip(velocities.values(), gradients, strict=True):
            velocity.sub_(gradient, alpha=rate)
        return loss.detach()

    def measure(self, model: Any, x: Tensor, held_out: Tensor | None) -> dict[str, float]:
        """More columns of history, after each epoch."""
        return {}

    def fit(self, x: np.ndarray, held_out: np.ndarray | None = None, **how: Unpack[How]) -> Fitted:
        """Repeat ``v ← m v − η ∇E``, ``θ ← θ + v`` (section 4.2.2); see ``Method.fit``.

        Seed and epoch decide the order of the examples, as in the k-sparse engines.
        """
        base.check_examples(x)
        device = base.torch_device(how.get("device", "auto"))
        model = self.build(x.shape[1])
        self.prepare(model, x)
        model.to(device)
        noise = Generator(device).manual_seed(self.seed + 1)
        parameters = {name: p.detach() for name, p in model.named_parameters()}
        velocities = {name: torch.zeros_like(p) for name, p in parameters.items()}
        examples = torch.from_numpy(np.ascontiguousarray(x, np.float32)).to(device)
        watched = None if held_out is None else torch.from_numpy(held_out).to(device)

        def epoch(number: int) -> list[Row]:
            rate = schedule.linear_by_epoch(number, self.epochs, self.learning_rate, self.learning_rate_end)
            order = torch.from_numpy(schedule.order_of(self.seed, number, len(x))).to(device)
            # Added up on the device: a step waits for nothing.
            total = torch.zeros((), dtype=torch.float64, device=device)
            for rows in order.split(self.batch_size):
                for velocity in velocities.values():
                    velocity.mul_(self.momentum)
                loss = self.descend(model, examples[rows], rate, noise, velocities)
                for name, velocity in velocities.items():
                    parameters[name].add_(velocity)
                total += loss.double() * len(rows)
            row = {"epoch": number, "learning_rate": rate, "loss": float(total) / len(x)}
            return [row | self.measure(model, examples, watched)]

        def is_finite(run: int) -> bool:
            return all(bool(p.isfinite().all()) for p in parameters.values())

        what, progress = self.method, how.get("progress")
        (history,) = run_epochs(what, self.epochs, epoch, is_finite=is_finite, progress=progress)
        if isinstance(history, DivergenceError):
            raise history
        return model.cpu(), pd.DataFrame(history)
