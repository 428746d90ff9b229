"""Logistic regression on frozen codes; everything chosen on validation (paper, section 4.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import sparse

from ksae_lib.codes import exact_codes
from ksae_lib.metrics import fraction_of_variance_unexplained
from ksae_lib.model import CodeMode, KSparseAutoencoder
from replication.data import Dataset
from replication.judge.batched_logistic import BatchedLogisticProblem
from replication.judge.logistic import Features, LogisticProblem, Solution
from replication.methods import Baseline
from replication.methods.base import encode_all

_CHUNK = 1_000


@dataclass(frozen=True, kw_only=True)
class ReadoutConfig:
    """The grid and the solver; the paper states neither.

    Raises:
        ValueError: an empty grid or a value out of range.
    """

    alphas: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0)
    """Values of the paper's α to choose from; raw pixels have none."""
    l2: tuple[float, ...] = (0.0001, 0.00003, 0.00001)
    """Weights of ½‖w‖² beside the mean cross-entropy, tried from the largest with warm starts."""
    tolerance: float = 0.00001
    """L-BFGS stops when no gradient entry exceeds it."""
    max_iterations: int = 500
    """For each weight; few of them stop the fit early."""
    dense_relu: bool = False
    """Codes of a k-sparse autoencoder keep all positive entries instead of the αk largest, as the first author's later
    code evaluates; there is no α to choose."""
    refit: bool = False
    """The test error is that of a fit with what validation chose on training and validation images together."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "alphas", tuple(float(a) for a in self.alphas))
        object.__setattr__(self, "l2", tuple(sorted((float(v) for v in self.l2), reverse=True)))
        if not self.alphas or min(self.alphas) < 1:
            raise ValueError(f"alphas = {self.alphas} is not possible: name at least one, each at least 1.")
        if not self.l2 or min(self.l2) <= 0:
            raise ValueError(f"l2 = {self.l2} is not possible: name at least one, each positive.")
        if self.max_iterations < 1:
            raise ValueError(f"max_iterations = {self.max_iterations} is not possible: at least 1.")


class ReadoutResult(NamedTuple):
    """What the validation-chosen readout achieves; errors in percent."""

    selected: dict[str, float]
    """What validation chose: l2, and alpha for codes."""
    validation_error: float
    test_error: float
    test_mistakes: list[int]
    """Misclassified test images by index, for paired tests."""
    trials: pd.DataFrame
    """One row a trial: alpha, l2, train_error, validation_error, test_error, iterations, converged; for k-sparse codes
    also fvu, the variance of the validation images that the same codes leave unexplained."""


def sparse_codes(model: KSparseAutoencoder, x: np.ndarray, alpha: float) -> sparse.csr_array:
    """Codes supp_αk as CSR (shape: [examples, units]), section 2.2."""
    return sparse_codes_for(model, x, (alpha,))[0]


def sparse_codes_for(
    model: KSparseAutoencoder, x: np.ndarray, alphas: tuple[float, ...]
) -> tuple[sparse.csr_array, ...]:
    """Codes supp_αk for each α, of one product with the dictionary; see ``sparse_codes``."""
    ks = [model.alpha_k(alpha) for alpha in alphas]
    blocks = [exact_codes(model, x[start : start + _CHUNK], ks) for start in range(0, len(x), _CHUNK)]
    return tuple(sparse.csr_array(sparse.vstack(made)) for made in zip(*blocks, strict=True))


def dense_relu_codes(model: KSparseAutoencoder, x: np.ndarray) -> np.ndarray:
    """The positive entries of the codes before selection (shape: [examples, units])."""
    return np.maximum(model.encode(torch.from_numpy(np.array(x)), CodeMode.DENSE).numpy(), 0)


def dense_codes(model: KSparseAutoencoder | Baseline, x: np.ndarray, alpha: float) -> np.ndarray:
    """Codes as an array (shape: [examples, units]), of a k-sparse autoencoder supp_αk."""
    if isinstance(model, KSparseAutoencoder):
        return sparse_codes(model, x, alpha).toarray()
    return encode_all(model, x)


def evaluate(
    data: Dataset,
    model: KSparseAutoencoder | Baseline | None,
    config: ReadoutConfig,
    device: torch.device | str = "cpu",
) -> ReadoutResult:
    """Fit a multinomial logistic regression for each (α, l2) and keep the one with the lowest validation error.

    Of equal validation errors the first in the order of the grid is kept: small α, large l2. The test error of
    every trial is recorded for the figures, and chooses nothing.

    Args:
        data: labelled images.
        model: encoder, or None for raw pixels. Only k-sparse codes have an α.
        config: grid and solver.
        device: a GPU solves the problems of one α together, each from zero instead of from the one before.
    """
    rows: list[dict[str, Any]] = []
    mistakes = []
    alphas = _alphas(model, config)
    parts = (_features(model, x, alphas) for x in (data.train_x, data.validation_x, data.test_x))
    for alpha, train, validation, test in zip(alphas, *parts, strict=True):
        fvu = _unexplained(model, validation, data.validation_x)
        solutions = _solutions(train, data.train_y, data.classes, config, config.l2, device)
        for l2, solution in zip(config.l2, solutions, strict=True):
            wrong = solution.predict(test) != data.test_y
            mistakes.append(np.flatnonzero(wrong))
            rows.append(
                {
                    "alpha": alpha,
                    "fvu": fvu,
                    "l2": l2,
                    "train_error": _percent(solution.predict(train) != data.train_y),
                    "validation_error": _percent(solution.predict(validation) != data.validation_y),
                    "test_error": _percent(wrong),
                    "iterations": solution.iterations,
                    "converged": solution.converged,
                }
            )
    trials = pd.DataFrame(rows)
    best = int(trials["validation_error"].argmin())
    chosen, missed = rows[best], mistakes[best]
    if config.refit:
        missed = _refitted_mistakes(data, model, chosen, config, device)
    return ReadoutResult(
        selected={name: chosen[name] for name in ("alpha", "l2") if chosen[name] is not None},
        validation_error=chosen["validation_error"],
        test_error=round(100 * len(missed) / len(data.test_y), 6),
        test_mistakes=missed.tolist(),
        trials=trials,
    )


def _alphas(model: KSparseAutoencoder | Baseline | None, config: ReadoutConfig) -> tuple[float | None, ...]:
    return config.alphas if isinstance(model, KSparseAutoencoder) and not config.dense_relu else (None,)


def _solutions(
    x: Features, y: np.ndarray, classes: int, config: ReadoutConfig, l2: Sequence[float], device: torch.device | str
) -> list[Solution]:
    """A classifier for each weight of the penalty."""
    # With more features than examples the problem is a small one.
    if torch.device(device).type != "cpu" and x.shape[1] <= x.shape[0]:
        return BatchedLogisticProblem(x, y, classes, device).solve(l2, config.tolerance, config.max_iterations)
    problem, made = LogisticProblem(x, y, classes), list[Solution]()
    for value in l2:
        made.append(problem.solve(value, config.tolerance, config.max_iterations, made[-1] if made else None))
    return made


def _refitted_mistakes(
    data: Dataset,
    model: KSparseAutoencoder | Baseline | None,
    chosen: dict[str, Any],
    config: ReadoutConfig,
    device: torch.device | str,
) -> np.ndarray:
    both = np.concatenate([data.train_x, data.validation_x])
    x, test = (_features(model, part, (chosen["alpha"],))[0] for part in (both, data.test_x))
    y = np.concatenate([data.train_y, data.validation_y])
    solution = _solutions(x, y, data.classes, config, (chosen["l2"],), device)[0]
    return np.flatnonzero(solution.predict(test) != data.test_y)


def _features(
    model: KSparseAutoencoder | Baseline | None, x: np.ndarray, alphas: tuple[float | None, ...]
) -> Sequence[sparse.csr_array | np.ndarray]:
    """What the readout sees of each example, for each α."""
    if model is None:
        return [sparse.csr_array(x)]
    if not isinstance(model, KSparseAutoencoder):
        return [encode_all(model, x)]
    kept = tuple(alpha for alpha in alphas if alpha is not None)
    return sparse_codes_for(model, x, kept) if kept else [dense_relu_codes(model, x)]


def _unexplained(
    model: KSparseAutoencoder | Baseline | None, codes: sparse.csr_array | np.ndarray, x: np.ndarray
) -> float | None:
    if not isinstance(model, KSparseAutoencoder):
        return None
    reconstruction = codes @ model.weight.detach().numpy() + model.visible_bias.detach().numpy()
    return fraction_of_variance_unexplained(x, reconstruction)


def _percent(wrong: np.ndarray) -> float:
    return round(100 * float(np.mean(wrong)), 6)
