"""Multinomial logistic regression by preconditioned L-BFGS, the readout of section 4.4."""

import warnings
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from scipy import sparse
from scipy.linalg import solve_triangular
from scipy.optimize import minimize
from torch import Tensor

from replication.methods import base

_PRECONDITIONER_EXAMPLES = 10_000
_MEMORY = 20

Features: TypeAlias = np.ndarray | sparse.csr_array


class Solution(NamedTuple):
    """A fitted classifier: ``argmax(x W + b)``."""

    weight: np.ndarray
    """W (shape: [features, classes])."""
    bias: np.ndarray
    """b (shape: [classes])."""
    iterations: int
    converged: bool

    def predict(self, x: Features) -> np.ndarray:
        """The most probable class of each example (shape: [examples])."""
        return np.asarray(x @ self.weight.astype(x.dtype) + self.bias.astype(x.dtype)).argmax(axis=1)


class LogisticProblem:
    """Minimize ``mean cross-entropy + l2/2 ‖W‖²`` over weights W and biases b; b has no penalty.

    scikit-learn's solver is as fast at k = 25, but 5.3 times slower on dense codes (benchmarks/results/readout.json).
    L-BFGS works on ``V = Lᵀ W``, where ``L Lᵀ = c Cov(x) + l2 I``: the Hessian's diagonal block of a class, with the
    curvature of the softmax replaced by its mean c over examples and classes at the start, and the covariance by that
    of the first 10,000 examples. Correlated features of unlike scale then cost a fraction of the iterations; the
    minimum is that of the problem as stated. Products with ``x`` run on the device, in the precision of ``x``; the
    softmax runs there in float64; the rest is SciPy's, on the host.

    Args:
        x: features, dense or CSR (shape: [examples, features]), float32 or float64.
        y: classes (shape: [examples]), integers 0 … classes - 1.
        classes: their number.
        device: where the products run; a GPU holds sparse features as a dense matrix.

    Raises:
        ValueError: features that are not finite or of another form, or classes that are not so numbered.
    """

    def __init__(self, x: Features, y: np.ndarray, classes: int, device: torch.device | str = "cpu") -> None:
        _refuse_unfit(x, y, classes)
        self._x, self._transposed = _tensors(x, torch.device(device))
        self._y = torch.from_numpy(np.asarray(y, dtype=np.int64)).to(device)
        self._classes = classes
        self._examples = torch.arange(len(y), device=device)
        self._mean = np.asarray(x.mean(axis=0, dtype=np.float64)).ravel()
        part = x[:_PRECONDITIONER_EXAMPLES]
        dense = part if isinstance(part, np.ndarray) else part.toarray()
        self._covariance = np.cov(dense.T.astype(np.float64), ddof=0).reshape(x.shape[1], x.shape[1])

    def solve(self, l2: float, tolerance: float, max_iterations: int, start: Solution | None = None) -> Solution:
        """The minimum for one weight of the penalty.

        Args:
            l2: weight of ``½‖W‖²``, positive.
            tolerance: ``converged`` says whether no entry of the gradient exceeds it at the end.
            max_iterations: more are not made.
            start: where to start; by default from zero.
        """
        inputs, classes = len(self._mean), self._classes
        weight, bias = np.zeros((inputs, classes)), np.zeros(classes)
        if start is not None:
            # Centred inputs take the correlation between weights and biases away.
            weight, bias = start.weight, start.bias + self._mean @ start.weight
        p = torch.softmax(self._logits(weight, bias), dim=1)
        curvature = max(float((p * (1 - p)).mean()), l2)
        factor = np.linalg.cholesky(curvature * self._covariance + l2 * np.eye(inputs))
        scale = np.sqrt(curvature)
        steepest = np.inf

        def unpack(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            weight = v[: inputs * classes].reshape(inputs, classes)
            return solve_triangular(factor, weight, lower=True, trans=1, check_finite=False), v[-classes:] / scale

        def value_and_gradient(v: np.ndarray) -> tuple[float, np.ndarray]:
            nonlocal steepest
            value, by_weight, by_bias = self._value_and_gradient(*unpack(v), l2)
            # Of the problem as stated, whose inputs are not centred.
            stated = by_weight + np.outer(self._mean, by_bias)
            steepest = max(np.abs(stated).max(), np.abs(by_bias).max())
            by_v = solve_triangular(factor, by_weight, lower=True, check_finite=False)
            return value, np.concatenate([by_v.ravel(), by_bias / scale])

        def stop(_: np.ndarray) -> None:
            if steepest <= tolerance:
                raise StopIteration

        v, iterations = np.concatenate([(factor.T @ weight).ravel(), bias * scale]), 0
        value_and_gradient(v)
        if steepest > tolerance:
            limits = {"maxiter": max_iterations, "maxfun": 10 * max_iterations, "maxcor": _MEMORY, "ftol": 0, "gtol": 0}
            result = minimize(value_and_gradient, v, jac=True, method="L-BFGS-B", callback=stop, options=limits)
            v, iterations = result.x, int(result.nit)
            value_and_gradient(v)
        weight, bias = unpack(v)
        return Solution(weight, bias - self._mean @ weight, iterations, bool(steepest <= tolerance))

    def _logits(self, weight: np.ndarray, bias: np.ndarray) -> Tensor:
        shift, slope = (torch.from_numpy(part).to(self._x) for part in (bias - self._mean @ weight, weight))
        # The softmax needs float64: among examples that are nearly the same, float32 errors do not average out.
        return (self._x @ slope + shift).double()

    def _value_and_gradient(
        self, weight: np.ndarray, bias: np.ndarray, l2: float
    ) -> tuple[float, np.ndarray, np.ndarray]:
        # Softmax by hand: torch's takes twice as long on rows of few classes.
        logits = self._logits(weight, bias)
        logits -= logits.amax(dim=1, keepdim=True)
        own = logits[self._examples, self._y]
        error = logits.exp_()
        total = error.sum(dim=1, keepdim=True)
        value = float((total.log().squeeze(1) - own).mean()) + l2 / 2 * float((weight**2).sum())
        error /= total * len(error)
        error[self._examples, self._y] -= 1 / len(error)
        by_bias = error.sum(dim=0).cpu().numpy()
        error = error.to(self._x.dtype)
        product = (error.T @ self._x).T if self._transposed is None else self._transposed @ error
        by_weight = product.double().cpu().numpy() - np.outer(self._mean, by_bias) + l2 * weight
        return value, by_weight, by_bias


def _refuse_unfit(x: Features, y: np.ndarray, classes: int) -> None:
    if not (isinstance(x, np.ndarray) or x.format == "csr") or x.dtype not in (np.float32, np.float64):
        raise ValueError("Features must be an array or a CSR matrix of float32 or float64.")
    if not np.isfinite(x if isinstance(x, np.ndarray) else x.data).all():
        raise ValueError("Features hold NaN or infinite values: the encoder they come from has diverged.")
    base.check_classes(y, x.shape[0], classes)


def _tensors(x: Features, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """The features, and of sparse ones also the transpose, which torch multiplies faster when stored by rows."""
    if isinstance(x, np.ndarray) or device.type != "cpu":
        return torch.from_numpy(x if isinstance(x, np.ndarray) else x.toarray()).to(device), None
    return _csr_tensor(x), _csr_tensor(sparse.csr_array(x.T))


def _csr_tensor(x: sparse.csr_array) -> Tensor:
    rows, columns, values = (torch.from_numpy(part) for part in (x.indptr, x.indices, x.data))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse (CSR tensor support is in beta|invariant checks)")
        return torch.sparse_csr_tensor(rows, columns, values, x.shape)
