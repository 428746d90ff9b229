from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from scipy import sparse
from sklearn.datasets import load_digits

from ksae_lib import DivergenceError, KSparseCoder, TrainConfig, blocks, estimator, train, training
from ksae_lib.blocks import Blocks
from ksae_lib.engines.gpu import GpuEngine
from ksae_lib.engines.reference import ReferenceEngine
from ksae_lib.training import new_model
from tests.killing import kill_at_first_checkpoint

ROWS = 200


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 200 digits, for batches of 20."""
    for module in (blocks, estimator):
        monkeypatch.setattr(module, "BLOCK_BYTES", 4 * 64 * (ROWS + 10))


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    # Whole sixteenths: sums are exact in any order.
    return (load_digits().data / 16).astype(np.float32)


def mapped(x: np.ndarray, folder: Path, mode: Any = "r") -> np.memmap:
    path = folder / f"{x.dtype}.npy"
    np.save(path, x)
    return np.load(path, mmap_mode=mode)


def batches(x: np.ndarray, size: int = 70) -> Callable[[], Iterator[Any]]:
    return lambda: (torch.from_numpy(x[start : start + size]) for start in range(0, len(x), size))


def coder(**changes: Any) -> KSparseCoder:
    sizes = {"units": 50, "k": 5, "k_start": 20, "epochs": 4, "batch_size": 20}
    return KSparseCoder(**{**sizes, "random_state": 0, **changes})


class OnProcessor(GpuEngine):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments, device="cpu")


@pytest.mark.parametrize("kind", ["array", "batches"])
@pytest.mark.parametrize("examples", [1620, 180])
@pytest.mark.parametrize("engine", ["reference", "cpu", "gpu"])
def test_training_on_blocks_is_training_on_the_whole_in_the_documented_order(
    digits: np.ndarray, tmp_path: Path, engine: str, examples: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(training.ENGINES, "gpu", OnProcessor)
    monkeypatch.setattr(training, "gpu_missing", lambda: None)
    x = digits[:examples]
    settings = TrainConfig(units=50, k=5, k_start=20, epochs=4, batch_size=20, seed=3, bias_init="centered")
    source = mapped(x, tmp_path) if kind == "array" else batches(x)
    found, history = train(Blocks(source, 20), settings, engine=engine)

    model = new_model(settings, x)
    whole, count = ReferenceEngine([model], x, 20), -(-examples // ROWS)
    for epoch, k in enumerate([20, 12, 5, 5]):
        order: list[int] = []
        numbers = np.random.default_rng([3, epoch, count]).permutation(count) if kind == "array" else range(count)
        for number in numbers:
            rows = np.arange(examples)[number * ROWS : (number + 1) * ROWS]
            shuffled = np.random.default_rng([3, epoch, number] if number else [3, epoch]).permutation(len(rows))
            order += rows[shuffled].tolist()
        (expected,) = whole.run_epoch(np.array([order]), [k], [0.01], 0.9)
        assert history[epoch]["k"] == k
        assert history[epoch]["loss"] == pytest.approx(expected.loss, rel=1e-5)
        assert history[epoch]["live_units"] == np.count_nonzero(expected.uses)
    exact = engine == "reference"
    for name, parameter in model.named_parameters():
        close = {"rtol": 0.0, "atol": 0.0} if exact else {"rtol": 1e-3, "atol": 1e-4}
        torch.testing.assert_close(found.get_parameter(name), parameter, **close)


def test_one_block_of_batches_gives_what_the_array_gives(digits: np.ndarray) -> None:
    settings = TrainConfig(units=50, k=5, k_start=20, epochs=4, batch_size=20)
    (first, of_blocks), (second, of_array) = (
        train(x, settings) for x in (Blocks(batches(digits[:190]), 20), digits[:190])
    )
    assert torch.equal(first.weight, second.weight)
    assert [row["loss"] for row in of_blocks] == [row["loss"] for row in of_array]


@pytest.mark.parametrize("examples", [5, 199, 200, 201, 1797])
@pytest.mark.parametrize("size", [1, 70, 450])
def test_the_first_pass_finds_size_mean_and_an_evenly_spaced_sample(
    digits: np.ndarray, tmp_path: Path, examples: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "_SAMPLE", 100)
    x = digits[:examples]
    for source in (mapped(x, tmp_path), batches(x, size), [x[:3], x[3:]]):
        made = Blocks(source, 20)
        assert made.shape == x.shape
        assert (made.size, made.count) == (200, -(-examples // 200))
        np.testing.assert_array_equal(made.mean, x.mean(0, dtype=np.float64))
        step = next(step for step in (1, 2, 4, 8, 16, 32) if len(x[::step]) <= 100)
        np.testing.assert_array_equal(made.sample, x[::step])
        np.testing.assert_array_equal(np.concatenate([block for _, block in made.read()]), x)


def test_scale_and_score_are_nearly_those_of_the_array(digits: np.ndarray, tmp_path: Path) -> None:
    how = {"epochs": 10, "learning_rate": 0.003}
    whole = coder(**how).fit(digits)
    for source in (mapped(digits, tmp_path), mapped(digits.astype(np.float64), tmp_path), batches(digits)):
        fitted = coder(**how).fit(source)
        assert fitted.scale_ == pytest.approx(whole.scale_, rel=0.01)
        assert fitted.score(digits) == pytest.approx(whole.score(digits), abs=0.03)
        assert fitted.n_features_in_ == 64
        assert fitted.history_["k"][0] == 20 and fitted.history_["k"][-1] == 5


def test_the_threshold_is_that_of_all_blocks(digits: np.ndarray) -> None:
    fitted = coder(code_mode="threshold").fit(batches(digits))
    seen = (digits - fitted.mean_).astype(np.float32) * np.float32(fitted.scale_)
    z = fitted.model_.pre_activation(torch.from_numpy(seen))
    assert float(fitted.model_.threshold) == pytest.approx(torch.topk(z, 5).values[:, -1].mean().item(), rel=1e-5)


def test_memory_holds_two_blocks_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block = 4 * 256 * 1000
    for module in (blocks, estimator):
        monkeypatch.setattr(module, "BLOCK_BYTES", block)
    monkeypatch.setattr(blocks, "_SAMPLE", 50)
    path = tmp_path / "x.npy"
    x = np.lib.format.open_memmap(path, "w+", np.float32, (30_000, 256))
    for start in range(0, len(x), 1000):
        x[start : start + 1000] = np.random.default_rng(start).random((1000, 256), np.float32)
    settings = {"units": 10, "k": 2, "k_start": None, "epochs": 2, "batch_size": 500, "engine": "reference"}
    coder(**settings).fit(x[:3000])
    for source in (x, lambda: (np.array(x[start : start + 100]) for start in range(0, len(x), 100))):
        tracemalloc.start()
        coder(**settings).fit(source)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert 2 * block < peak < 4 * block


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="the system does not tell what is mapped")
@pytest.mark.parametrize("mode", ["r", "r+"])
def test_what_was_read_of_the_file_does_not_stay_in_memory(digits: np.ndarray, tmp_path: Path, mode: str) -> None:
    x = mapped(np.tile(digits, (20, 1)), tmp_path, mode)
    Blocks(x, 20)
    lines = Path("/proc/self/smaps").read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.endswith("float32.npy"))
    resident = next(line for line in lines[start:] if line.startswith("Rss:"))
    assert int(resident.split()[1]) * 1024 < x.nbytes / 4
    np.testing.assert_array_equal(x[:1797], digits)


def test_what_was_written_to_a_private_mapping_stays(digits: np.ndarray, tmp_path: Path) -> None:
    x = mapped(digits, tmp_path, "c")
    x[5] = 7
    Blocks(x, 20)
    assert (x[5] == 7).all()


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (iter([np.ones((3, 4))]), "An iterator gives its batches only once: pass a function"),
        (lambda: [], "There are no examples"),
        (lambda: [np.ones((3, 4)), np.full((3, 4), np.inf)], "NaN or infinite"),
        (lambda: [np.ones((3, 4)), np.ones((3, 5))], r"A batch has shape \(3, 5\)"),
        (lambda: [np.ones((3, 4, 4))], r"A batch has shape \(3, 4, 4\)"),
        (lambda: [1.0], r"A batch has shape \(\)"),
        (
            lambda: [np.ones((3, 4), int), np.ones((3, 4))],
            "The first batch is of int64, another of float64: give all one",
        ),
        (lambda: [np.ones((3, 4), "u1"), np.ones((3, 4), "u2")], "The first batch is of uint8, another of uint16"),
    ],
)
def test_batches_that_cannot_be_trained_on_are_refused(source: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        coder(units=5, k=2, k_start=None).fit(source)


@pytest.mark.parametrize("as_batch", [sparse.csr_array, lambda rows: torch.from_numpy(rows).bfloat16()])
def test_batches_are_of_any_kind_that_arrays_are(digits: np.ndarray, as_batch: Any) -> None:
    x = digits.astype(np.float32).round()
    kind = coder(epochs=2).fit(lambda: (as_batch(rows) for rows in np.array_split(x, 7)))
    assert np.array_equal(kind.components_, coder(epochs=2).fit(lambda: np.array_split(x, 7)).components_)
    mixed = coder(epochs=2).fit(lambda: [x[:0], x[:100], x[100:].astype(float), x[:0].astype(np.uint8)])
    assert np.array_equal(mixed.components_, kind.components_)


@pytest.mark.parametrize("change", [-20, 20, -1000])
def test_batches_that_change_in_number_are_refused(digits: np.ndarray, change: int) -> None:
    passes: list[int] = []

    def source() -> Iterator[Any]:
        passes.append(1)
        return batches(digits[: 1500 + (change if len(passes) == 3 else 0)])()

    with pytest.raises(ValueError, match=f"The batches held {1500 + change} examples, 1500 before"):
        coder().fit(source)


def test_divergence_in_blocks_is_told(digits: np.ndarray) -> None:
    with pytest.raises(DivergenceError, match="^Training diverged.*in epoch 0"):
        coder(scale=1000.0).fit(batches(digits))


def test_a_bar_counts_the_blocks(digits: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    coder(verbose=True).fit(batches(digits))
    assert "/9 [" in (shown := capsys.readouterr().err) and "block" in shown and "4/4" in shown


SCRIPT = """
import sys, time
import numpy as np
from ksae_lib import KSparseCoder, blocks, estimator, loop
from ksae_lib.engines.cpu import CpuEngine

