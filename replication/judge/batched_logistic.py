"""Logistic regression for several penalties at once, on any device: the readout of section 4.4 for a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from replication.judge.logistic import Features, Solution, preconditioner, refuse_unfit

_MEMORY = 20
_SUFFICIENT = 1e-4
_HALVINGS = 30
_ROUNDING = 1e-6


class BatchedLogisticProblem:
    """The problem of ``LogisticProblem``, solved for all its penalties in one batch.

    All penalties share the products with the features, which are held on the device as a dense float32 matrix; the
    rest is float64. Variables are preconditioned as ``LogisticProblem`` does it.

    Args:
        x: features, dense or CSR (shape: [examples, features]).
        y: classes (shape: [examples]), integers 0 … classes - 1.
        classes: their number.
        device: where the work is done.

    Raises:
        ValueError: features that are not finite, or classes that are not so numbered.
    """

    def __init__(self, x: Features, y: np.ndarray, classes: int, device: torch.device | str) -> None:
        refuse_unfit(x, y, classes)
        self.device = torch.device(device)
        self._x = as_tensor(x, self.device)
        self._y = torch.nn.functional.one_hot(torch.from_numpy(y).long().to(self.device), classes).double()
        mean, covariance = preconditioner(x)
        self._mean, self._covariance = (torch.from_numpy(part).to(self.device) for part in (mean, covariance))

    @torch.no_grad()
    def solve(self, l2: Sequence[float], tolerance: float, max_iterations: int) -> list[Solution]:
        """The minimum for each weight of the penalty, from zero.

        Args:
            l2: weights of ``½‖W‖²``, positive.
            tolerance: ``converged`` says whether no entry of a problem's gradient exceeds it at the end.
            max_iterations: more are not made.
        """
        inputs, classes, problems = len(self._mean), self._y.shape[1], len(l2)
        penalty = torch.tensor(l2, dtype=torch.float64, device=self.device).view(-1, 1, 1)
        # Of the softmax at the start, which knows nothing: p = 1 / classes.
        curvature = penalty.clamp(min=(1 - 1 / classes) / classes)
        ridge = penalty * torch.eye(inputs, dtype=torch.float64, device=self.device)
        factor = torch.linalg.cholesky(curvature * self._covariance + ridge)
        scale = curvature.sqrt()

        def unpack(v: Tensor) -> tuple[Tensor, Tensor]:
            weight = v[:, : inputs * classes].view(problems, inputs, classes)
            return torch.linalg.solve_triangular(factor.mT, weight, upper=True), v[:, None, -classes:] / scale

        def evaluate(v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            """Values, gradients by v, and largest entries of the gradients of the problems as stated."""
            weight, bias = unpack(v)
            value, by_weight, by_bias = self._value_and_gradient(weight, bias, penalty)
            stated = by_weight + self._mean.view(-1, 1) * by_bias
            steepest = torch.maximum(stated.abs().amax((1, 2)), by_bias.abs().amax((1, 2)))
            by_v = torch.linalg.solve_triangular(factor, by_weight, upper=False)
            return value, torch.cat([by_v.flatten(1), (by_bias / scale).flatten(1)], 1), steepest

        start = torch.zeros(problems, (inputs + 1) * classes, dtype=torch.float64, device=self.device)
        v, steepest, iterations = minimize(evaluate, start, tolerance, max_iterations)
        weight, bias = unpack(v)
        bias = bias - (self._mean @ weight).unsqueeze(1)
        return [
            Solution(w.cpu().numpy(), b.squeeze(0).cpu().numpy(), int(n), bool(s <= tolerance))
            for w, b, n, s in zip(weight, bias, iterations, steepest, strict=True)
        ]

    def _value_and_gradient(self, weight: Tensor, bias: Tensor, penalty: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        problems, inputs, classes = weight.shape
        shift = bias - (self._mean @ weight).unsqueeze(1)
        together = weight.permute(1, 0, 2).reshape(inputs, -1)
        logits = (self._x @ together.to(self._x.dtype)).double().view(-1, problems, classes) + shift.permute(1, 0, 2)
        logits -= logits.logsumexp(2, keepdim=True)
        value = -(logits * self._y.unsqueeze(1)).sum((0, 2)) / len(self._y)
        value = value + penalty.flatten() / 2 * (weight**2).sum((1, 2))
        error = (logits.exp_() - self._y.unsqueeze(1)) / len(self._y)
        by_bias = error.sum(0).unsqueeze(1)
        product = self._x.T @ error.reshape(len(error), -1).to(self._x.dtype)
        by_weight = product.double().view(inputs, problems, classes).permute(1, 0, 2)
        return value, by_weight - self._mean.view(-1, 1) * by_bias + penalty * weight, by_bias


def minimize(
    evaluate: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]], start: Tensor, tolerance: float, max_iterations: int
) -> tuple[Tensor, Tensor, Tensor]:
    """L-BFGS with backtracking for several smooth convex functions at once, each with its own memory and step.

    Args:
        evaluate: of points (shape: [functions, dimensions]) their values, gradients, and what must fall to the
            tolerance.
        start: where to start.
        tolerance: a function is left alone from where it has fallen to it.
        max_iterations: more are not made.

    Returns:
        The last points, what ``evaluate`` said must fall there, and how many iterations each function took.
    """
    v = start
    value, gradient, steepest = evaluate(v)
    iterations = torch.zeros(len(v), dtype=torch.int64, device=v.device)
    stuck = torch.zeros(len(v), dtype=torch.bool, device=v.device)
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    scale = torch.ones_like(value)
    for _ in range(max_iterations):
        active = (steepest > tolerance) & ~stuck
        if not bool(active.any()):
            break
        direction = -_inverse_hessian_times(gradient, pairs, scale)
        slope = (direction * gradient).sum(1)
        if not pairs:
            # Nothing is known of the curvature yet.
            direction /= gradient.abs().sum(1, keepdim=True).clamp(min=1)
            slope = (direction * gradient).sum(1)
        step = active.to(v.dtype)
        for _ in range(_HALVINGS):
            new = v + step.unsqueeze(1) * direction
            new_value, new_gradient, new_steepest = evaluate(new)
            low = (new_value <= value + _SUFFICIENT * step * slope) | ~active
            # So near the minimum that values differ by rounding alone, their slope still says whether a step is short
            # enough (Hager and Zhang 2005, equation 4).
            near = new_value <= value + _ROUNDING * (1 + value.abs())
            low |= near & ((direction * new_gradient).sum(1) <= (2 * _SUFFICIENT - 1) * slope)
            if bool(low.all()):
                break
            step = torch.where(low, step, step / 2)
        # Where no step lowers the value any more, rounding is all that is left.
        stuck |= ~low
        moved = (active & low).unsqueeze(1)
        s, y = torch.where(moved, new - v, 0.0), torch.where(moved, new_gradient - gradient, 0.0)
        curvature = (s * y).sum(1)
        known = curvature > 1e-12 * (y * y).sum(1)
        pairs = [*pairs, (s, y, torch.where(known, 1 / curvature, 0.0))][-_MEMORY:]
        scale = torch.where(known, curvature / (y * y).sum(1), scale)
        v, gradient = torch.where(moved, new, v), torch.where(moved, new_gradient, gradient)
        moved = moved.squeeze(1)
        value, steepest = torch.where(moved, new_value, value), torch.where(moved, new_steepest, steepest)
        iterations += moved
    return v, steepest, iterations


def _inverse_hessian_times(g: Tensor, pairs: Sequence[tuple[Tensor, Tensor, Tensor]], scale: Tensor) -> Tensor:
    """The two loops of L-BFGS; a pair whose last entry is zero has no effect."""
    q, shares = g.clone(), []
    for s, y, inverse in reversed(pairs):
        share = inverse * (s * q).sum(1)
        q -= share.unsqueeze(1) * y
        shares.append(share)
    q *= scale.unsqueeze(1)
    for (s, y, inverse), share in zip(pairs, reversed(shares), strict=True):
        q += s * (share - inverse * (y * q).sum(1)).unsqueeze(1)
    return q


def as_tensor(x: Features, device: torch.device | str) -> Tensor:
    """Features as a dense float32 matrix on a device; sparse ones are unpacked there."""
    if isinstance(x, np.ndarray):
        return torch.from_numpy(np.asarray(x, np.float32)).to(device)
    dense = torch.zeros(x.shape, device=device)
    rows = np.repeat(np.arange(x.shape[0]), np.diff(x.indptr))
    where = (torch.from_numpy(part.astype(np.int64)).to(device) for part in (rows, x.indices))
    dense[tuple(where)] = torch.from_numpy(x.data.astype(np.float32)).to(device)
    return dense
