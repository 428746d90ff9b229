"""The readout: multinomial logistic regression on fixed codes, α and the penalty chosen on validation (section 4.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from torch import nn

from ksae_lib.metrics import fraction_of_variance_unexplained
from ksae_lib.model import CodeMode
from replication.judge.logistic import Features, LogisticProblem, Solution
from replication.judge.threads import few_threads
from replication.methods.base import Device, torch_device

if TYPE_CHECKING:
    from replication.data.base import Dataset
    from replication.methods.base import Method


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
    """What validation chose: l2, and alpha for codes that have one."""
    code_mode: str
    """The codes that were used, a value of ``CodeMode``."""
    validation_error: float
    test_error: float
    test_mistakes: list[int]
    """Misclassified test images by index, for paired tests."""
    trials: pd.DataFrame
    """One row a trial: alpha, l2, train_error, validation_error, test_error, iterations, converged; for k-sparse codes
    also fvu, the variance of the validation images that the same codes leave unexplained."""


def evaluate(
    data: Dataset, method: Method, model: nn.Module, config: ReadoutConfig, device: Device = "auto"
) -> ReadoutResult:
    """Fit a multinomial logistic regression for each (α, l2) and keep the one with the lowest validation error.

    Of equal validation errors the first in the order of the grid is kept: small α, large l2. The test error of
    every trial is recorded for the figures, and chooses nothing.

    Args:
        data: labelled images.
        method: says what the codes are; ``pixels`` for the images themselves.
        model: what the method fitted, on the processor.
        config: grid and solver. Only k-sparse codes have an α.
        device: where the products of the solver run.
    """
    mode = method.code_mode(config.dense_relu)
    alphas = config.alphas if mode is CodeMode.ALPHA_K else (1.0,)
    rows: list[dict[str, Any]] = []
    mistakes = []
    with few_threads(len(data.train_x)):
        parts = (method.codes(model, x, mode, alphas) for x in (data.train_x, data.validation_x, data.test_x))
        for alpha, train, validation, test in zip(alphas, *parts, strict=True):
            fvu = _unexplained(model, validation, data.validation_x) if method.has_alpha else None
            solutions = _solutions(train, data.train_y, data.classes, config, config.l2, device)
            for l2, solution in zip(config.l2, solutions, strict=True):
                wrong = solution.predict(test) != data.test_y
                mistakes.append(np.flatnonzero(wrong))
                rows.append(
                    {
                        "alpha": alpha if mode is CodeMode.ALPHA_K else None,
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
            images = np.concatenate([data.train_x, data.validation_x])
            labels = np.concatenate([data.train_y, data.validation_y])
            alpha = (chosen["alpha"] or 1.0,)
            train, test = (method.codes(model, part, mode, alpha)[0] for part in (images, data.test_x))
            solution = _solutions(train, labels, data.classes, config, (chosen["l2"],), device)[0]
            missed = np.flatnonzero(solution.predict(test) != data.test_y)
    return ReadoutResult(
        selected={name: chosen[name] for name in ("alpha", "l2") if chosen[name] is not None},
        code_mode=mode.value,
        validation_error=chosen["validation_error"],
        test_error=round(100 * len(missed) / len(data.test_y), 6),
        test_mistakes=missed.tolist(),
        trials=trials,
    )


def _solutions(
    x: Features, y: np.ndarray, classes: int, config: ReadoutConfig, l2: Sequence[float], device: Device
) -> list[Solution]:
    """A classifier for each weight of the penalty, each begun where the one before ended."""
    problem, made = LogisticProblem(x, y, classes, torch_device(device)), list[Solution]()
    for value in l2:
        made.append(problem.solve(value, config.tolerance, config.max_iterations, made[-1] if made else None))
    return made


def _unexplained(model: Any, codes: Features, x: np.ndarray) -> float:
    reconstruction = codes @ model.weight.detach().numpy() + model.visible_bias.detach().numpy()
    return fraction_of_variance_unexplained(x, reconstruction)


def _percent(wrong: np.ndarray) -> float:
    return round(100 * float(np.mean(wrong)), 6)