original = CpuEngine.run_epoch
def slow(*arguments):
    time.sleep(0.05)
    return original(*arguments)
CpuEngine.run_epoch = slow
loop.CHECKPOINT_SECONDS = 0
blocks.BLOCK_BYTES = estimator.BLOCK_BYTES = int(sys.argv[2])
x = np.load(sys.argv[1] + "/float32.npy", mmap_mode="r")
KSparseCoder(**eval(sys.argv[3]), checkpoint=sys.argv[1] + "/fit.ckpt").fit(x)
"""


def test_a_killed_fit_resumes_to_the_same_end(digits: np.ndarray, tmp_path: Path) -> None:
    checkpoint, x = tmp_path / "fit.ckpt", mapped(digits, tmp_path)
    parameters = {name: value for name, value in coder(epochs=12).get_params().items() if name != "checkpoint"}
    kill_at_first_checkpoint(SCRIPT, checkpoint, str(tmp_path), str(blocks.BLOCK_BYTES), repr(parameters))
    with safe_open(checkpoint, framework="pt") as file:
        assert 0 < len(json.loads(file.metadata()["history"])) < 12
    whole, resumed = coder(epochs=12).fit(x), coder(epochs=12, checkpoint=checkpoint).fit(x)
    assert np.array_equal(resumed.components_, whole.components_)
    assert torch.equal(resumed.model_.visible_bias, whole.model_.visible_bias)
    assert resumed.history_["loss"].tolist() == whole.history_["loss"].tolist()
    resumed.save(tmp_path / "model.safetensors")
    assert KSparseCoder.load(tmp_path / "model.safetensors").checkpoint is None


def test_a_checkpoint_of_another_fit_is_refused(
    digits: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = {"checkpoint": str(tmp_path / "fit.ckpt")}
    first = coder(**how).fit(batches(digits))
    monkeypatch.setattr(ReferenceEngine, "run_epoch", None)
    assert np.array_equal(coder(**how).fit(batches(digits)).components_, first.components_)
    for changed, x in ((coder(k=6, **how), digits), (coder(**how), digits[1:]), (coder(**how), digits[::-1].copy())):
        with pytest.raises(ValueError, match=r"fit\.ckpt is not a checkpoint of this run"):
            changed.fit(batches(x))
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 4 * 64 * 100)
    with pytest.raises(ValueError, match=r"fit\.ckpt is not a checkpoint of this run"):
        coder(**how).fit(batches(digits))


def test_arrays_in_memory_are_one_block_however_large(digits: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    large = coder().fit(digits)
    monkeypatch.setattr(estimator, "BLOCK_BYTES", 2**40)
    assert np.array_equal(coder().fit(digits).components_, large.components_)
