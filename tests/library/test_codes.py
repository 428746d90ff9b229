from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from scipy import sparse

from ksae_lib import CodeMode, KSparseAutoencoder, TrainConfig, train
from ksae_lib.codes import codes, keep_largest
from ksae_lib.engines.cpu import mostly_zero, sparse_inputs
from ksae_lib.engines.kernels import LANES
from ksae_lib.loop import columns


def model_of(activation: str = "linear", dtype: torch.dtype = torch.float32) -> KSparseAutoencoder:
    model = KSparseAutoencoder(30, 300, 7, activation).to(dtype)  # type: ignore[arg-type]
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng, dtype=dtype))
    return model


def encode(model: KSparseAutoencoder, x: np.ndarray, k: int, exact: bool = False) -> sparse.csr_array:
    """Codes of k units, whatever the model's own k."""
    kept, model.k = model.k, k
    try:
        (code,) = codes(model, x, "k", exact=exact)
    finally:
        model.k = kept
    assert isinstance(code, sparse.csr_array)
    return code


def examples(density: float, dtype: str = "float32", n: int = 200) -> np.ndarray:
    rng = np.random.default_rng(1)
    return (rng.normal(size=(n, 30)) * (rng.random((n, 30)) < density)).astype(dtype)


@pytest.mark.parametrize("density", [0.1, 1.0])
@pytest.mark.parametrize("activation", ["linear", "relu"])
@pytest.mark.parametrize("k", [1, 7, 299, 300])
def test_codes_are_those_of_the_model(density: float, activation: str, k: int) -> None:
    x, model = examples(density, "float64"), model_of(activation, torch.float64)
    assert mostly_zero(x) == (density < 1)
    code = encode(model, x, k)
    expected = model.code(torch.from_numpy(x), k).detach().numpy()
    np.testing.assert_array_equal(code.toarray() != 0, expected != 0)
    np.testing.assert_allclose(code.toarray(), expected, rtol=0, atol=1e-12)
    assert code.nnz == np.count_nonzero(expected)
    assert code.has_canonical_format
    np.testing.assert_array_equal(encode(model, x, k, exact=True).toarray(), expected)


@pytest.mark.parametrize("activation", ["linear", "relu"])
@pytest.mark.parametrize("density", [0.1, 1.0])
@pytest.mark.parametrize("mode", list(CodeMode))
def test_codes_of_every_mode_are_the_models_to_the_bit_whatever_the_blocks(
    mode: CodeMode, density: float, activation: str
) -> None:
    model, x = model_of(activation), examples(density, n=2_345)
    model.calibrate_threshold(torch.from_numpy(x[:500]))
    found = codes(model, x, mode, (1.0, 2.5))
    assert len(found) == 2
    for alpha, code in zip((1.0, 2.5), found, strict=True):
        assert sparse.issparse(code) == (mode in ("k", "alpha_k"))
        dense = code if isinstance(code, np.ndarray) else code.toarray()
        np.testing.assert_array_equal(dense, model.encode(torch.from_numpy(x), mode, alpha).numpy())


def test_codes_by_a_rule_that_no_kernel_knows_are_the_models() -> None:
    model, x = model_of(), examples(1.0)
    model.selection = "batch_topk"
    code = encode(model, x, 7)
    np.testing.assert_array_equal(code.toarray(), model.code(torch.from_numpy(x), 7).detach().numpy())
    assert code.nnz == 7 * len(x) and len(set(np.diff(code.indptr))) > 1


def test_selection_is_exact_and_prefers_the_first_of_equals() -> None:
    model = model_of()
    z = torch.randint(-3, 4, (50, 300), generator=torch.Generator().manual_seed(2)).float()
    code = keep_largest(model, z, 40)
    np.testing.assert_array_equal(code.toarray(), model.keep(z, 40).detach().numpy())


def test_no_examples_and_inputs_of_zeros_alone() -> None:
    model = model_of()
    assert encode(model, np.empty((0, 30), np.float32), 3).shape == (0, 300)
    nothing = np.zeros((60, 30), np.float32)
    np.testing.assert_array_equal(encode(model, nothing, 3).toarray(), model.code(torch.zeros(60, 30), 3).detach())


def test_bad_arguments_are_refused() -> None:
    model, x = model_of(), examples(0.1)
    with pytest.raises(TypeError, match="float64"):
        encode(model, x.astype(np.float64), 3)
    with pytest.raises(ValueError, match="shape"):
        encode(model, x[:, :5], 3)
    for k in (0, 301):
        with pytest.raises(ValueError, match=f"k = {k}"):
            encode(model, x, k)
    x[3, 4] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        encode(model, x, 3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_codes_of_a_diverged_encoder_show_it(bad: float) -> None:
    model, z = model_of(), torch.randn(3, 300)
    z[1, 5] = bad
    code = keep_largest(model, z, 7).toarray()
    assert np.isnan(code[1]).any()
    np.testing.assert_array_equal(code[[0, 2]], model.keep(z[[0, 2]], 7).detach().numpy())


def test_arrays_that_cannot_be_written_are_coded_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    x = examples(0.1)
    x.setflags(write=False)
    assert encode(model_of(), x, 3).nnz == 600
    assert not recwarn.list


def test_coding_beside_training_in_another_thread_changes_neither() -> None:
    model, x = model_of(), examples(0.1)
    (expected,) = codes(model, x, exact=False)
    config = TrainConfig(units=300, k=7, k_start=None, epochs=5)
    alone = columns(train(x, config)[1])["loss"].tolist()
    with ThreadPoolExecutor(4) as pool:
        trained = [pool.submit(train, x, config) for _ in range(2)]
        for (code,) in pool.map(lambda _: codes(model, x, exact=False), range(40)):
            np.testing.assert_array_equal(code.toarray(), expected.toarray())
    for one in trained:
        assert columns(one.result()[1])["loss"].tolist() == alone


def test_non_zero_entries_are_listed_by_row_in_whole_groups() -> None:
    x = np.zeros((3, 30), np.float32)
    x[0, [2, 5]] = 1, -2
    x[2, :9] = np.arange(1, 10)
    inputs = sparse_inputs(x)
    assert inputs.starts.tolist() == [0, 8, 8, 24]
    assert (inputs.places[:2] // LANES).tolist() == [2, 5] and inputs.values[:8].tolist() == [1, -2, *[0] * 6]
    dense = np.zeros_like(x)
    for row, (start, stop) in enumerate(zip(inputs.starts, inputs.starts[1:], strict=False)):
        np.add.at(dense[row], inputs.places[start:stop] // LANES, inputs.values[start:stop])
    np.testing.assert_array_equal(dense, x)
