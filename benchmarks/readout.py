"""Seconds to fit the readout of section 4.4: our solver beside scikit-learn's on the same codes, in one run.

Both minimize the same penalized cross-entropy by L-BFGS until no entry of the gradient exceeds 1e-5 or 500 iterations
are made, over the same path of penalties with warm starts; ``converged`` counts the penalties that met the tolerance.
Codes are those of k-sparse autoencoders trained for a few epochs (CSR, the 3k largest) and of an untrained ReLU
autoencoder (dense). Test errors are in percent, at the smallest penalty.
"""

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from benchmarks.common import hardware, rounded
from replication.data import load_data
from replication.data.base import DataConfig
from replication.judge.logistic import Features, LogisticProblem, Solution
from replication.methods.autoencoders import Autoencoder
from replication.methods.k_sparse import KSparse

OPTIONS = {"examples": (50_000, "training images"), "epochs": (10, "epochs of the encoders")}
_L2 = (1e-4, 3e-5, 1e-5)
_TOLERANCE, _MAX_ITERATIONS, _ALPHA = 1e-5, 500, 3.0
Fitted = tuple[Callable[[Features], np.ndarray], list[int], int]
"""What predicts, iterations at each penalty, and how many penalties converged."""


def _ours(x: Features, y: np.ndarray, classes: int) -> Fitted:
    problem = LogisticProblem(x, y, classes)
    solutions: list[Solution] = []
    for l2 in _L2:
        solutions.append(problem.solve(l2, _TOLERANCE, _MAX_ITERATIONS, solutions[-1] if solutions else None))
    return solutions[-1].predict, [s.iterations for s in solutions], sum(s.converged for s in solutions)


def _scikit_learn(x: Features, y: np.ndarray, classes: int) -> Fitted:
    classifier = LogisticRegression(tol=_TOLERANCE, max_iter=_MAX_ITERATIONS, warm_start=True)
    iterations: list[int] = []
    for l2 in _L2:
        classifier.set_params(C=1 / (l2 * len(y)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            classifier.fit(x, y)
        iterations.append(int(classifier.n_iter_[0]))
    return classifier.predict, iterations, sum(n < _MAX_ITERATIONS for n in iterations)


def measure(options: Any) -> dict[str, Any]:
    """Time both solvers on each kind of ``codes``."""
    data = load_data(DataConfig(train_size=options.examples))
    settings: dict[str, Any] = {"k_start": None, "epochs": options.epochs, "bias_init": "centered"}
    methods: dict[str, Any] = {f"k{k}": KSparse(k=k, **settings) for k in (25, 100)}
    methods["relu"] = Autoencoder(weight_std=0.05)
    rows: dict[str, Any] = {}
    for name, method in methods.items():
        untrained, mode = method.build(data.train_x.shape[1]), method.code_mode()
        model = untrained if name == "relu" else method.fit(data.train_x, progress=False)[0]
        x, test_x = (method.codes(model, part, mode, (_ALPHA,))[0] for part in (data.train_x, data.test_x))
        rows[name] = {"share_nonzero": rounded(1.0 if isinstance(x, np.ndarray) else x.nnz / np.prod(x.shape))}
        for solver, fit in (("ours", _ours), ("scikit_learn", _scikit_learn)):
            started = time.perf_counter()
            predict, iterations, converged = fit(x, data.train_y, data.classes)
            seconds = rounded(time.perf_counter() - started)
            error = round(100 * float(np.mean(predict(test_x) != data.test_y)), 2)
            found = {"s": seconds, "iterations": iterations, "converged": converged, "test_error": error}
            rows[name] |= {f"{solver}_{what}": value for what, value in found.items()}
        rows[name]["ratio"] = rounded(rows[name]["scikit_learn_s"] / rows[name]["ours_s"])
    return {"codes": rows, "examples": len(data.train_x), "epochs": options.epochs, "l2": _L2, "hardware": hardware()}
