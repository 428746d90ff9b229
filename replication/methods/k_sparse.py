"""The k-sparse autoencoder as a method like the others, trained and untrained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Unpack

import numpy as np
import pandas as pd

from ksae_lib import codes, training
from ksae_lib.loop import DivergenceError
from ksae_lib.model import CodeMode, KSparseAutoencoder
from ksae_lib.selection import check_k
from replication.methods import base
from replication.methods.base import Fitted, How, setting
from replication.methods.layer import Layer


class TopK(base.Method):
    """A method whose module is a k-sparse autoencoder."""

    has_alpha: ClassVar[bool] = True

    def code_mode(self, dense_relu: bool = False) -> CodeMode:
        """supp_αk (section 2.2), or all positive entries, as the first author's later code evaluates."""
        return CodeMode.DENSE_RELU if dense_relu else CodeMode.ALPHA_K

    def codes(self, model: Any, x: np.ndarray, mode: CodeMode, alphas: Sequence[float] = (1.0,)) -> base.Codes:
        """See ``ksae_lib.codes.codes``, to the bit what the model's own dense product gives."""
        return codes.codes(model, x, mode, tuple(alphas), exact=True)

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

    def fit(self, x: np.ndarray, held_out: np.ndarray | None = None, **how: Unpack[How]) -> Fitted:
        """Train on the engine the device has; see ``ksae_lib.training.train``."""
        engine, path, progress = self.used_engine(how.get("device", "auto")), how.get("checkpoint"), how.get("progress")
        model, history = training.train(x, self, engine=engine, checkpoint=path, progress=progress)
        return model, pd.DataFrame(history)

    @classmethod
    def fit_many(
        cls,
        methods: Sequence[KSparse],
        xs: Sequence[np.ndarray],
        held_out: Sequence[np.ndarray | None] | None = None,
        checkpoints: Sequence[Path] | None = None,
        **how: Unpack[How],
    ) -> list[Fitted | DivergenceError]:
        """On a GPU as one batched problem, with one checkpoint, on a processor one after the other."""
        device = how.get("device", "auto")
        if {method.used_engine(device) for method in methods} != {"gpu"}:
            return super().fit_many(methods, xs, held_out, checkpoints, **how)
        x = xs[0] if all(own is xs[0] for own in xs) else np.stack(xs)
        made = training.train_many(x, methods, engine="gpu", checkpoint=checkpoints, progress=how.get("progress"))
        return [one if isinstance(one, DivergenceError) else (one[0], pd.DataFrame(one[1])) for one in made]

    def batch_key(self) -> tuple[Any, ...]:
        """What runs have in common that a GPU trains at once."""
        return (self.method, *training.batch_key(self))

    def used_engine(self, device: base.Device) -> str:
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

    def fit(self, x: np.ndarray, held_out: np.ndarray | None = None, **how: Unpack[How]) -> Fitted:
        """Draw the weights and center the biases on the examples; the history is empty."""
        base.check_examples(x)
        config = training.TrainConfig(
            units=self.units, k=self.k, k_start=None, weight_std=self.weight_std, bias_init="centered", seed=self.seed
        )
        return training.new_model(config, x), pd.DataFrame({"seconds": []})
