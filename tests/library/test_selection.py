from __future__ import annotations

from typing import Any

import hypothesis.extra.numpy as npst
import numba as nb
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ksae_lib import supp_k
from ksae_lib.engines.kernels import select
from ksae_lib.selection import RULES, check_k

METHODS = ("sort", "threshold")
LARGEST = {"float32": 3.4028234663852886e38, "float64": 1.7976931348623157e308}
DENORMAL = {"float32": 1e-45, "float64": 5e-324}


def kept(z: list[float], k: int, method: str) -> list[int]:
    return supp_k(torch.tensor(z), k, method).nonzero().flatten().tolist()


def kept_by_kernel(z: np.ndarray, k: int) -> list[int]:
    support = np.full(k, -1, np.int32)
    select(z, k, support)
    return support.tolist()


def kept_by_oracle(z: np.ndarray, k: int) -> list[int]:
    return sorted(np.argsort(-z, kind="stable")[:k].tolist())


@st.composite
def rows_and_k(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    dtype = draw(st.sampled_from(["float32", "float64"]))
    width = int(dtype[-2:])
    denormal, largest = DENORMAL[dtype], LARGEST[dtype]
    tied = [0.0, -0.0, 1.0, -1.0, 1.5, denormal, -denormal, 3 * denormal, 1e30, -1e30, largest, -largest]
    pool = draw(st.lists(st.sampled_from(tied), min_size=1, max_size=4))
    elements: st.SearchStrategy[Any] = st.one_of(
        st.sampled_from(pool), st.floats(width=width, allow_nan=False, allow_infinity=False)
    )
    elements = draw(st.sampled_from([elements, st.sampled_from(pool)]))
    units = draw(st.integers(1, 40))
    z = draw(npst.arrays(dtype, (draw(st.integers(1, 3)), units), elements=elements))
    return z, draw(st.one_of(st.sampled_from([1, units]), st.integers(1, units)))


@settings(max_examples=200)
@given(rows_and_k())
def test_sort_threshold_kernel_and_stable_argsort_agree(case: tuple[np.ndarray, int]) -> None:
    z, k = case
    expected = [kept_by_oracle(row, k) for row in z]
    for method in METHODS:
        mask = supp_k(torch.from_numpy(z), k, method)
        assert [row.nonzero().flatten().tolist() for row in mask] == expected, method
    assert [kept_by_kernel(row, k) for row in z] == expected


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("k", [1, 2, 7, 999, 1000])
def test_long_rows_with_ties_agree_with_stable_argsort(dtype: str, k: int) -> None:
    rng = np.random.default_rng(0)
    for z in (rng.normal(size=1000).astype(dtype), rng.integers(-3, 4, 1000).astype(dtype) / 7):
        expected = kept_by_oracle(z, k)
        for method in METHODS:
            assert supp_k(torch.from_numpy(z), k, method).nonzero().flatten().tolist() == expected
        assert kept_by_kernel(z, k) == expected


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("z", "k", "expected"),
    [
        ([0.5, -1.0, 2.0, 1.0, 0.0], 2, [2, 3]),
        ([3.0, 1.0, 2.0], 1, [0]),  # largest, not smallest
        ([-9.0, 0.1, 0.2, -8.0], 2, [1, 2]),  # largest, not largest in magnitude
        ([-3.0, -1.0, -2.0], 2, [1, 2]),  # negative values are kept where they are the largest
        ([1.0, 5.0, 1.0, 1.0], 2, [0, 1]),  # exactly k under ties, the lower index first
        ([2.0, 2.0, 2.0, 2.0], 3, [0, 1, 2]),
        ([-0.0, 0.0, -0.0], 2, [0, 1]),
        ([4.0, 3.0], 2, [0, 1]),
        ([-3e38, 0.0, 1.0, 3e38], 2, [2, 3]),  # largest - smallest is not a float32
    ],
)
def test_hand_computed_supports(z: list[float], k: int, expected: list[int], method: str) -> None:
    assert kept(z, k, method) == expected
    assert kept_by_kernel(np.array(z, np.float32), k) == expected


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_values_whose_sum_overflows(dtype: str) -> None:
    z = np.array([0.5, 0.6, 0.9, 1.0, 0.25], dtype) * np.finfo(dtype).max
    for method in METHODS:
        assert supp_k(torch.from_numpy(z), 2, method).nonzero().flatten().tolist() == [2, 3]
    assert kept_by_kernel(z, 2) == [2, 3]


