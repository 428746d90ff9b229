"""The k-sparse autoencoder as a scikit-learn transformer."""

from __future__ import annotations

from dataclasses import replace
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from ksae_lib.engines import TrainConfig, new_model, train
from ksae_lib.engines.training import EngineName
from ksae_lib.metrics import fraction_of_variance_unexplained
from ksae_lib.model import Activation, BiasInit, KSparseAutoencoder

_CHUNK = 1_000
# The largest second moment in any direction of MNIST’s training images, for which the paper’s learning rate is stable.
_STABLE_MOMENT = 37.6


class KSparseCoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Sparse codes by a k-sparse autoencoder (Makhzani & Frey 2014, sections 2.1 and 2.2).

    Learns ``x̂ = Wz + b′`` with z the k largest entries of ``Wᵀx + b`` and codes new examples by the αk largest.

    Args:
        units: hidden units.
        k: units kept in training, at most ``units``.
        alpha: the paper's α ≥ 1: ``transform`` keeps αk units.
        code_mode: what ``transform`` keeps: ``k``, ``alpha_k`` or ``dense``, see ``CodeMode``.
        k_start: units kept in the first epoch, falling to k over the first half (section 4.2.1); ``auto``: 100, or
            all units where there are fewer. None: constant k.
        epochs: passes over the examples in ``fit``.
        batch_size: examples per update.
        learning_rate, momentum: the paper's for MNIST (section 4.2.2).
        weight_std: the paper's σ.
        bias_init: ``centered`` (default) starts from centred examples, so that fewer units die on data far from
            zero; ``zeros`` is the paper's.
        activation: ``linear`` as in the paper, or ``relu``.
        scale: number every example is multiplied with before training and coding, undone by ``inverse_transform``. The
            paper's learning rate is made for MNIST; ``auto`` brings the largest second moment of the data in any
            direction to MNIST's, so that it fits other data too. 1.0 takes the data as they are.
        engine: ``cpu`` or ``reference``.
        sparse_output: ``transform`` returns CSR instead of a dense array.
        verbose: show a progress bar.
        random_state: seed of weights and order.

    Attributes:
        model_: the trained ``KSparseAutoencoder``, on scaled examples.
        components_: the atoms (shape: [units, features]).
        scale_: the number used.
        history_: one row an epoch: loss (on scaled examples), k, live units, seconds.
        n_iter_: epochs trained.
        n_features_in_: features seen in fit.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "units": [Interval(Integral, 1, None, closed="left")],
        "k": [Interval(Integral, 1, None, closed="left")],
        "alpha": [Interval(Real, 1, None, closed="left")],
        "code_mode": [StrOptions({"k", "alpha_k", "dense"})],
        "k_start": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left"), None],
        "epochs": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "momentum": [Interval(Real, 0, 1, closed="left")],
        "weight_std": [Interval(Real, 0, None, closed="neither")],
        "bias_init": [StrOptions({"zeros", "centered"})],
        "activation": [StrOptions({"linear", "relu"})],
        "scale": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "engine": [StrOptions({"cpu", "reference"})],
        "sparse_output": ["boolean"],
        "verbose": ["boolean"],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        units: int = 1000,
        *,
        k: int = 25,
        alpha: float = 1.0,
        code_mode: str = "alpha_k",
        k_start: int | str | None = "auto",
        epochs: int = 40,
        batch_size: int = 100,
        learning_rate: float = 0.01,
        momentum: float = 0.9,
        weight_std: float = 0.01,
        bias_init: BiasInit = "centered",
        activation: Activation = "linear",
        scale: float | str = "auto",
        engine: EngineName = "cpu",
        sparse_output: bool = False,
        verbose: bool = False,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.units = units
        self.k = k
        self.alpha = alpha
        self.code_mode = code_mode
        self.k_start = k_start
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.weight_std = weight_std
        self.bias_init = bias_init
        self.activation = activation
        self.scale = scale
        self.engine = engine
        self.sparse_output = sparse_output
        self.verbose = verbose
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:  # noqa: N803 - scikit-learn's name
        """Train from scratch on examples (shape: [examples, features]).

        Raises:
            ValueError: an impossible parameter, k or αk above ``units``, NaN, or a wrong shape.
            DivergenceError: the loss became infinite; lower ``learning_rate``.
        """
        x = self._start(X)
        self.model_: KSparseAutoencoder
        self.model_, self.history_ = train(x, self._config, progress=self.verbose, model=self.model_)
        self.n_iter_ = len(self.history_)
        return self

    def partial_fit(self, X: Any, y: Any = None) -> Self:  # noqa: N803
        """Train one epoch on these examples at the target k; the first call fixes the scale and the start.

        Momentum starts from zero in every call.

        Raises:
            ValueError: as ``fit``, or another number of features than before.
        """
        if hasattr(self, "model_"):
            x = self._scaled(X)
        else:
            x = self._start(X)
            self.history_, self.n_iter_ = pd.DataFrame(), 0
        config = replace(self._config, epochs=1, k_start=None, seed=self._seed + self.n_iter_)
        self.model_, history = train(x, config, progress=self.verbose, model=self.model_)
        self.history_ = pd.concat([self.history_, history.assign(epoch=self.n_iter_)], ignore_index=True)
        self.n_iter_ += 1
        return self

    def transform(self, X: Any) -> np.ndarray | sparse.csr_array:  # noqa: N803
        """Codes of examples (shape: [examples, units])."""
        check_is_fitted(self, "model_")
        x = self._scaled(X)
        blocks = []
        for start in range(0, len(x), _CHUNK):
            codes = self.model_.encode(torch.from_numpy(x[start : start + _CHUNK]), self.code_mode, self.alpha)
            blocks.append(sparse.csr_array(codes.numpy()) if self.sparse_output else codes.numpy())
        return sparse.csr_array(sparse.vstack(blocks)) if self.sparse_output else np.concatenate(blocks)

    def inverse_transform(self, X: Any) -> np.ndarray:  # noqa: N803
        """Reconstructions x̂ of codes, in the units of the examples (shape: [examples, features])."""
        check_is_fitted(self, "model_")
        codes = check_array(X, accept_sparse="csr", dtype=np.float32)
        product = codes @ self.model_.weight.detach().numpy()
        return (product + self.model_.visible_bias.detach().numpy()) / np.float32(self.scale_)

    def score(self, X: Any, y: Any = None) -> float:  # noqa: N803
        """Explained variance 1 − FVU of the reconstructions from ``transform``'s codes; 1 is perfect."""
        check_is_fitted(self, "model_")
        reconstruction = self.inverse_transform(self.transform(X))
        return 1 - fraction_of_variance_unexplained(self._validated(X, reset=False), reconstruction)

    @property
    def components_(self) -> np.ndarray:
        """The atoms, one a row (shape: [units, features])."""
        return self.model_.weight.detach().numpy()

    @property
    def _n_features_out(self) -> int:
        return self.model_.units

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def _start(self, X: Any) -> np.ndarray:  # noqa: N803
        self._validate_params()
        x = self._validated(X, reset=True)
        self.scale_ = _stable_scale(x) if self.scale == "auto" else float(self.scale)
        self._seed = int(check_random_state(self.random_state).randint(2**31 - 2**16))
        k_start = min(100, self.units) if isinstance(self.k_start, str) else self.k_start
        self._config = TrainConfig(
            units=self.units, k=self.k, k_start=k_start, epochs=self.epochs, batch_size=self.batch_size,
            learning_rate=self.learning_rate, momentum=self.momentum, weight_std=self.weight_std,
            bias_init=self.bias_init, activation=self.activation, engine=self.engine, seed=self._seed,
        )  # fmt: skip
        scaled = _multiplied(x, self.scale_)
        self.model_ = new_model(self._config, scaled)
        self.model_.alpha_k(self.alpha)
        return scaled

    def _scaled(self, X: Any) -> np.ndarray:  # noqa: N803
        return _multiplied(self._validated(X, reset=False), self.scale_)

    def _validated(self, X: Any, reset: bool) -> np.ndarray:  # noqa: N803
        if isinstance(X, torch.Tensor):
            X = X.detach().cpu().numpy()  # noqa: N806
        if getattr(X, "ndim", 2) > 2:
            raise ValueError(
                f"Found array with dim {X.ndim}, but KSparseCoder takes one row an example: reshape images with "
                "x.reshape(len(x), -1)."
            )
        return validate_data(self, X, reset=reset, dtype=np.float32, order="C")


def _multiplied(x: np.ndarray, scale: float) -> np.ndarray:
    return x if scale == 1 else x * np.float32(scale)


def _stable_scale(x: np.ndarray) -> float:
    sample = np.asarray(x[:: max(1, len(x) // 5_000)], np.float64)
    largest = float(np.linalg.norm(sample, 2) ** 2 / len(sample))
    return float(np.sqrt(_STABLE_MOMENT / largest)) if largest > 0 else 1.0
