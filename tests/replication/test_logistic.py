from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from replication.judge.logistic import LogisticProblem

TIGHT = {"tolerance": 1e-7, "max_iterations": 2000}
L2 = (0.1, 0.001, 0.00001)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    """Correlated features of unlike scale and mean, a third of them zero, three classes."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 400)
    x = rng.normal(size=(400, 12)) @ rng.normal(size=(12, 12)) + 2 * np.eye(3, 12)[y]
    x = (x + 3) * np.logspace(-1, 1, 12)
    x[rng.random(x.shape) < 0.3] = 0
    return x, y


@pytest.mark.parametrize("l2", [0.1, 0.001])
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array])
def test_the_minimum_is_that_of_scikit_learn(data: tuple[np.ndarray, np.ndarray], form: type, l2: float) -> None:
    x, y = data
    found = LogisticProblem(form(x), y, 3).solve(l2, **TIGHT)
    direct = LogisticRegression(C=1 / (l2 * len(y)), tol=1e-10, max_iter=20_000, solver="newton-cg").fit(x, y)
    assert found.converged
    assert np.allclose(found.weight.T, direct.coef_, atol=1e-5)
    assert np.allclose(found.bias - found.bias.mean(), direct.intercept_ - direct.intercept_.mean(), atol=1e-4)
    assert np.array_equal(found.predict(form(x)), direct.predict(x))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array])
def test_float32_products_on_any_device_give_the_path_of_float64(form: type, device: str) -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 600)
    x = rng.normal(size=(600, 12)) @ rng.normal(size=(12, 12)) + rng.normal(size=(4, 12))[y]
    x = (x * np.geomspace(0.01, 3, 12) * (rng.random(x.shape) < 0.5)).astype(np.float32)
    exact, found = LogisticProblem(x.astype(np.float64), y, 4), LogisticProblem(form(x), y, 4, device)
    start = None
    for l2 in L2:
        wanted, start = exact.solve(l2, 1e-9, 2000), found.solve(l2, 1e-6, 500, start)
        assert start.weight == pytest.approx(wanted.weight, rel=1e-3, abs=1e-4 * np.abs(wanted.weight).max())
        assert np.array_equal(start.predict(x), wanted.predict(x))


@pytest.mark.parametrize("device", DEVICES)
def test_sparse_features_reach_a_device_whole(device: str) -> None:
    x = sparse.random_array((7, 5), density=0.4, format="csr", dtype=np.float32, rng=np.random.default_rng(0))
    held = LogisticProblem(x, np.arange(7) % 2, 2, device)._x
    assert np.array_equal((held if held.layout is torch.strided else held.to_dense()).cpu().numpy(), x.toarray())


def test_value_and_gradient_are_those_of_the_problem_with_centred_inputs(data: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = data
    rng = np.random.default_rng(1)
    weight, bias, l2 = rng.normal(size=(12, 3)) / 10, rng.normal(size=3), 0.05
    problem = LogisticProblem(x, y, 3)

    def stated(weight: np.ndarray, bias: np.ndarray) -> float:
        z = (x - x.mean(axis=0)) @ weight + bias
        return float(np.mean(np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(y)), y]) + l2 / 2 * (weight**2).sum())

    value, by_weight, by_bias = problem._value_and_gradient(weight, bias, l2)
    assert value == pytest.approx(stated(weight, bias), rel=1e-12)
    for index in [(0, 0), (3, 1), (11, 2)]:
        step = np.zeros_like(weight)
        step[index] = 1e-6
        slope = (stated(weight + step, bias) - stated(weight - step, bias)) / 2e-6
        assert by_weight[index] == pytest.approx(slope, rel=1e-5, abs=1e-8)
    step = np.array([0, 1e-6, 0])
    assert by_bias[1] == pytest.approx((stated(weight, bias + step) - stated(weight, bias - step)) / 2e-6, rel=1e-5)


def test_a_start_near_the_minimum_saves_iterations_and_changes_nothing(data: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = data
    problem = LogisticProblem(x, y, 3)
    near = problem.solve(0.002, **TIGHT)
    cold, warm = problem.solve(0.001, **TIGHT), problem.solve(0.001, **TIGHT, start=near)
    assert warm.iterations < cold.iterations
    assert np.allclose(warm.weight, cold.weight, atol=1e-6)


def test_float32_features_come_close_and_too_few_iterations_are_told(data: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = data
    exact = LogisticProblem(x, y, 3).solve(0.01, **TIGHT)
    single = LogisticProblem(x.astype(np.float32), y, 3).solve(0.01, 1e-4, 500)
    assert single.converged and np.abs(single.weight - exact.weight).max() < 0.01
    assert not LogisticProblem(x, y, 3).solve(0.01, 1e-9, 2).converged


def test_separable_classes_stay_finite() -> None:
    x = np.repeat(np.eye(3), 50, axis=0)
    solution = LogisticProblem(x, np.arange(3).repeat(50), 3).solve(1e-6, 1e-6, 500)
    assert solution.converged and np.isfinite(solution.weight).all()
    assert np.array_equal(solution.predict(x), np.arange(3).repeat(50))


def test_convergence_is_judged_by_the_gradient_of_inputs_that_are_not_centred(
    data: tuple[np.ndarray, np.ndarray],
) -> None:
    x, y = data
    x = x + 30
    found = LogisticProblem(x, y, 3).solve(0.01, 1e-6, 500)
    z = x @ found.weight + found.bias
    p = np.exp(z - z.max(axis=1, keepdims=True))
    error = p / p.sum(axis=1, keepdims=True) - np.eye(3)[y]
    assert found.converged
    assert np.abs(x.T @ error / len(y) + 0.01 * found.weight).max() <= 1.001e-6


def test_a_start_at_the_minimum_stays_there(data: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = data
    problem = LogisticProblem(x, y, 3)
    first = problem.solve(0.01, **TIGHT)
    again = problem.solve(0.01, 2e-7, 500, first)
    assert (again.iterations, again.converged) == (0, True)


@pytest.mark.parametrize("l2", [1e-4, 1e-5])
def test_features_of_low_rank_are_fitted(l2: float) -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 2000)
    x = ((rng.normal(size=(2000, 5)) + np.eye(3, 5)[y]) @ rng.normal(size=(5, 200)) * 10).astype(np.float32)
    solution = LogisticProblem(x, y, 3).solve(l2, 1e-3, 500)
    assert np.mean(solution.predict(x) != y) < 0.4


def test_nearly_equal_examples_do_not_stall_it() -> None:
    rng = np.random.default_rng(0)
    x = (0.5 + 1e-4 * rng.random((5000, 50))).astype(np.float32)
    assert LogisticProblem(x, rng.integers(0, 10, 5000), 10).solve(1e-4, 1e-5, 500).converged


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.array([[0.0], [np.nan]]), np.array([0, 1]), "NaN or infinite"),
        (sparse.csr_array(np.array([[0.0], [np.inf]])), np.array([0, 1]), "NaN or infinite"),
        (sparse.csc_array(np.eye(2)), np.array([0, 1]), "an array or a CSR"),
        (np.array([[0], [1]]), np.array([0, 1]), "float32 or float64"),
        (np.eye(2), np.array([0, 2]), "from 0 to 1"),
        (np.eye(2), np.array([0]), "one for each of 2"),
    ],
)
def test_what_cannot_be_fitted_is_refused(x: np.ndarray, y: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LogisticProblem(x, y, 2)


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array])
def test_more_features_than_examples_are_fitted_as_any_others(form: type) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 300)) * (rng.random((40, 300)) < 0.3) + 0.5
    x[30:] = x[:10]
    y = rng.integers(0, 3, 40)
    problem = LogisticProblem(form(x), y, 3)
    found = problem.solve(0.01, **TIGHT)
    direct = LogisticRegression(C=1 / (0.01 * len(y)), tol=1e-10, max_iter=20_000, solver="newton-cg").fit(x, y)
    assert found.converged
    assert np.allclose(found.weight.T, direct.coef_, atol=1e-5)
    assert np.allclose(found.bias - found.bias.mean(), direct.intercept_ - direct.intercept_.mean(), atol=1e-4)
    assert problem.solve(0.01, **TIGHT, start=found).iterations == 0
