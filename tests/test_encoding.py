from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from ksae_lib import KSparseAutoencoder
from ksae_lib.encoding import encode, keep_largest
from ksae_lib.engines.cpu import SparseInputs, mostly_zero


def model_of(activation: str = "linear", dtype: torch.dtype = torch.float32) -> KSparseAutoencoder:
    model = KSparseAutoencoder(30, 300, 7, activation).to(dtype)  # type: ignore[arg-type]
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng, dtype=dtype))
    return model


def examples(density: float, dtype: str = "float32", n: int = 200) -> np.ndarray:
    rng = np.random.default_rng(1)
    return (rng.normal(size=(n, 30)) * (rng.random((n, 30)) < density)).astype(dtype)


@pytest.mark.parametrize("density", [0.1, 1.0])
@pytest.mark.parametrize("activation", ["linear", "relu"])
@pytest.mark.parametrize("k", [1, 7, 299, 300])
def test_codes_are_those_of_the_model(density: float, activation: str, k: int) -> None:
    x, model = examples(density, "float64"), model_of(activation, torch.float64)
    assert mostly_zero(x) == (density < 1)
    codes = encode(model, x, k)
    expected = model.code(torch.from_numpy(x), k).detach().numpy()
    np.testing.assert_array_equal(codes.toarray() != 0, expected != 0)
    np.testing.assert_allclose(codes.toarray(), expected, rtol=0, atol=1e-12)
    assert codes.nnz == np.count_nonzero(expected)
    assert codes.has_canonical_format


def test_selection_is_exact_and_prefers_the_first_of_equals() -> None:
    model = model_of()
    z = torch.randint(-3, 4, (50, 300), generator=torch.Generator().manual_seed(2)).float()
    codes = keep_largest(model, z, 40)
    np.testing.assert_array_equal(codes.toarray(), model.keep(z, 40).detach().numpy())


@pytest.mark.parametrize("density", [0.1, 1.0])
def test_no_examples_and_inputs_of_zeros_alone(density: float) -> None:
    model = model_of()
    assert encode(model, examples(density, n=0), 3).shape == (0, 300)
    nothing = np.zeros((2, 30), np.float32)
    np.testing.assert_array_equal(encode(model, nothing, 3).toarray(), model.code(torch.zeros(2, 30), 3).detach())


def test_bad_examples_are_refused() -> None:
    model, x = model_of(), examples(0.1)
    with pytest.raises(TypeError, match="float64"):
        encode(model, x.astype(np.float64), 3)
    with pytest.raises(ValueError, match="shape"):
        encode(model, x[:, :5], 3)
    x[3, 4] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        encode(model, x, 3)


def test_callers_in_several_threads_get_what_one_gets() -> None:
    model, x = model_of(), examples(0.1)
    expected = encode(model, x, 7).toarray()
    with ThreadPoolExecutor(4) as pool:
        for codes in pool.map(lambda _: encode(model, x, 7).toarray(), range(40)):
            np.testing.assert_array_equal(codes, expected)


def test_non_zero_entries_are_listed_by_row_in_whole_groups() -> None:
    x = np.zeros((3, 30), np.float32)
    x[0, [2, 5]] = 1, -2
    x[2, :9] = np.arange(1, 10)
    inputs = SparseInputs(x)
    assert inputs.starts.tolist() == [0, 8, 8, 24]
    assert inputs.pixels[:3].tolist() == [2, 5, 0] and inputs.values[:3].tolist() == [1, -2, 0]
    dense = np.zeros_like(x)
    for row, (start, stop) in enumerate(zip(inputs.starts, inputs.starts[1:], strict=False)):
        np.add.at(dense[row], inputs.pixels[start:stop], inputs.values[start:stop])
    np.testing.assert_array_equal(dense, x)
