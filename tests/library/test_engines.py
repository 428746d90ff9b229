from __future__ import annotations

import os
import subprocess
import sys
from typing import NamedTuple

import numba
import numpy as np
import pytest
import torch

from ksae_lib import KSparseAutoencoder
from ksae_lib.engines import cpu, kernels
from ksae_lib.engines.base import Engine
from ksae_lib.engines.cpu import CpuEngine
from ksae_lib.engines.reference import ReferenceEngine
from ksae_lib.model import Activation
from replication.data import Dataset

ENGINES: list[type[Engine]] = [ReferenceEngine, CpuEngine]
ACTIVATIONS: list[Activation] = ["linear", "relu"]
Arrays = dict[str, np.ndarray]


class Case(NamedTuple):
    inputs: int
    units: int
    k: int
    examples: int
    batch: int
    density: float


CASES = [
    Case(16, 128, 8, 60, 20, 0.2),
    Case(35, 150, 7, 50, 20, 0.2),  # units, inputs, k and examples fill no block, tile or batch
    Case(35, 150, 7, 50, 20, 1.0),
    Case(20, 33, 33, 25, 10, 0.2),  # k = units
    Case(13, 5, 5, 25, 10, 1.0),
    Case(50, 300, 1, 30, 7, 0.2),
    Case(784, 200, 25, 30, 30, 0.2),
]


def make_data(case: Case, dtype: type = np.float32) -> np.ndarray:
    rng = np.random.default_rng(0)
    x = rng.uniform(0.1, 1, (case.examples, case.inputs)) * (rng.random((case.examples, case.inputs)) < case.density)
    return x.astype(dtype)


def make_model(case: Case, activation: Activation = "linear", dtype: torch.dtype = torch.float32) -> KSparseAutoencoder:
    model = KSparseAutoencoder(case.inputs, case.units, case.k, activation)
    rng = torch.Generator().manual_seed(0)
    model.initialize(case.inputs**-0.5, rng)
    with torch.no_grad():
        model.bias.normal_(0, 0.3, generator=rng)
        model.visible_bias.normal_(0, 0.3, generator=rng)
    return model.to(dtype)


def mnist_model() -> KSparseAutoencoder:
    model = KSparseAutoencoder(784, 200, 20)
    model.initialize(0.01, torch.Generator().manual_seed(0))
    return model


def arrays(model: KSparseAutoencoder) -> Arrays:
    return {name: p.detach().numpy().copy() for name, p in model.named_parameters()}


def numpy_loss(p: Arrays, x: np.ndarray, k: int, activation: Activation) -> float:
    z = x @ p["weight"].T + p["bias"]
    code = np.where(numpy_support(z, k), z, 0)
    code = np.maximum(code, 0) if activation == "relu" else code
    return float(((x - code @ p["weight"] - p["visible_bias"]) ** 2).sum() / len(x))


def numpy_support(z: np.ndarray, k: int) -> np.ndarray:
    mask = np.zeros(z.shape, bool)
    np.put_along_axis(mask, np.argsort(-z, axis=1, kind="stable")[:, :k], True, axis=1)
    return mask


def numpy_step(
    p: Arrays, v: Arrays, x: np.ndarray, k: int, rate: float, momentum: float, activation: Activation
) -> None:
    W, b, b_visible = p["weight"].T, p["bias"], p["visible_bias"]
    z = x @ W + b
    support = numpy_support(z, k)
    passes = support & (z > 0) if activation == "relu" else support
    code = z * passes
    d_reconstruction = 2 * (code @ W.T + b_visible - x) / len(x)
    d_z = (d_reconstruction @ W) * passes
    gradient = {
        "weight": (d_reconstruction.T @ code + x.T @ d_z).T,
        "bias": d_z.sum(0),
        "visible_bias": d_reconstruction.sum(0),
    }
    for name in p:
        v[name] = momentum * v[name] - rate * gradient[name]
        p[name] = p[name] + v[name]


