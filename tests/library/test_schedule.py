from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksae_lib import schedule


def test_the_papers_example_falls_from_100_to_15_over_the_first_half() -> None:
    ks = [schedule.sparsity(epoch, 5000, 15, 100) for epoch in range(5000)]
    assert ks[0] == 100
    assert ks[1250] == round((100 + 15) / 2)
    assert ks[2499] in (15, 16)
    assert set(ks[2500:]) == {15}
    assert set(ks) == set(range(15, 101))


def test_a_short_schedule_by_hand() -> None:
    assert [schedule.sparsity(epoch, 10, 15, 100) for epoch in range(10)] == [100, 83, 66, 49, 32, 15, 15, 15, 15, 15]


@given(st.integers(1, 300), st.integers(1, 50), st.integers(1, 50), st.floats(0, 1))
def test_k_never_rises_and_stays_between_its_ends(epochs: int, k: int, k_start: int, ramp: float) -> None:
    ks = [schedule.sparsity(epoch, epochs, k, k_start, ramp) for epoch in range(epochs)]
    assert all(before >= after for before, after in pairwise(ks))
    assert ks[0] == max(k, k_start)
    assert all(type(value) is int for value in ks)
    assert all(value == k for epoch, value in enumerate(ks) if epoch >= max(ramp * epochs, 1))
    assert min(ks) >= k


@pytest.mark.parametrize("k_start", [None, 3, 15])
def test_k_is_constant_without_a_larger_start(k_start: int | None) -> None:
    assert {schedule.sparsity(epoch, 10, 15, k_start) for epoch in range(10)} == {15}


def test_a_ramp_over_the_whole_run() -> None:
    assert [schedule.sparsity(epoch, 5, 0, 10, ramp=1.0) for epoch in range(5)] == [10, 8, 6, 4, 2]


@pytest.mark.parametrize("ramp", [-0.1, 1.1, float("nan")])
def test_impossible_ramp_is_refused(ramp: float) -> None:
    with pytest.raises(ValueError, match="ramp = .* choose a number from 0 to 1"):
        schedule.sparsity(0, 10, 15, 100, ramp)


@pytest.mark.parametrize("epoch", [-1, 10])
def test_epochs_outside_the_run_are_refused(epoch: int) -> None:
    with pytest.raises(ValueError, match=f"epoch = {epoch} is not one of the 10 epochs"):
        schedule.linear_by_epoch(epoch, 10, 1.0, 0.0)
    with pytest.raises(ValueError, match=f"epoch = {epoch} is not one of the 10 epochs"):
        schedule.sparsity(epoch, 10, 15, 100)


def test_rate_and_momentum_are_linear_between_their_ends() -> None:
    rates = [schedule.linear_by_epoch(epoch, 200, 1.0, 0.001) for epoch in range(200)]
    assert rates[0] == 1.0
    assert rates[-1] == pytest.approx(0.001, rel=1e-12)
    steps = [after - before for before, after in pairwise(rates)]
    assert steps == pytest.approx([-0.999 / 199] * 199, rel=1e-9)


@pytest.mark.parametrize("epochs", [1, 7])
def test_without_an_end_the_rate_is_constant(epochs: int) -> None:
    assert {schedule.linear_by_epoch(epoch, epochs, 0.01, None) for epoch in range(epochs)} == {0.01}


def test_a_single_epoch_uses_the_start() -> None:
    assert schedule.linear_by_epoch(0, 1, 1.0, 0.001) == 1.0
