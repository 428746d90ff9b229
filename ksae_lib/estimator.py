"""The k-sparse autoencoder as a scikit-learn transformer."""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from scipy import sparse
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from ksae_lib.blocks import BLOCK_BYTES, Blocks, is_mapped
from ksae_lib.codes import codes
from ksae_lib.io import read_model, save_model
from ksae_lib.loop import columns
from ksae_lib.metrics import unit_report
from ksae_lib.model import Activation, BiasInit, CodeMode, KSparseAutoencoder
from ksae_lib.training import TrainConfig, new_model, train

PRETRAINED = Path(__file__).with_name("pretrained")
_CHUNK = 1_000
_SAMPLE, _POWER_STEPS, _ENOUGH = 2_000, 30, 20
# Where the paper's learning rate and momentum are stable. The largest second moment in any direction is half of what
# descent along it bears, 8 · moment · rate ≤ 2 (1 + momentum). The other bounds Σ‖x‖⁴ / Σ‖x‖², a mean of ‖x‖² in which
# outliers count for more: of centred MNIST, digits, photographs, toys and known dictionaries none diverged below 120.
# This bound falls in proportion below 40 examples a batch: none of seven small sets then diverged in batches of 1 … 20.
_LARGEST_MOMENT = 24.0
_SQUARED_NORM, _FULL_BATCH = 80.0, 40


class KSparseCoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Sparse codes by a k-sparse autoencoder (Makhzani & Frey 2014, sections 2.1 and 2.2).

    Learns ``x̂ = Wz + b′`` with z the k largest entries of ``Wᵀx + b`` and codes new examples by the αk largest. The
    mean of the examples is taken off first and the rest scaled, so that adding a constant to all examples, or
    multiplying them, changes no more than rounding. Computes in float32, the mean in float64.

    Args:
        units: hidden units.
        k: units kept in training, at most ``units``.
        alpha: the paper's α ≥ 1: ``transform`` keeps αk units. May be changed after ``fit``;
            for ``threshold`` the change counts from the next fit on.
        code_mode: what ``transform`` keeps, see ``CodeMode``; the threshold of ``threshold`` is set on the examples of
            ``fit``, or of the latest ``partial_fit``. The others may be changed after ``fit``.
        k_start: units kept in the first epoch, falling to k over the first half (section 4.2.1); ``auto``: a third of
            the units, k where there is one epoch. None: constant k.
        epochs: passes over the examples in ``fit``.
        batch_size: examples per update. Where that leaves the last batch less than half full, the nearest number that
            does not.
        learning_rate, momentum: the paper's for MNIST (section 4.2.2).
        weight_std: the paper's σ.
        bias_init: ``centered`` takes the mean off. ``zeros`` leaves it to be learned. The longer it is beside the
            spread, the more it alone decides which units are kept, and the fewer live; ``fit`` warns where it is
            longer. The paper does not say how biases start.
        activation: ``linear`` as in the paper, or ``relu``.
        scale: number every example is multiplied with before training and coding, undone by ``inverse_transform``. The
            paper's learning rate is made for MNIST; ``auto`` brings other data, and smaller batches, to where it is
            stable. 1.0 takes them as they are.
        engine: ``auto``: a GPU where there is one, else the processor; see ``training.choose_engine``.
        sparse_output: ``transform`` returns CSR instead of a dense array.
        verbose: show a progress bar in ``fit``.
        checkpoint: file in which ``fit`` keeps its state after whole epochs, every half minute, and from which it goes
            on, to the same end, when it is called again with the same data and parameters, ``random_state`` a number.
        random_state: seed of weights and order.

    Attributes:
        model_: the trained ``KSparseAutoencoder``, on ``(x − mean_) · scale_``.
        components_: the atoms (shape: [units, features]).
        mean_: what is taken off, zeros with ``zeros`` (shape: [features], float64).
        scale_: the number used.
        history_: an array for each of epoch, k, loss (E on scaled examples), live_units, seconds and the rates, with an
            entry for each epoch.
        n_iter_: epochs trained.
        live_units_: units that were kept for some example in the last epoch.
        n_features_in_: features seen in fit.
    """

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
        engine: str = "auto",
        sparse_output: bool = False,
        verbose: bool = False,
        checkpoint: Path | str | None = None,
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
        self.checkpoint = checkpoint
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:  # noqa: N803 - scikit-learn's name
        """Train from scratch.

        Data larger than memory are read in ``Blocks`` of 256 MiB, anew in every epoch, and the scale is that of a
        sample. A file's blocks are taken in random order, batches as they come; the examples of a block at random.

        Args:
            X: examples (shape: [examples, features]): NumPy, memory-mapped (in blocks where they are more than one),
                torch or CSR; or batches of them, of one type: an object that can be iterated over anew, or a function
                that returns one. Arrays and CSR are held as dense float32.
            y: not used.

        Raises:
            ValueError: an impossible parameter, k or αk above ``units``, NaN, a wrong shape, an iterator, which gives
                its batches only once, or a checkpoint of another fit.
            DivergenceError: the loss stopped being finite. After any error an earlier fit, if any, is as it was.
        """
        with _all_or_nothing(self):
            x, config, model = self._start(X)
            kept = None if self.checkpoint is None else Path(self.checkpoint)
            model, rows = train(x, config, engine=self.engine, checkpoint=kept, progress=self.verbose, model=model)
            _warn_of_divergence(x, model)
            self._finish(x, model, columns(rows), {})
        return self

    def partial_fit(self, X: Any, y: Any = None) -> Self:  # noqa: N803
        """Train one epoch on these examples, keeping the target k.

        The first call fixes mean, scale, size and k, by its examples: give it at least a hundred. The velocity is kept
        from call to call, so that calls with the same examples, at least ``batch_size``, are the epochs of ``fit`` with
        ``k_start=None``; after ``fit`` it starts from zero. With fewer, a call has a learning rate that is smaller in
        proportion. Learning rate, momentum and batch size may change between calls. The scale stays: batches below 40
        that are smaller than in the first call need a lower rate.

        Raises:
            ValueError: as ``fit``, or another number of features than before.
            DivergenceError: the loss stopped being finite. After any error the state before the call is kept.
        """
        with _all_or_nothing(self):
            if not hasattr(self, "model_"):
                x, config, model = self._start(X)
                epoch, velocity, before = 0, {}, {}
            else:
                x, config = self._read(X, self._config(self._seed), reset=False)
                x, model = _seen(x, self.mean_, self.scale_), deepcopy(self.model_)
                epoch, velocity, before = self.n_iter_, dict(self._velocity), self.history_
            rate = config.learning_rate * min(1, x.shape[0] / config.batch_size)
            config = replace(config, k_start=None, epochs=epoch + 1, learning_rate=rate)
            _, rows = train(x, config, engine=self.engine, progress=False, model=model, first=epoch, velocity=velocity)
            history = columns(rows)
            if not before:
                _warn_of_divergence(x, model)
            else:
                history = {name: np.concatenate([before[name], value]) for name, value in history.items()}
            self._finish(x, model, history, velocity)
        return self

    def transform(self, X: Any) -> np.ndarray | sparse.csr_array:  # noqa: N803
        """Codes of examples, coded in blocks of rows: those of ``model_.encode``.

        With ``zeros``, in blocks of mostly zeros the product leaves these out and sums in another order than
        ``model_``: of pre-activations that tie but for rounding, another may be kept.

        Returns:
            float32 array, or with ``sparse_output`` CSR, its indices int32 where they fit (shape: [examples, units]).

        Raises:
            ValueError: αk above ``units``, NaN, a wrong shape, or ``threshold`` where none was set.
        """
        check_is_fitted(self, "model_")
        if self.code_mode == CodeMode.THRESHOLD and bool(torch.isnan(self.model_.threshold)):
            raise ValueError("There is no threshold: call fit or partial_fit with code_mode='threshold' first.")
        x = self._validated(X, reset=False)
        how = self.code_mode, (self.alpha,)
        blocks = (codes(self.model_, block, *how, exact=False)[0] for block in self._blocks(x))
        if self.sparse_output:
            return sparse.csr_array(sparse.vstack([sparse.csr_array(block) for block in blocks]))
        dense = np.empty((x.shape[0], self.model_.units), np.float32)
        for start, block in zip(range(0, len(dense), _CHUNK), blocks, strict=True):
            dense[start : start + _CHUNK] = block if isinstance(block, np.ndarray) else block.toarray()
        return dense

    def inverse_transform(self, X: Any) -> np.ndarray:  # noqa: N803
        """Reconstructions x̂ of codes, dense or CSR, in the units of the examples (shape: [examples, features]).

        They are float32: where ``mean_`` is a million times as long as the spread, rounding hides the differences.

        Raises:
            ValueError: the codes have not one column a unit, or hold NaN.
        """
        check_is_fitted(self, "model_")
        kept = check_array(_as_numpy(X), accept_sparse="csr", dtype=np.float32)
        if kept.shape[1] != self.model_.units:
            raise ValueError(f"Codes have {kept.shape[1]} columns, but there are {self.model_.units} units.")
        reconstruction = kept @ self.components_
        reconstruction += self.model_.visible_bias.detach().numpy()
        reconstruction /= np.float32(self.scale_)
        reconstruction += self.mean_
        return reconstruction

    def score(self, X: Any, y: Any = None) -> float:  # noqa: N803
        """Explained variance 1 − Σ‖x − x̂‖² / Σ‖x − x̄‖², x̄ the per-dimension mean of ``X``; 1 is perfect.

        x̂ keeps k units, as the autoencoder is trained, whatever ``alpha`` and ``code_mode``.

        Raises:
            ValueError: NaN, a wrong shape, or examples that do not vary.
        """
        return float(1 - self.report(X)["fvu"])

    def report(
        self,
        X: Any,  # noqa: N803
        path: Path | str | None = None,
        *,
        y: Any = None,
        image_shape: Sequence[int] | None = None,
    ) -> dict[str, Any]:
        """What each unit does for the k largest codes of ``X``, as ``metrics.unit_report`` says.

        With a path, writes the X-ray of units there too: one HTML page that shows it unit by unit.

        Args:
            X: examples (shape: [examples, features]).
            path: of the page, say ``units.html``.
            y: a class for each example; the page then has classes, and what units do to a linear classifier.
            image_shape: height and width of examples that are pictures, and 3 for colours last.

        Raises:
            ValueError: as ``score``, or as ``xray.write_xray``.
            OSError: the page could not be written; the old one, if any, is as it was.
            KsaeError: Jinja2, which makes the page, is not installed.
        """
        check_is_fitted(self, "model_")
        x = self._validated(X, reset=False)
        report = unit_report(self.model_, self._blocks(x))
        if path is not None:
            from ksae_lib.xray import write_xray

            names = [str(name) for name in self.feature_names_in_] if hasattr(self, "feature_names_in_") else None
            how = (lambda rows: _seen(rows, self.mean_, self.scale_)), self.scale_
            write_xray(Path(path), self.model_, x, *how, report, y, image_shape, names)
        return report

    def save(self, path: Path | str) -> None:
        """Write the fitted estimator: parameters, model, mean, scale, seed and history, as safetensors without pickle.

        The velocity stays behind: ``partial_fit`` after ``load`` starts from rest. So does a ``random_state`` that is
        a generator.

        Raises:
            OSError: the file could not be written; the old one, if any, is as it was.
        """
        check_is_fitted(self, "model_")
        parameters = self.get_params() | {"checkpoint": None}
        if not isinstance(self.random_state, Integral):
            parameters["random_state"] = None
        names = ("mean_", "scale_", "_seed", "n_iter_", "n_features_in_", "feature_names_in_", "history_")
        fitted = {name: getattr(self, name) for name in names if hasattr(self, name)}
        save_model(self.model_, Path(path), parameters=parameters, fitted=fitted)

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read an estimator that ``save`` wrote.

        Raises:
            OSError: the file cannot be opened.
            ValueError: it is damaged, or holds no estimator.
        """
        model, metadata = read_model(Path(path))
        model.float()
        if "fitted" not in metadata:
            raise ValueError(f"{path} holds a model without its estimator: read it with ksae_lib.io.load_model.")
        made, fitted = cls(**metadata["parameters"]), metadata["fitted"]
        if "feature_names_in_" in fitted:
            fitted["feature_names_in_"] = np.array(fitted["feature_names_in_"], dtype=object)
        fitted["mean_"] = np.array(fitted.get("mean_", [0.0] * model.inputs))
        fitted["history_"] = {name: np.array(column) for name, column in fitted["history_"].items()}
        made.__dict__.update(fitted, model_=model, _velocity={})
        return made

    @property
    def live_units_(self) -> int:
        """Units that were kept for some example in the last epoch."""
        return int(self.history_["live_units"][-1])

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
        tags.input_tags.sparse = True
        return tags

    def _start(self, X: Any) -> tuple[Any, TrainConfig, KSparseAutoencoder]:  # noqa: N803
        config = self._config(int(check_random_state(self.random_state).randint(2**31)))
        x, config = self._read(X, config, reset=True)
        mean, sample = (x.mean, x.sample) if isinstance(x, Blocks) else (x.mean(axis=0, dtype=np.float64), x)
        sample = sample[:: -(-len(sample) // _SAMPLE)]
        if self.bias_init != "centered":
            _warn_of_offset(mean, sample)
            mean = np.zeros(len(mean))
        scale = _stable_scale(sample, mean, config.batch_size) if isinstance(self.scale, str) else float(self.scale)
        self.mean_, self.scale_, self._seed = mean, scale, config.seed
        x = _seen(x, mean, scale)
        model = new_model(config, x)
        if self.code_mode in (CodeMode.ALPHA_K, CodeMode.THRESHOLD):
            model.alpha_k(self.alpha)
        return x, config, model

    def _config(self, seed: int) -> TrainConfig:
        """The parameters as a training run; those that it has not are checked here."""
        if self.code_mode not in list(CodeMode):
            raise ValueError(f"code_mode = {self.code_mode!r} is unknown: choose one of {', '.join(CodeMode)}.")
        if self.scale != "auto" and not (isinstance(self.scale, Real) and 0 < self.scale < math.inf):
            raise ValueError(f"scale = {self.scale!r} is not possible: choose 'auto' or a positive number.")
        k_start: Any = self.k_start
        if k_start == "auto" and isinstance(self.units, Integral):
            k_start = max(1, self.units // 3) if self.epochs != 1 else None
        made = TrainConfig(
            units=self.units, k=self.k, k_start=k_start, epochs=self.epochs, batch_size=self.batch_size,
            learning_rate=self.learning_rate, momentum=self.momentum, weight_std=self.weight_std,
            bias_init=self.bias_init, activation=self.activation, seed=seed,
        )  # fmt: skip
        return replace(made, k=int(made.k), k_start=made.k_start and int(made.k_start))

    def _finish(
        self, x: Any, model: KSparseAutoencoder, history: dict[str, np.ndarray], velocity: dict[str, torch.Tensor]
    ) -> None:
        if self.code_mode == CodeMode.THRESHOLD:
            wholes = (block for _, block in x.read()) if isinstance(x, Blocks) else (x,)
            blocks = (torch.tensor(one[i : i + _CHUNK]) for one in wholes for i in range(0, len(one), _CHUNK))
            total = sum(len(block) * model.calibrate_threshold(block, self.alpha) for block in blocks)
            model.threshold.fill_(total / x.shape[0])
        self.model_, self.history_, self.n_iter_ = model, history, len(history["epoch"])
        self._velocity = velocity

    def _read(self, X: Any, config: TrainConfig, reset: bool) -> tuple[Any, TrainConfig]:  # noqa: N803
        """The examples, an array or blocks, and the parameters with a batch size whose last batch is not short.

        A step on a few examples has the full rate: it can undo an epoch, or make the loss diverge.
        """
        if not _in_blocks(X):
            x = self._validated(X, reset)
            x = x.toarray() if sparse.issparse(x) else x
            return x, replace(config, batch_size=_even(len(x), config.batch_size))
        x = Blocks(X if is_mapped(X) or isinstance(X, Iterator) else _batches(X), config.batch_size)
        self._validated(x.sample, reset)
        # How many examples there are, so which size fits, is known after the first pass alone.
        x._batch_size = _even(x.shape[0], config.batch_size)
        x.size = x._size(x.shape[1])
        x.count = -(-x.shape[0] // x.size)
        return x, replace(config, batch_size=x._batch_size)

    def _blocks(self, x: Any) -> Iterator[np.ndarray]:
        for start in range(0, x.shape[0], _CHUNK):
            yield _seen(x[start : start + _CHUNK], self.mean_, self.scale_)

    def _validated(self, X: Any, reset: bool) -> Any:  # noqa: N803
        """The examples as they are, an array or CSR, of any type that is numeric."""
        if getattr(X, "ndim", 2) > 2:
            raise ValueError(
                f"Found array with dim {X.ndim}, but KSparseCoder takes one row an example: reshape images with "
                "x.reshape(len(x), -1)."
            )
        return validate_data(self, _as_numpy(X), reset=reset, accept_sparse="csr", order="C")


def load_pretrained(name: str) -> KSparseCoder:
    """A trained coder that comes with the library, from its folder and never from a network.

    Args:
        name: as ``mnist-k25``; docs/models.md has them all and says what examples are.

    Raises:
        ValueError: there is no such coder, or its file is damaged.
    """
    path = PRETRAINED / f"{name}.safetensors"
    if not path.exists():
        known = ", ".join(sorted(one.stem for one in PRETRAINED.glob("*.safetensors")))
        raise ValueError(f"There is no pretrained coder {name!r}: choose one of {known}.")
    return KSparseCoder.load(path)


@contextmanager
def _all_or_nothing(coder: KSparseCoder) -> Iterator[None]:
    before = dict(coder.__dict__)
    try:
        yield
    except BaseException:
        coder.__dict__ = before
        raise


def _even(examples: int, size: int) -> int:
    """The batch size nearest to ``size`` whose last batch is at least half full, or the only one."""
    if examples <= size:
        return size
    sizes = (
        one for one in range(-(-size // 2), 2 * size) if examples <= one or 2 * (examples % one) not in range(1, one)
    )
    return min(sizes, key=lambda one: abs(one - size))


def _batches(source: Iterable[Any] | Callable[[], Iterable[Any]]) -> Callable[[], Iterator[np.ndarray]]:
    """The batches as arrays, of types that the first one's holds: blocks would cut the others to it."""

    def read() -> Iterator[np.ndarray]:
        first = None
        for given in source() if callable(source) else source:
            batch = np.asarray(given.toarray() if sparse.issparse(given) else _as_numpy(given))
            first = batch.dtype if first is None else first
            if not (np.can_cast(batch.dtype, first) or batch.dtype.kind == first.kind == "f"):
                raise ValueError(f"The first batch is of {first}, another of {batch.dtype}: give all one type.")
            yield batch

    return read


def _in_blocks(x: Any) -> bool:
    if is_mapped(x):
        return bool(x.ndim == 2 and 4 * x.size > BLOCK_BYTES)
    return callable(x) or (
        isinstance(x, Iterable) and not isinstance(x, list | tuple | str) and not hasattr(x, "shape")
    )


def _as_numpy(x: Any) -> Any:
    if not isinstance(x, torch.Tensor):
        return x
    return (x.float() if x.dtype == torch.bfloat16 else x).detach().cpu().numpy()


def _seen(x: Any, mean: np.ndarray, scale: float) -> Any:
    """What the model sees of examples, an array, CSR or blocks: ``(x − mean) · scale``, dense float32."""
    if isinstance(x, Blocks):
        x.prepare = lambda block: _shifted(block, mean, scale, in_place=True)
        return x
    x = x.toarray() if sparse.issparse(x) else x
    if x.dtype == np.float32 and scale == 1 and not mean.any():
        return np.ascontiguousarray(x)
    return _shifted(x, mean, scale)


def _shifted(x: np.ndarray, mean: np.ndarray, scale: float, in_place: bool = False) -> np.ndarray:
    out = x if in_place and x.dtype == np.float32 else np.empty(x.shape, np.float32)
    # The difference in float64, of which a mean far above the spread leaves enough; a buffered copy, not a whole one.
    np.subtract(x, mean, out=out, dtype=np.float64, casting="same_kind")
    out *= np.float32(scale)
    return out


def _warn_of_offset(mean: np.ndarray, sample: np.ndarray) -> None:
    length, spread = np.linalg.norm(mean), np.sqrt(sample.var(axis=0, dtype=np.float64).sum())
    # Of fewer examples the mean is far from 0 by chance alone.
    if len(sample) >= _ENOUGH and length > spread:
        warnings.warn(
            f"The mean of the examples is longer than their spread ({length:.3g} and {spread:.3g}), so it decides much "
            "of which units are kept, and fewer may live: bias_init='centered' takes it off.",
            stacklevel=4,
        )


def _warn_of_divergence(x: np.ndarray | Blocks, model: KSparseAutoencoder) -> None:
    seen = x.prepare(x.sample.copy()) if isinstance(x, Blocks) else x[:: -(-len(x) // _SAMPLE)]
    sample = torch.from_numpy(seen)
    with torch.no_grad():
        loss, nothing = (float(one.double().square().sum(1).mean()) for one in (model(sample)[0] - sample, sample))
    if len(sample) >= _ENOUGH and nothing > 0 and not loss <= 2 * nothing:
        warnings.warn(
            f"The fit diverged: its loss is {loss:.3g}, that of no code at all {nothing:.3g}. Lower learning_rate or "
            "scale.",
            stacklevel=3,
        )


def _stable_scale(sample: np.ndarray, mean: np.ndarray, batch_size: int) -> float:
    """The scale at which a sample of the examples exceeds neither bound above."""
    sample = _seen(sample, mean, 1.0)
    norms = np.einsum("ij,ij->i", sample, sample, dtype=np.float64)
    if (spread := float(norms.mean())) == 0:
        return 1.0
    largest = spread * _largest_moment(sample / np.float32(spread**0.5))
    bound = _SQUARED_NORM * min(1, batch_size / _FULL_BATCH)
    return max(largest / _LARGEST_MOMENT, float(norms @ norms) / float(norms.sum()) / bound) ** -0.5


def _largest_moment(x: np.ndarray) -> float:
    """The largest eigenvalue of ``xᵀx / examples`` by power iteration, from below."""
    direction = np.random.default_rng(0).standard_normal(x.shape[1], np.float32)
    for _ in range(_POWER_STEPS):
        direction = (x @ (direction / np.linalg.norm(direction))) @ x
    return float(np.linalg.norm(direction)) / len(x)