def epochs_of(engine: Engine, k: int, count: int, rate: float = 0.02, momentum: float = 0.9) -> list[float]:
    orders = [np.random.default_rng(epoch).permutation(len(engine.x)) for epoch in range(count)]
    return [engine.run_epoch(order[None], [k], [rate], momentum)[0].loss for order in orders]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("density", [0.2, 1.0])
@pytest.mark.parametrize("kind", ENGINES)
def test_gradients_are_those_of_central_differences(kind: type[Engine], density: float, activation: Activation) -> None:
    case = Case(7, 5, 3, 6, 6, density)
    x, model = make_data(case, np.float64), make_model(case, activation, torch.float64)
    p = arrays(model)
    z = np.sort(x @ p["weight"].T + p["bias"], axis=1)
    assert (z[:, -case.k] - z[:, -case.k - 1]).min() > 1e-3 and np.abs(z).min() > 1e-3, "too near a tie or a kink"
    kind([model], x, case.batch).run_epoch(np.arange(len(x))[None], [case.k], [1.0], momentum=0.0)
    h = 1e-5
    for name, parameter in p.items():
        slope = np.empty_like(parameter)
        for i in np.ndindex(parameter.shape):
            value = parameter[i]
            losses = []
            for parameter[i] in (value + h, value - h):
                losses.append(numpy_loss(p, x, case.k, activation))
            parameter[i] = value
            slope[i] = (losses[0] - losses[1]) / (2 * h)
        assert np.abs(slope).max() > 0.05
        np.testing.assert_allclose(parameter - arrays(model)[name], slope, rtol=1e-7, atol=1e-8, err_msg=name)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("kind", ENGINES)
