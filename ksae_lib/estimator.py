"""The k-sparse autoencoder as a scikit-learn transformer."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from copy import deepcopy
from numbers import Integral, Real
from typing import Any, ClassVar, Self, get_args

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from ksae_lib import schedule
from ksae_lib.codes import encode
from ksae_lib.metrics import reconstruction_report
from ksae_lib.model import Activation, BiasInit, CodeMode, KSparseAutoencoder
from ksae_lib.training import DivergenceError, EngineName, Settings, TrainConfig, make_engine, new_model, train

_CHUNK = 1_000
# What MNIST's training images have, for which the paper's learning rate is stable. Either alone is not enough: the
# first is large for correlated inputs, the second for many uncorrelated ones.
_LARGEST_MOMENT = 37.6
_MEAN_SQUARED_NORM = 88.0


class KSparseCoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Sparse codes by a k-sparse autoencoder (Makhzani & Frey 2014, sections 2.1 and 2.2).

    Learns ``x̂ = Wz + b′`` with z the k largest entries of ``Wᵀx + b`` and codes new examples by the αk largest.
    Computes in float32.

    Args:
        units: hidden units.
        k: units kept in training, at most ``units``.
        alpha: the paper's α ≥ 1: ``transform`` keeps αk units. May be changed after ``fit``.
        code_mode: what ``transform`` keeps, see ``CodeMode``; the threshold of ``threshold`` is set on the examples of
            ``fit``, or of the latest ``partial_fit``. The others may be changed after ``fit``.
        k_start: units kept in the first epoch, falling to k over the first half (section 4.2.1); ``auto``: 100, or
            all units where there are fewer. None: constant k.
        epochs: passes over the examples in ``fit``.
        batch_size: examples per update.
        learning_rate, momentum: the paper's for MNIST (section 4.2.2).
        weight_std: the paper's σ.
        bias_init: ``centered`` starts from centred examples: it stays stable on data far from zero where ``zeros``,
            the paper's, diverges.
        activation: ``linear`` as in the paper, or ``relu``.
        scale: number every example is multiplied with before training and coding, undone by ``inverse_transform``. The
            paper's learning rate is made for MNIST; ``auto`` brings the data to where neither their mean ‖x‖² nor their
            second moment in any direction exceeds MNIST's. 1.0 takes the data as they are, and trains on a float32
            memory-mapped array without loading it.
        engine: see ``TrainConfig``.
        sparse_output: ``transform`` returns CSR instead of a dense array.
        verbose: show a progress bar in ``fit``.
        random_state: seed of weights and order.

    Attributes:
        model_: the trained ``KSparseAutoencoder``, on scaled examples.
        components_: the atoms (shape: [units, features]).
        scale_: the number used.
        history_: one row an epoch: loss (E on scaled examples), k, live units, seconds.
        n_iter_: epochs trained.
        n_features_in_: features seen in fit.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "units": [Interval(Integral, 1, None, closed="left")],
        "k": [Interval(Integral, 1, None, closed="left")],
        "alpha": [Interval(Real, 1, None, closed="left")],
        "code_mode": [StrOptions({mode.value for mode in CodeMode})],
        "k_start": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left"), None],
        "epochs": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "momentum": [Interval(Real, 0, 1, closed="left")],
        "weight_std": [Interval(Real, 0, None, closed="neither")],
        "bias_init": [StrOptions(set(get_args(BiasInit)))],
        "activation": [StrOptions(set(get_args(Activation)))],
        "scale": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "engine": [StrOptions(set(get_args(EngineName)))],
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
        code_mode: CodeMode | str = "alpha_k",
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
        """Train from scratch.

        Args:
            X: examples (shape: [examples, features]): NumPy, memory-mapped or torch.
            y: not used.

        Raises:
            ValueError: an impossible parameter, k or αk above ``units``, NaN, or a wrong shape.
            DivergenceError: the loss stopped being finite; an earlier fit, if any, is kept.
        """
        x, scale, config, model = self._start(X)
        model, history = train(x, config, progress=self.verbose, model=model)
        self._finish(x, model, history, scale, config.seed, {})
        return self

    def partial_fit(self, X: Any, y: Any = None) -> Self:  # noqa: N803
        """Train one epoch on these examples, keeping the target k.

        The first call fixes scale, size and k, and takes the mean for ``centered`` from its examples. The velocity is
        kept from call to call, so that calls with the same examples are the epochs of ``fit`` with ``k_start=None``;
        after ``fit`` it starts from zero. Learning rate, momentum and batch size may change between calls.

        Raises:
            ValueError: as ``fit``, or another number of features than before.
            DivergenceError: the loss stopped being finite; the state before the call is kept.
        """
        started = time.perf_counter()
        first = not hasattr(self, "model_")
        if first:
            x, scale, config, model = self._start(X)
            epoch, velocity, history = 0, {}, []
        else:
            self._validate_params()
            x, scale, config = self._validated(X, reset=False), self.scale_, self._config(self._seed)
            x, model = _multiplied(x, scale), deepcopy(self.model_)
            epoch, velocity, history = self.n_iter_, self._velocity, [self.history_]
        engine = make_engine(model, x, config)
        for name, value in velocity.items():
            engine.velocity[name].copy_(value)
        now = Settings(model.k, config.learning_rate, config.momentum)
        result = engine.run_epoch(schedule.order_of(config.seed, epoch, len(x)), *now)
        if not math.isfinite(result.loss):
            raise DivergenceError(
                f"Training diverged: the loss became {result.loss} in call {epoch + 1} of partial_fit. Lower the "
                f"learning rate, {config.learning_rate:g}, or the scale, {scale:g}."
            )
        row = now.row(epoch, result, time.perf_counter() - started)
        rows = pd.concat([*history, pd.DataFrame([row])], ignore_index=True)
        self._finish(x, model, rows, scale, config.seed, engine.velocity)
        return self

    def transform(self, X: Any) -> np.ndarray | sparse.csr_array:  # noqa: N803
        """Codes of examples, coded in blocks of rows.

        In blocks of mostly zeros the product leaves these out and sums in another order than ``model_``: of
        pre-activations that tie but for rounding, another may be kept.

        Returns:
            float32 array, or CSR with ``sparse_output`` (shape: [examples, units]).

        Raises:
            ValueError: αk above ``units``, NaN, or a wrong shape.
        """
        check_is_fitted(self, "model_")
        x = self._validated(X, reset=False)
        blocks = (self._coded(block) for block in _blocks(x, self.scale_))
        if self.sparse_output:
            return sparse.csr_array(sparse.vstack([sparse.csr_array(block) for block in blocks]))
        codes = np.empty((len(x), self.model_.units), np.float32)
        for start, block in zip(range(0, len(x), _CHUNK), blocks, strict=True):
            codes[start : start + _CHUNK] = block if isinstance(block, np.ndarray) else block.toarray()
        return codes

    def _coded(self, x: torch.Tensor) -> np.ndarray | sparse.csr_array:
        model, mode = self.model_, CodeMode(self.code_mode)
        if mode is CodeMode.K:
            return encode(model, x.numpy(), model.k)
        if mode is CodeMode.ALPHA_K:
            return encode(model, x.numpy(), model.alpha_k(self.alpha))
        return model.encode(x, mode).numpy()

    def inverse_transform(self, X: Any) -> np.ndarray:  # noqa: N803
        """Reconstructions x̂ of codes, dense or CSR, in the units of the examples (shape: [examples, features]).

        Raises:
            ValueError: the codes have not one column a unit, or hold NaN.
        """
        check_is_fitted(self, "model_")
        codes = check_array(_as_numpy(X), accept_sparse="csr", dtype=np.float32)
        if codes.shape[1] != self.model_.units:
            raise ValueError(f"Codes have {codes.shape[1]} columns, but there are {self.model_.units} units.")
        reconstruction = codes @ self.components_
        reconstruction += self.model_.visible_bias.detach().numpy()
        reconstruction /= np.float32(self.scale_)
        return reconstruction

    def score(self, X: Any, y: Any = None) -> float:  # noqa: N803
        """Explained variance 1 − Σ‖x − x̂‖² / Σ‖x − x̄‖², x̄ the per-dimension mean of ``X``; 1 is perfect.

        x̂ keeps k units, as the autoencoder is trained, whatever ``alpha`` and ``code_mode``.

        Raises:
            ValueError: NaN, a wrong shape, or examples that do not vary.
        """
        check_is_fitted(self, "model_")
        x = _multiplied(self._validated(X, reset=False), self.scale_)
        return 1 - reconstruction_report(self.model_, x)["fvu"]

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

    def _start(self, X: Any) -> tuple[np.ndarray, float, TrainConfig, KSparseAutoencoder]:  # noqa: N803
        self._validate_params()
        config = self._config(int(check_random_state(self.random_state).randint(2**31)))
        x = self._validated(X, reset=True)
        scale = _stable_scale(x) if isinstance(self.scale, str) else float(self.scale)
        x = _multiplied(x, scale)
        model = new_model(config, x)
        if self.code_mode in (CodeMode.ALPHA_K, CodeMode.THRESHOLD):
            model.alpha_k(self.alpha)
        return x, scale, config, model

    def _config(self, seed: int) -> TrainConfig:
        return TrainConfig(
            units=self.units, k=self.k, k_start=min(100, self.units) if isinstance(self.k_start, str) else self.k_start,
            epochs=self.epochs, batch_size=self.batch_size, learning_rate=self.learning_rate, momentum=self.momentum,
            weight_std=self.weight_std, bias_init=self.bias_init, activation=self.activation, engine=self.engine,
            seed=seed,
        )  # fmt: skip

    def _finish(
        self,
        x: np.ndarray,
        model: KSparseAutoencoder,
        history: pd.DataFrame,
        scale: float,
        seed: int,
        velocity: dict[str, torch.Tensor],
    ) -> None:
        if self.code_mode == CodeMode.THRESHOLD:
            total = sum(len(block) * model.calibrate_threshold(block, self.alpha) for block in _blocks(x, 1.0))
            model.threshold.fill_(total / len(x))
        self.model_, self.history_, self.n_iter_ = model, history, len(history)
        self.scale_, self._seed, self._velocity = scale, seed, velocity

    def _validated(self, X: Any, reset: bool) -> np.ndarray:  # noqa: N803
        if getattr(X, "ndim", 2) > 2:
            raise ValueError(
                f"Found array with dim {X.ndim}, but KSparseCoder takes one row an example: reshape images with "
                "x.reshape(len(x), -1)."
            )
        return validate_data(self, _as_numpy(X), reset=reset, dtype=np.float32, order="C")


def _as_numpy(x: Any) -> Any:
    return x.detach().cpu().float().numpy() if isinstance(x, torch.Tensor) else x


def _multiplied(x: np.ndarray, scale: float) -> np.ndarray:
    return x if scale == 1 else x * np.float32(scale)


def _blocks(x: np.ndarray, scale: float) -> Iterator[torch.Tensor]:
    for start in range(0, len(x), _CHUNK):
        yield torch.from_numpy(np.multiply(x[start : start + _CHUNK], np.float32(scale)))


def _stable_scale(x: np.ndarray) -> float:
    sample = np.asarray(x[:: max(1, len(x) // 2_000)], np.float64)
    largest = float(np.linalg.norm(sample, 2) ** 2) / len(sample)
    mean_squared_norm = float((sample**2).sum()) / len(sample)
    ratio = max(largest / _LARGEST_MOMENT, mean_squared_norm / _MEAN_SQUARED_NORM)
    return ratio**-0.5 if ratio > 0 else 1.0
