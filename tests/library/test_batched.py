from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from ksae_lib.engines.gpu import GpuEngine
from ksae_lib.engines.reference import ReferenceEngine
from ksae_lib.model import Activation, KSparseAutoencoder
from ksae_lib.selection import by_sorting, supp_k

INPUTS, UNITS, EXAMPLES = 7, 9, 23


def models(activation: Activation = "linear") -> list[KSparseAutoencoder]:
    made = []
    for seed in range(3):
        model = KSparseAutoencoder(INPUTS, UNITS, 3, activation).double()
        model.initialize(0.3, torch.Generator().manual_seed(seed))
        made.append(model)
    return made


def examples() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(EXAMPLES, INPUTS))


@pytest.mark.parametrize("activation", ["linear", "relu"])
@pytest.mark.parametrize("batch_size", [1, 5, EXAMPLES])
def test_three_runs_at_once_are_three_runs_of_the_reference(activation: Activation, batch_size: int) -> None:
    x, together, alone = examples(), models(activation), models(activation)
    engine = GpuEngine(together, x, batch_size, "cpu")
    references = [ReferenceEngine([model], x, batch_size) for model in alone]
    for epoch in range(4):
        orders = np.stack([np.random.default_rng([seed, epoch]).permutation(EXAMPLES) for seed in range(3)])
        ks, rates, momentum = (5 - epoch, 3, UNITS), (0.001, 0.0003, 0.002), (0.0, 0.9, 0.9, 0.5)[epoch]
        found = engine.run_epoch(orders, ks, rates, momentum)
        for result, reference, order, k, rate in zip(found, references, orders, ks, rates, strict=True):
            (wanted,) = reference.run_epoch(order[None], [k], [rate], momentum)
            assert result.loss == pytest.approx(wanted.loss, rel=1e-12)
            assert np.array_equal(result.uses, wanted.uses)
            assert result.finite and wanted.finite
    engine.write_back()
    for ours, theirs in zip(together, alone, strict=True):
        for (name, value), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(value, other, rtol=1e-11, atol=1e-12, msg=name)


def test_models_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="must be alike"):
        GpuEngine(
            [KSparseAutoencoder(INPUTS, UNITS, 3), KSparseAutoencoder(INPUTS, UNITS + 1, 3)], examples(), 5, "cpu"
        )
    engine = GpuEngine(models(), examples(), 5, "cpu")
    with pytest.raises(ValueError, match="k = 10 is not possible"):
        engine.run_epoch(np.tile(np.arange(EXAMPLES), (3, 1)), (3, 10, 3), (0.1,) * 3, 0.9)


def test_a_run_that_diverges_leaves_the_others_alone() -> None:
    x, orders = examples(), np.tile(np.arange(EXAMPLES), (3, 1))
    found, alone = models(), models()
    engine, quiet = GpuEngine(found, x, 5, "cpu"), GpuEngine(alone, x, 5, "cpu")
    for _ in range(8):
        results = engine.run_epoch(orders, (3, 3, 3), (0.01, 1e6, 0.01), 0.9)
        calm = quiet.run_epoch(orders, (3, 3, 3), (0.01, 0.01, 0.01), 0.9)
    assert not np.isfinite(results[1].loss)
    assert [result.finite for result in results] == [True, False, True]
    assert (results[0].loss, results[2].loss) == (calm[0].loss, calm[2].loss)


def rows() -> tuple[torch.Tensor, torch.Tensor]:
    """Rows with ties, zeros of both signs, and values of both signs far apart."""
    random = torch.Generator().manual_seed(0)
    z = torch.randn(3, 40, 50, generator=random)
    z[0] = z[0].round()
    z[1, :, ::3] = -0.0
    z[1, :, 1::3] = 0.0
    z[2] *= torch.logspace(-30, 30, 50)
    return z, torch.tensor([1, 20, 50]).view(3, 1, 1)


def test_rows_of_different_k_keep_what_supp_k_keeps() -> None:
    z, k = rows()
    for mask, of_model, keep in zip(by_sorting(z, k), z, k.flatten().tolist(), strict=True):
        assert torch.equal(mask, supp_k(of_model, keep))


def test_the_kernel_keeps_the_same_in_triton_s_interpreter() -> None:
    pytest.importorskip("triton")
    code = (
        "import torch, tests.library.test_batched as t;"
        "from ksae_lib.engines.triton_select import largest_on_device as kernel;"
        "z, k = t.rows(); assert torch.equal(kernel(z, k), t.by_sorting(z, k)); print('same')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "same", done.stderr[-2000:]


@pytest.mark.parametrize("width", [1024, 65536])
def test_the_kernel_compiles_for_a_gpu(width: int) -> None:
    pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from ksae_lib.engines.triton_select import _largest, warps

    pointers = {"z": "*fp32", "k": "*i64", "support": "*i1"}
    sizes = {"units": "i32", "rows_per_model": "i32", "width": "constexpr"}
    source = ASTSource(fn=_largest, signature=pointers | sizes, constexprs={(5,): width})
    assert (
        len(compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps(width)}).asm["cubin"]) > 1000
    )
