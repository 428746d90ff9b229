"""The readout: multinomial logistic regression on fixed codes, α and the penalty chosen on validation (section 4.4)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.preprocessing import StandardScaler

from ksae_lib.metrics import fraction_of_variance_unexplained
from ksae_lib.model import CodeMode
from replication.data.base import Dataset
from replication.judge.logistic import Features, LogisticProblem, Solution
from replication.methods import base
from replication.methods.base import setting

_TRANSFORMS = ("raw", "relu", "standardized")


@dataclass(frozen=True, kw_only=True)
class ReadoutConfig(base.Checked):
    """The grid and the solver; the paper states neither.

    Raises:
        ValueError: an empty grid or a value out of range.
    """

    alphas: tuple[float, ...] = setting((1.0, 2.0, 3.0, 4.0), base.each(base.ALPHA))
    """Values of the paper's α to choose from; raw pixels have none."""
    l2: tuple[float, ...] = setting((0.0001, 0.00003, 0.00001), base.each(base.POSITIVE))
    """Weights of ½‖w‖² beside the mean cross-entropy, tried from the largest with warm starts."""
    tolerance: float = setting(0.00001, base.POSITIVE)
    """L-BFGS stops when no gradient entry exceeds it."""
    max_iterations: int = setting(500, base.AT_LEAST_ONE)
    """For each weight; few of them stop the fit early."""
    dense_relu: bool = False
    """Codes of a k-sparse autoencoder keep all positive entries instead of the αk largest, as the first author's later
    code evaluates; there is no α to choose."""
    transform: str = setting("raw", (lambda value: value in _TRANSFORMS, f"choose one of {', '.join(_TRANSFORMS)}"))
    """What is done to codes before the fit: ``raw`` nothing; ``relu``; ``standardized`` to unit variance."""
    refit: bool = False
    """The test error is that of a fit with what validation chose on training and validation images together."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "alphas", tuple(float(a) for a in self.alphas))
        object.__setattr__(self, "l2", tuple(sorted((float(v) for v in self.l2), reverse=True)))
        super().__post_init__()


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
    data: Dataset, method: base.Method, model: Any, config: ReadoutConfig, device: base.Device = "auto"
) -> ReadoutResult:
    """Fit a multinomial logistic regression for each (α, l2) and keep the one with the lowest validation error.

    Of equal validation errors the first in the order of the grid is kept: small α, large l2. The test error of
    every trial is recorded for the figures, and chooses nothing.

    Args:
        data: labelled images.
        method: says what the codes are; ``Pixels`` for the images themselves.
        model: what the method fitted, on the processor.
        config: grid and solver. Only k-sparse codes have an α.
        device: where the products of the solver run.
    """
    mode = method.code_mode(config.dense_relu)
    alphas = config.alphas if mode is CodeMode.ALPHA_K else (1.0,)
    rows: list[dict[str, Any]] = []
    mistakes = []

    def fit(x: Features, y: np.ndarray, l2: Sequence[float]) -> list[Solution]:
        """A classifier for each weight of the penalty, each begun where the one before ended."""
        problem, made = LogisticProblem(x, y, data.classes, base.torch_device(device)), list[Solution]()
        for value in l2:
            made.append(problem.solve(value, config.tolerance, config.max_iterations, made[-1] if made else None))
        return made

    with base.few_threads(len(data.train_x)):
        parts = (method.codes(model, x, mode, alphas) for x in (data.train_x, data.validation_x, data.test_x))
        for alpha, train, validation, test in zip(alphas, *parts, strict=True):
            fvu = None
            if method.has_alpha:
                images = validation @ model.weight.detach().numpy() + model.visible_bias.detach().numpy()
                fvu = fraction_of_variance_unexplained(data.validation_x, images)
            train, validation, test = _transformed(config.transform, train, validation, test)
            for l2, solution in zip(config.l2, fit(train, data.train_y, config.l2), strict=True):
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
            codes = (method.codes(model, part, mode, alpha)[0] for part in (images, data.test_x))
            train, test = _transformed(config.transform, *codes)
            missed = np.flatnonzero(fit(train, labels, (chosen["l2"],))[0].predict(test) != data.test_y)
    return ReadoutResult(
        selected={name: chosen[name] for name in ("alpha", "l2") if chosen[name] is not None},
        code_mode=mode.value,
        validation_error=chosen["validation_error"],
        test_error=round(100 * len(missed) / len(data.test_y), 6),
        test_mistakes=missed.tolist(),
        trials=trials,
    )


def _transformed(how: str, *parts: Features) -> Sequence[Features]:
    """Codes after the transformation, which the first part decides."""
    if how == "relu":
        return [part * (part > 0) for part in parts]
    # Zeros stay zeros: the intercept makes centering idle.
    return list(map(StandardScaler(with_mean=False).fit(parts[0]).transform, parts)) if how == "standardized" else parts


def _percent(wrong: np.ndarray) -> float:
    return round(100 * float(np.mean(wrong)), 6)
