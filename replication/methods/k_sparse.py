"""The k-sparse autoencoder as a method like the others, trained and untrained."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd

from ksae_lib import codes, training
from ksae_lib.loop import DivergenceError
from ksae_lib.model import CodeMode, KSparseAutoencoder
from ksae_lib.selection import check_k
from replication.methods import base
from replication.methods.base import Device, Fitted, setting
from replication.methods.layer import Layer


class TopK(base.Method):
    """A method whose module is a k-sparse autoencoder."""

    has_alpha: ClassVar[bool] = True

    def codes(self, model: Any, x: np.ndarray, mode: CodeMode, alphas: Sequence[float] = (1.0,)) -> base.Codes:
        """See ``ksae_lib.codes.codes``, to the bit what the model's own dense product gives."""
        return codes.codes(model, x, mode, alphas)

    def hidden_layers(self, model: Any, alpha: float = 1.0) -> list[Layer]:
        """One layer that keeps the αk largest (section 4.5)."""
        return [Layer(model.weight, model.bias, model.activation, model.alpha_k(alpha))]


@dataclass(frozen=True, kw_only=True)
class KSparse(training.TrainConfig, TopK):
    """The paper's method (sections 2.1 and 4.2)."""

    kind: ClassVar[Literal["train", "baseline"]] = "train"
    method = "k_sparse"

    @property
    def label(self) -> str:
        """Readable part of run ids: k, how biases start, and the length of training."""
        return f"k{self.k}-{self.bias_init}-e{self.epochs}"

    def build(self, inputs: int) -> KSparseAutoencoder:
        """A model of these sizes, its weights not those training starts from."""
        return KSparseAutoencoder(inputs, self.units, self.k, self.activation, self.selection)

    def fit(self, x: np.ndarray, device: Device = "auto", progress: bool | None = None) -> Fitted:
        """Train on the engine the device has; see ``ksae_lib.training.train``."""
        model, history = training.train(x, self, engine=self.used_engine(device), progress=progress)
        return model, pd.DataFrame(history)

    @classmethod
    def fit_many(
        cls, methods: list[Any], xs: list[np.ndarray], checkpoints: list[Path], device: Device, progress: bool | None
    ) -> list[Fitted | DivergenceError]:
        """On a GPU as one batched problem, with one checkpoint, on a processor one after the other."""
        x = xs[0] if all(own is xs[0] for own in xs) else np.stack(xs)
        engine = methods[0].used_engine(device)
        made = training.train_many(x, methods, engine=engine, checkpoint=checkpoints, progress=progress)
        return [one if isinstance(one, DivergenceError) else (one[0], pd.DataFrame(one[1])) for one in made]

    def batch_key(self) -> tuple[Any, ...]:
        """What runs have in common that a GPU trains at once, and that the same engine trains on a processor."""
        return (self.method, training.choose_engine(self)[0], *training.batch_key(self))

    def used_engine(self, device: Device) -> str:
        """The library's engine: ``gpu``, ``cpu`` or, where sparse kernels do not pay, ``reference``."""
        fastest, _ = training.choose_engine(self)
        if device == "auto" or (device == "cpu" and fastest == "reference"):
            return fastest
        return training.choose_engine(self, "gpu" if device == "cuda" else device)[0]


@dataclass(frozen=True, kw_only=True)
class RandomK(TopK, base.Baseline):
    """A k-sparse autoencoder that was never trained: what the selection alone achieves."""

    method: str = "random_k"
    k: int = setting(25, base.AT_LEAST_ONE)
    weight_std: float = setting(0.05, base.POSITIVE)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_k(self.k, self.units)

    def build(self, inputs: int) -> KSparseAutoencoder:
        """A model of these sizes."""
        return KSparseAutoencoder(inputs, self.units, self.k)

    def fit(self, x: np.ndarray, device: Device = "auto", progress: bool | None = None) -> Fitted:
        """Draw the weights and center the biases on the examples; the history is empty."""
        base.check_examples(x)
        config = training.TrainConfig(
            units=self.units, k=self.k, k_start=None, weight_std=self.weight_std, bias_init="centered", seed=self.seed
        )
        return training.new_model(config, x), pd.DataFrame({"seconds": []})