def test_epochs_with_momentum_are_those_of_numpy(kind: type[Engine], case: Case, activation: Activation) -> None:
    x, model = make_data(case, np.float64), make_model(case, activation, torch.float64)
    p = arrays(model)
    v = {name: np.zeros_like(value) for name, value in p.items()}
    engine = kind([model], x, case.batch)
    for epoch in range(2):
        order = np.random.default_rng(epoch).permutation(len(x))
        expected = 0.0
        for start in range(0, len(x), case.batch):
            batch = x[order[start : start + case.batch]]
            expected += numpy_loss(p, batch, case.k, activation) * len(batch)
            numpy_step(p, v, batch, case.k, 0.02, 0.9, activation)
        assert engine.run_epoch(order[None], [case.k], [0.02], 0.9)[0].loss == pytest.approx(
            expected / len(x), rel=1e-12
        )
    for name, value in arrays(model).items():
        np.testing.assert_allclose(value, p[name], rtol=1e-9, atol=1e-12, err_msg=name)
        np.testing.assert_allclose(engine.velocity[name].numpy(), v[name], rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("one_step", [True, False])
def test_engines_agree_to_float32_rounding(case: Case, activation: Activation, one_step: bool) -> None:
    x, models = make_data(case), [make_model(case, activation) for _ in ENGINES]
    start = arrays(models[0])
    batch = case.examples if one_step else case.batch
    engines = [kind([model], x, batch) for kind, model in zip(ENGINES, models, strict=True)]
    assert isinstance(engines[1], CpuEngine)
    assert (engines[1]._sparse is None) == (case.density == 1), "the data do not take the path this case is for"
    losses = [epochs_of(engine, case.k, 1 if one_step else 3) for engine in engines]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    tolerance = 1e-6 if one_step else 1e-5
    for name, value in arrays(models[0]).items():
        assert np.abs(value - start[name]).max() > 100 * tolerance, f"{name} hardly moved: nothing is compared"
        np.testing.assert_allclose(value, arrays(models[1])[name], rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("k", [1, 7, 150])
def test_uses_count_the_kept_units_that_are_not_zero(kind: type[Engine], k: int, activation: Activation) -> None:
    case = CASES[1]
    x, model = make_data(case), make_model(case, activation)
    p = arrays(model)
    (result,) = kind([model], x, case.examples).run_epoch(np.arange(case.examples)[None], [k], [0.01], 0.9)
    z = x @ p["weight"].T + p["bias"]
    kept = numpy_support(z, k) & (z > 0 if activation == "relu" else True)
    assert activation == "relu" or result.uses.sum() == case.examples * k
    np.testing.assert_array_equal(result.uses, kept.sum(0))


@pytest.mark.parametrize("kind", ENGINES)
def test_a_batch_larger_than_the_data_is_averaged_over_the_data(kind: type[Engine]) -> None:
    case = CASES[1]
    models = [make_model(case) for _ in range(2)]
    losses = [
        epochs_of(kind([model], make_data(case), size), case.k, 2) for model, size in zip(models, (50, 90), strict=True)
    ]
    assert losses[0] == losses[1]
    assert all(np.array_equal(value, arrays(models[1])[name]) for name, value in arrays(models[0]).items())


@pytest.mark.parametrize("kind", ENGINES)
def test_momentum_moves_units_that_are_no_longer_kept(kind: type[Engine]) -> None:
    case = Case(7, 5, 1, 6, 6, 1.0)
    model = make_model(case)
    engine = kind([model], make_data(case), case.batch)
    for name, velocity in engine.velocity.items():
        velocity.fill_(0.5 if name == "weight" else 0.0)
    before = arrays(model)["weight"]
    uses = engine.run_epoch(np.arange(6)[None], [1], [0.0], 0.9)[0].uses
    assert (uses == 0).any()
    np.testing.assert_allclose(arrays(model)["weight"] - before, 0.45, rtol=1e-5)


def results_of_one_and_of_two_threads(case: Case) -> list[tuple[list[float], Arrays]]:
    results = []
    for threads in (1, 2):
        numba.set_num_threads(threads)
        model = make_model(case)
        results.append((epochs_of(CpuEngine([model], make_data(case), case.batch), case.k, 3), arrays(model)))
    return results


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    code = """
import numpy as np
import tests.library.test_engines as t
for case in t.CASES[1:3] + t.CASES[-1:]:
    (losses, weights), (again, same) = t.results_of_one_and_of_two_threads(case)
    assert losses == again, case
    assert all(np.array_equal(value, same[name]) for name, value in weights.items()), case
"""
    # How many threads there can be is settled when a process starts.
    environment = {**os.environ, "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("unit", [0, 3, slice(None)], ids=str)
@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("density", [0.2, 1.0])
def test_weights_that_are_not_finite_give_such_a_loss(
    kind: type[Engine], density: float, unit: int | slice, bad: float
) -> None:
    case = CASES[1]._replace(density=density)
    model = make_model(case)
    with torch.no_grad():
        model.weight[unit] = bad
    assert not np.isfinite(epochs_of(kind([model], make_data(case), case.batch), case.k, 2)).any()


def test_after_an_epoch_of_mnist_losses_agree_to_1e_5_and_99_percent_of_supports(mnist: Dataset) -> None:
    models = [mnist_model() for _ in ENGINES]
    losses = [
        epochs_of(kind([model], mnist.train_x, 100), 20, 1, rate=0.01)[0]
        for kind, model in zip(ENGINES, models, strict=True)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    x = torch.from_numpy(mnist.train_x)
    supports = [model.encode(x, "k") != 0 for model in models]
    assert (supports[0] == supports[1]).all(1).float().mean() >= 0.99


def screened(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, k: int, margin: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Pre-activations by products in bfloat16, and which of them are kept; a margin of infinity makes all exact."""
    z = np.empty((len(x), len(weight)), np.float32)
    rounded = []
    for rows in (x, weight):
        rounded.append(kernels.new_rounded(*rows.shape))
        kernels.round_rows(rows.view(np.uint32), rounded[-1])
    a, b = (torch.from_numpy(one.bits).view(torch.bfloat16) for one in rounded)
    products = (a @ b.T).view(torch.int16).numpy()
    if margin is not None:
        rounded[0].norm[:] = margin
    kernels.screen(products, *rounded, k, x, weight, bias, len(weight), z)
    return z, numpy_support(z, k)


def near_ties(rng: np.random.Generator, examples: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Examples, weights and biases of which many pre-activations differ by nothing, a rounding or a bfloat16's."""
    x = rng.normal(1, 1, (examples, 32)).astype(np.float32)
    weight = np.repeat(rng.normal(size=(16, 32)), 4, axis=0) * (1 + np.array([0, 1e-7, 1e-5, 4e-3] * 16)[:, None])
    bias = np.repeat(rng.normal(0, 0.1, 16), 4)
    return x, weight.astype(np.float32), bias.astype(np.float32)


def test_rows_are_rounded_as_torch_rounds_them() -> None:
    rows = np.random.default_rng(0).normal(size=(7, 33)).astype(np.float32)
    rounded = kernels.new_rounded(*rows.shape)
    kernels.round_rows(rows.view(np.uint32), rounded)
    theirs = torch.from_numpy(rows).bfloat16()
    assert torch.equal(torch.from_numpy(rounded.bits).view(torch.bfloat16), theirs)
    np.testing.assert_allclose(rounded.norm, np.linalg.norm(rows, axis=1), rtol=1e-6)
    np.testing.assert_allclose(rounded.slip, np.linalg.norm(theirs.float().numpy() - rows, axis=1), rtol=1e-5)


def test_screening_in_bfloat16_keeps_what_float32_keeps_in_a_million_rows_with_near_ties() -> None:
    left_out = misled = 0
    for seed in range(100):
        x, weight, bias = near_ties(np.random.default_rng(seed), 10_000)
        (z, kept), (exact, wanted) = (screened(x, weight, bias, 10, margin) for margin in (None, 1e30))
        np.testing.assert_array_equal(kept, wanted)
        np.testing.assert_array_equal(z[kept], exact[kept])
        left_out += int((z != exact).sum())
        rounded = torch.from_numpy(x).bfloat16() @ torch.from_numpy(weight).bfloat16().T
        misled += int((numpy_support(rounded.float().numpy() + bias, 10) != wanted).any(1).sum())
    assert left_out > 0.3 * 100 * 10_000 * 64, "most entries need no second product"
    assert misled > 0.3 * 100 * 10_000, "without the second product supports would differ"
    double = x.astype(np.float64) @ weight.T + bias
    np.testing.assert_allclose(exact, double, rtol=1e-5, atol=1e-5)


def test_the_margin_covers_the_rounding_of_a_product_to_bfloat16() -> None:
    x = np.full((1, 1024), 1 / 32, np.float32)
    weight = np.zeros((2, 1024), np.float32)
    # 1 + 2⁻⁸, which becomes 1; all factors are bfloat16.
    weight[0] = np.where(np.arange(1024) % 2, 1, 1 + 2**-7) / 32
    _, kept = screened(x, weight, np.array([0, 1.003], np.float32), 1)
    assert kept.tolist() == [[True, False]]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_training_on_screened_products_is_that_of_the_reference(
    monkeypatch: pytest.MonkeyPatch, activation: Activation
) -> None:
    monkeypatch.setattr(cpu, "_SCREEN_FROM", 0)
    monkeypatch.setattr(cpu, "_SCREEN_BATCH", 0)
    monkeypatch.setattr(cpu, "has_bfloat16", lambda: True)
    case = CASES[2]
    models = [make_model(case, activation) for _ in range(2)]
    losses = [
        epochs_of(kind([model], make_data(case), case.batch), case.k, 5)
        for kind, model in zip(ENGINES, models, strict=True)
    ]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    for name, value in arrays(models[0]).items():
        np.testing.assert_allclose(value, arrays(models[1])[name], atol=1e-5, err_msg=name)
