from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from replication.data import Dataset
from replication.judge.batched_logistic import BatchedLogisticProblem, as_tensor
from replication.judge.logistic import LogisticProblem
from replication.judge.readout import ReadoutConfig, evaluate

L2 = (0.1, 0.001, 0.00001)


@pytest.fixture
def data() -> tuple[np.ndarray, np.ndarray]:
    """Correlated features of unlike scale, half of them zero."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 600)
    x = rng.normal(size=(600, 12)) @ rng.normal(size=(12, 12)) + rng.normal(size=(4, 12))[y]
    x *= np.geomspace(0.01, 3, 12) * (rng.random(x.shape) < 0.5)
    return x.astype(np.float32), y


def test_all_penalties_at_once_give_the_solutions_of_one_after_the_other(data: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = data
    alone = LogisticProblem(x.astype(np.float64), y, 4)
    for features in (x, sparse.csr_array(x)):
        found = BatchedLogisticProblem(features, y, 4, "cpu").solve(L2, 1e-6, 500)
        for solution, l2 in zip(found, L2, strict=True):
            wanted = alone.solve(l2, 1e-9, 2000)
            assert solution.converged
            assert solution.weight == pytest.approx(wanted.weight, rel=2e-2, abs=2e-3 * np.abs(wanted.weight).max())
            assert np.array_equal(solution.predict(x), wanted.predict(x))


def test_a_limit_of_iterations_is_kept_and_said(data: tuple[np.ndarray, np.ndarray]) -> None:
    found = BatchedLogisticProblem(*data, 4, "cpu").solve(L2, 1e-7, 2)
    assert [solution.iterations for solution in found] == [2, 2, 2]
    assert not any(solution.converged for solution in found)


def test_unfit_features_are_refused(data: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = data
    with pytest.raises(ValueError, match="NaN"):
        BatchedLogisticProblem(np.full_like(x, np.nan), y, 4, "cpu")
    with pytest.raises(ValueError, match="from 0 to 2"):
        BatchedLogisticProblem(x, y, 3, "cpu")


def test_sparse_features_are_unpacked_whole() -> None:
    x = sparse.random_array((7, 5), density=0.4, format="csr", dtype=np.float32, rng=np.random.default_rng(0))
    assert np.array_equal(as_tensor(x, "cpu").numpy(), x.toarray())


def test_readouts_by_either_solver_agree_to_a_fiftieth_of_a_point(
    mnist: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ReadoutConfig(l2=(0.01, 0.001), tolerance=1e-5)
    wanted = evaluate(mnist, None, config)
    monkeypatch.setattr(
        "replication.judge.readout.BatchedLogisticProblem", lambda *args: BatchedLogisticProblem(*args[:3], "cpu")
    )
    found = evaluate(mnist, None, config, "meta")
    assert found.trials["converged"].all()
    assert found.trials["test_error"].to_numpy() == pytest.approx(wanted.trials["test_error"].to_numpy(), abs=0.02)
