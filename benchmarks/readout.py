"""Seconds to fit the readout of section 4.4: our solver beside scikit-learn's on the same codes, in one run.

Both minimize the same penalized cross-entropy by L-BFGS until no entry of the gradient exceeds 1e-5 or 500 iterations
are made, over the same path of penalties with warm starts; ``converged`` counts the penalties that met the tolerance.
Codes are those of k-sparse autoencoders trained for a few epochs (CSR, the 3k largest) and of an untrained ReLU
autoencoder (dense).
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from benchmarks.engines import hardware, output_options, present, rounded
from ksae_lib.training import TrainConfig, train
from replication.data import Dataset, load_mnist
from replication.judge.logistic import Features, LogisticProblem, Solution
from replication.judge.readout import dense_codes, sparse_codes
from replication.methods import AutoencoderConfig

_L2 = (1e-4, 3e-5, 1e-5)
_TOLERANCE, _MAX_ITERATIONS, _ALPHA = 1e-5, 500, 3.0


def _codes(data: Dataset, epochs: int) -> dict[str, tuple[Features, Features]]:
    """Training and test codes of each encoder."""
    made: dict[str, tuple[Features, Features]] = {}
    for k in (25, 100):
        config = TrainConfig(k=k, k_start=None, epochs=epochs, bias_init="centered")
        model, _ = train(data.train_x, config, progress=False)
        made[f"k{k}"] = sparse_codes(model, data.train_x, _ALPHA), sparse_codes(model, data.test_x, _ALPHA)
    relu = AutoencoderConfig(weight_std=0.05).build(data.train_x.shape[1])
    made["relu"] = dense_codes(relu, data.train_x, 1.0), dense_codes(relu, data.test_x, 1.0)
    return made


class _Fitted(NamedTuple):
    predict: Callable[[Features], np.ndarray]
    iterations: list[int]
    converged: int


def _ours(x: Features, y: np.ndarray, classes: int) -> _Fitted:
    problem = LogisticProblem(x, y, classes)
    solutions: list[Solution] = []
    for l2 in _L2:
        solutions.append(problem.solve(l2, _TOLERANCE, _MAX_ITERATIONS, solutions[-1] if solutions else None))
    return _Fitted(solutions[-1].predict, [s.iterations for s in solutions], sum(s.converged for s in solutions))


def _scikit_learn(x: Features, y: np.ndarray, classes: int) -> _Fitted:
    classifier = LogisticRegression(tol=_TOLERANCE, max_iter=_MAX_ITERATIONS, warm_start=True)
    iterations: list[int] = []
    for l2 in _L2:
        classifier.set_params(C=1 / (l2 * len(y)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            classifier.fit(x, y)
        iterations.append(int(classifier.n_iter_[0]))
    return _Fitted(classifier.predict, iterations, sum(n < _MAX_ITERATIONS for n in iterations))


def benchmark(data: Dataset, epochs: int) -> dict[str, Any]:
    """Time both solvers on each kind of codes.

    Args:
        data: labelled images.
        epochs: length of the encoders' training.

    Returns:
        By kind of codes and solver: seconds, iterations, penalties that converged and test error at the smallest one,
        in percent; and on what.
    """
    results: dict[str, Any] = {}
    for name, (x, test_x) in _codes(data, epochs).items():
        row: dict[str, Any] = {"share_nonzero": rounded(1.0 if isinstance(x, np.ndarray) else x.nnz / np.prod(x.shape))}
        for solver, fit in (("ours", _ours), ("scikit_learn", _scikit_learn)):
            started = time.perf_counter()
            fitted = fit(x, data.train_y, data.classes)
            row[f"{solver}_s"] = rounded(time.perf_counter() - started)
            row[f"{solver}_iterations"], row[f"{solver}_converged"] = fitted.iterations, fitted.converged
            row[f"{solver}_test_error"] = round(100 * float(np.mean(fitted.predict(test_x) != data.test_y)), 2)
        results[name] = row | {"ratio": rounded(row["scikit_learn_s"] / row["ours_s"])}
    return {"codes": results, "examples": len(data.train_x), "epochs": epochs, "l2": _L2, "hardware": hardware()}


def table(results: dict[str, Any]) -> str:
    """Lay the results out as aligned text."""
    machine = results["hardware"]
    lines = [f"Readout, {machine['cpu']}, {machine['cores']} cores: seconds for {len(_L2)} penalties, test error in %"]
    for name, row in results["codes"].items():
        lines.append(
            f"{name:6} ours {row['ours_s']:7.2f} s {row['ours_test_error']:.2f}%   "
            f"scikit-learn {row['scikit_learn_s']:7.2f} s {row['scikit_learn_test_error']:.2f}%   "
            f"ratio {row['ratio']:.1f}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readout", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--examples", type=int, default=50_000, help="training images (default: 50000)")
    parser.add_argument("--epochs", type=int, default=10, help="epochs of the encoders (default: 10)")
    output_options(parser)
    options = parser.parse_args(arguments)
    if options.epochs < 1:
        parser.error(f"--epochs {options.epochs} is not possible: it must be at least 1.")
    try:
        data = load_mnist(train_size=options.examples)
    except ValueError as error:
        parser.error(str(error))
    results = benchmark(data, options.epochs)
    present(results, table, options)


if __name__ == "__main__":
    main()