def test_the_kernel_stays_exact_when_a_fast_math_caller_compiles_it() -> None:
    """Numba hands a caller's fast-math flags down to what is compiled for it, unless the callee refuses them."""

    @nb.njit(fastmath=True)
    def caller(z: np.ndarray, support: np.ndarray) -> None:
        select(z, 2, support)

    z = np.repeat(np.array([0.5, 0.6, 0.9, 1.0, 0.25]) * LARGEST["float64"], 2)[::2]
    support = np.empty(2, np.int32)
    before = len(select.signatures)
    caller(z, support)
    assert len(select.signatures) == before + 1, "a strided row is a signature of its own, compiled here"
    assert support.tolist() == [2, 3]


@pytest.mark.parametrize("method", METHODS)
def test_any_leading_shape_keeps_k_in_each_row(method: str) -> None:
    z = torch.randint(-2, 3, (3, 4, 9), generator=torch.Generator().manual_seed(0)).float()
    mask = supp_k(z, 4, method)
    assert mask.dtype == torch.bool and mask.shape == z.shape
    assert (mask.sum(-1) == 4).all()
    assert supp_k(torch.empty(0, 9), 4, method).shape == (0, 9)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 3, 7])
@pytest.mark.parametrize("everywhere", [False, True])
def test_kernel_ends_with_valid_indexes_on_values_that_are_not_finite(bad: float, place: int, everywhere: bool) -> None:
    z = np.full(8, bad, np.float32) if everywhere else np.arange(8, dtype=np.float32)
    z[place] = bad
    for k in (1, 3, 8):
        assert all(0 <= unit < 8 for unit in kept_by_kernel(z, k))


@pytest.mark.parametrize("k", [0, -1, 6, 2.5, float("nan"), float("inf")])
def test_impossible_k_is_refused_in_one_sentence(k: float) -> None:
    sentence = rf"k = {k} is not possible with 5 hidden units: choose a whole number from 1 to 5\."
    with pytest.raises(ValueError, match=sentence):
        supp_k(torch.zeros(2, 5), k)  # type: ignore[arg-type]


def test_check_k_names_the_setting_and_returns_an_int() -> None:
    with pytest.raises(ValueError, match="k_start = 7 is not possible with 5 hidden units"):
        check_k(7, 5, "k_start")
    assert type(check_k(3.0, 5)) is int  # type: ignore[arg-type]


def test_unknown_method_is_refused() -> None:
    with pytest.raises(ValueError, match="'kthvalue' is unknown: choose one of sort, threshold, batch_topk"):
        supp_k(torch.zeros(2, 5), 2, "kthvalue")


def test_batch_topk_keeps_the_largest_of_all_rows_together() -> None:
    z = torch.tensor([[9.0, 1.0, 8.0, 7.0], [2.0, -1.0, 0.0, 3.0], [3.0, -5.0, -4.0, -3.0]])
    kept = [[True, False, True, True], [True, False, False, True], [True, False, False, False]]
    assert supp_k(z, 2, "batch_topk").tolist() == kept
    tied = torch.zeros(3, 4)
    assert supp_k(tied, 2, "batch_topk").flatten().tolist() == [True] * 6 + [False] * 6
    assert torch.equal(supp_k(z[:1], 2, "batch_topk"), supp_k(z[:1], 2))
    assert supp_k(torch.empty(0, 4), 2, "batch_topk").shape == (0, 4)


@pytest.mark.parametrize("name", RULES)
def test_every_rule_keeps_k_a_row_on_average(name: str) -> None:
    z = torch.randn(40, 30, generator=torch.Generator().manual_seed(0))
    assert int(RULES[name](z, 3).sum()) == 3 * 40
