from __future__ import annotations

import errno
import json
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ksae_lib import DivergenceError, KSparseAutoencoder, TrainConfig, loop, train
from ksae_lib.engines.base import EpochResult
from ksae_lib.engines.cpu import CpuEngine
from ksae_lib.engines.reference import ReferenceEngine
from ksae_lib.loop import Checkpoint, columns, run_epochs
from ksae_lib.training import Trained, make_engine, new_model

ENGINES = ("reference", "cpu")
COLUMNS = ["epoch", "k", "learning_rate", "momentum", "loss", "live_units", "seconds"]


def pattern(examples: int = 64) -> np.ndarray:
    rng = np.random.default_rng(0)
    parts = (rng.random((6, 20)) < 0.25).astype(np.float32)
    chosen = rng.random((examples, 6)) < 0.3
    return np.minimum(chosen @ parts, 1).astype(np.float32)


def config(**changes: Any) -> TrainConfig:
    return TrainConfig(
        **{"units": 16, "k": 3, "k_start": 8, "epochs": 6, "batch_size": 10, "weight_std": 0.1, **changes}
    )


def run(x: np.ndarray, settings: TrainConfig, **how: Any) -> tuple[KSparseAutoencoder, dict[str, np.ndarray]]:
    """``train``, the history by columns."""
    model, history = train(x, settings, **how)
    return model, columns(history)


def assert_same_run(first: Trained, second: Trained) -> None:
    rows = [[{**row, "seconds": None} for row in history] for _, history in (first, second)]
    assert rows[0] == rows[1]
    for name, parameter in first[0].named_parameters():
        assert torch.equal(parameter, second[0].get_parameter(name)), name


def epochs_saved(checkpoint: Path) -> int:
    with safe_open(checkpoint, framework="pt") as file:
        return len(json.loads(file.metadata()["history"]))


@pytest.fixture
def save_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0)


@pytest.mark.parametrize("engine", ENGINES)
def test_golden_loss_history(engine: str) -> None:
    _, history = run(pattern(), config(epochs=5), engine=engine)
    assert history["loss"].tolist() == pytest.approx([4.391400, 2.408559, 2.045014, 1.438762, 1.055588], rel=1e-4)
    assert history["live_units"].tolist() == [15, 13, 12, 11, 12]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("activation", ["linear", "relu"])
def test_a_run_is_decided_by_its_config(engine: str, activation: str) -> None:
    runs = [train(pattern(), config(activation=activation, seed=seed), engine=engine) for seed in (0, 0, 1)]
    assert_same_run(runs[0], runs[1])
    assert not torch.equal(runs[0][0].weight, runs[2][0].weight)
    assert [row["loss"] for row in runs[0][1]] != [row["loss"] for row in runs[2][1]]


def test_the_global_random_state_is_neither_used_nor_needed() -> None:
    first = train(pattern(), config())
    torch.manual_seed(5)
    np.random.seed(5)
    assert_same_run(first, train(pattern(), config()))


@pytest.mark.parametrize("engine", ENGINES)
def test_the_history_follows_the_schedules(engine: str) -> None:
    settings = config(epochs=8, learning_rate=0.02, learning_rate_end=0.006, momentum=0.25, momentum_end=0.6)
    model, history = run(pattern(), settings, engine=engine)
    assert list(history) == COLUMNS
    assert history["epoch"].tolist() == list(range(8))
    assert history["k"].tolist() == [8, 7, 6, 4, 3, 3, 3, 3]
    assert history["learning_rate"].tolist() == pytest.approx([0.02 - 0.002 * epoch for epoch in range(8)])
    assert history["momentum"].tolist() == pytest.approx([0.25 + 0.05 * epoch for epoch in range(8)])
    assert history["live_units"].min() >= 1 and history["live_units"].max() <= 16
    assert history["loss"][-1] < history["loss"][0] / 2
    assert (history["seconds"] > 0).all()
    assert model.k == 3


def test_every_epoch_is_a_new_permutation_of_all_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    orders, ks = [], []

    def record(self: ReferenceEngine, order: np.ndarray, k: list[int], *_: Any) -> list[EpochResult]:
        orders.extend(order.tolist())
        ks.extend(k)
        return [EpochResult(1.0, np.array([2, 0, 1]))]

    monkeypatch.setattr(ReferenceEngine, "run_epoch", record)
    _, history = run(pattern(), config(epochs=4, k_ramp=1.0), engine="reference")
    assert all(sorted(order) == list(range(64)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert history["k"].tolist() == ks == [8, 7, 6, 4]
    assert history["live_units"].tolist() == [2] * 4


def test_the_engines_and_starts_a_config_names() -> None:
    x = pattern()
    for name, kind in (("reference", ReferenceEngine), ("cpu", CpuEngine)):
        settings = config(activation="relu", selection="threshold")
        model = new_model(settings, x)
        assert type(make_engine([model], x, settings, name)) is kind
        assert (model.inputs, model.units, model.k, model.activation) == (20, 16, 3, "relu")
        assert model.selection == "threshold"
        with pytest.raises(ValueError, match=f"The {name} engine trains one model at a time, not 2"):
            make_engine([model] * 2, x, settings, name)
        assert not model.bias.any() and not model.visible_bias.any()
    centered = new_model(config(bias_init="centered"), x)
    torch.testing.assert_close(centered.visible_bias.detach(), torch.from_numpy(x.mean(0)))
    torch.testing.assert_close(centered.pre_activation(torch.from_numpy(x)).mean(0), torch.zeros(16), atol=1e-6, rtol=0)


def test_training_goes_on_from_a_given_model() -> None:
    model, _ = train(pattern(), config())
    weight = model.weight.detach().clone()
    same, history = train(pattern(), config(k_start=None), model=model)
    assert same is model
    assert not torch.equal(weight, model.weight)
    assert history[0]["loss"] < train(pattern(), config(k_start=None))[1][0]["loss"]


@pytest.mark.parametrize("engine", ENGINES)
def test_memory_mapped_examples_give_the_same_run(engine: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", pattern())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r+")
    assert_same_run(train(mapped, config(), engine=engine), train(pattern(), config(), engine=engine))
    np.testing.assert_array_equal(mapped, pattern())


@pytest.mark.parametrize("engine", ENGINES)
def test_a_run_interrupted_inside_an_epoch_resumes_to_the_same_end(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save_every_epoch: None
) -> None:
    kind: Any = {"reference": ReferenceEngine, "cpu": CpuEngine}[engine]
    original, checkpoint, settings = kind.run_epoch, tmp_path / "run.ckpt", config(momentum_end=0.5)
    calls: list[int] = []

    def interrupted(self: Any, orders: np.ndarray, *rest: Any) -> list[EpochResult]:
        calls.append(len(orders))
        if len(calls) == 4:
            original(self, orders[:, :30], *rest)
            raise KeyboardInterrupt
        results: list[EpochResult] = original(self, orders, *rest)
        return results

    whole = train(pattern(), settings, engine=engine)
    monkeypatch.setattr(kind, "run_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(pattern(), settings, engine=engine, checkpoint=checkpoint)
    assert epochs_saved(checkpoint) == 3
    assert_same_run(train(pattern(), settings, engine=engine, checkpoint=checkpoint), whole)
    assert len(calls) == 4 + 3
    assert_same_run(train(pattern(), settings, engine=engine, checkpoint=checkpoint), whole)
    assert len(calls) == 4 + 3, "a finished run is not run again"
    assert list(tmp_path.iterdir()) == [checkpoint]


@pytest.mark.parametrize(
    "changes",
    [{"learning_rate": 0.011}, {"epochs": 7}, {"seed": 1}, {"activation": "relu"}, {"selection": "batch_topk"}],
)
def test_a_checkpoint_of_another_config_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    checkpoint = tmp_path / "run.ckpt"
    train(pattern(), config(), checkpoint=checkpoint)
    before = checkpoint.read_bytes()
    with pytest.raises(ValueError, match=r"run\.ckpt is not a checkpoint of this run: name another file or delete it"):
        train(pattern(), config(**changes), checkpoint=checkpoint)
    assert checkpoint.read_bytes() == before


def test_a_checkpoint_of_another_engine_is_refused(tmp_path: Path) -> None:
    train(pattern(), config(), engine="cpu", checkpoint=tmp_path / "run.ckpt")
    with pytest.raises(ValueError, match="is not a checkpoint of this run"):
        train(pattern(), config(), engine="reference", checkpoint=tmp_path / "run.ckpt")


def test_a_checkpoint_of_other_data_is_refused(tmp_path: Path) -> None:
    checkpoint, other = tmp_path / "run.ckpt", pattern()
    train(pattern(), config(), checkpoint=checkpoint)
    other[5, 5] += 0.5
    with pytest.raises(ValueError, match="is not a checkpoint of this run"):
        train(other, config(), checkpoint=checkpoint)


@pytest.mark.parametrize(
    "damage", ["empty", "truncated", "cut header", "noise", "a changed byte", "of something else", "no metadata"]
)
def test_a_corrupt_checkpoint_is_one_clear_error(tmp_path: Path, damage: str) -> None:
    checkpoint = tmp_path / "run.ckpt"
    train(pattern(), config(), checkpoint=checkpoint)
    content = checkpoint.read_bytes()
    if damage == "of something else":
        save_file({"weight": torch.zeros(3)}, checkpoint, metadata={"format": "pt"})
    elif damage == "no metadata":
        save_file({"weight": torch.zeros(3)}, checkpoint)
    else:
        parts = {"empty": b"", "truncated": content[:-50], "cut header": content[:50], "noise": b"\xff" * 5000}
        parts["a changed byte"] = content[:-99] + bytes([content[-99] ^ 1]) + content[-98:]
        checkpoint.write_bytes(parts[damage])
    with pytest.raises(ValueError, match=r"run\.ckpt .*Delete it"):
        train(pattern(), config(), checkpoint=checkpoint)


@pytest.mark.parametrize("engine", ENGINES)
def test_divergence_names_epoch_rate_and_remedy(engine: str) -> None:
    with pytest.raises(DivergenceError) as caught:
        train(pattern(), config(learning_rate=1e3, epochs=50), engine=engine)
    message = str(caught.value)
    for part in ("epoch 0", "learning rate 1000", "k = 8", "Lower the learning rate"):
        assert part in message
    assert "nan" in message or "inf" in message


@pytest.mark.parametrize("engine", ENGINES)
def test_divergence_keeps_the_last_good_checkpoint(engine: str, tmp_path: Path, save_every_epoch: None) -> None:
    checkpoint = tmp_path / "run.ckpt"
    settings = config(learning_rate_end=1.0, epochs=40)
    with pytest.raises(DivergenceError, match=r"in epoch (\d+) .*run\.ckpt") as caught:
        train(pattern(), settings, engine=engine, checkpoint=checkpoint)
    saved = epochs_saved(checkpoint)
    assert saved >= 2
    assert re.search(rf"in epoch {saved} .*(after epoch {saved - 1}|after {saved} epochs)\b", str(caught.value))
    with safe_open(checkpoint, framework="pt") as file:
        assert all(file.get_tensor(name).isfinite().all() for name in file.keys())  # noqa: SIM118 - no mapping
    assert list(tmp_path.iterdir()) == [checkpoint]


@pytest.mark.parametrize("engine", ENGINES)
def test_divergence_in_the_very_last_update_is_noticed(engine: str, tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.ckpt"
    with pytest.raises(DivergenceError, match="epoch 0"):
        train(pattern(), config(learning_rate=3e38, epochs=1, batch_size=64), engine=engine, checkpoint=checkpoint)
    assert not checkpoint.exists()


@pytest.mark.parametrize(
    ("x", "error", "sentence"),
    [
        (np.full((20, 4), np.nan, np.float32), ValueError, "NaN or infinite"),
        (np.ones((20, 4)), TypeError, "float64"),
        (np.ones(20, np.float32)[:, None, None], ValueError, "shape"),
        (np.ones((0, 4), np.float32), ValueError, "no examples"),
    ],
)
@pytest.mark.parametrize("bias_init", ["zeros", "centered"])
@pytest.mark.filterwarnings("error")
def test_examples_that_cannot_be_trained_on_are_refused(
    x: np.ndarray, error: type[Exception], sentence: str, bias_init: str
) -> None:
    with pytest.raises(error, match=sentence):
        train(x, config(bias_init=bias_init))


def test_a_model_that_does_not_fit_the_examples_is_refused() -> None:
    with pytest.raises(ValueError, match="the model takes"):
        train(pattern(), config(), model=KSparseAutoencoder(19, 16, 3))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (KSparseAutoencoder(20, 15, 3), "units = 15, the config 16"),
        (KSparseAutoencoder(20, 16, 4), "k = 4, the config 3"),
        (KSparseAutoencoder(20, 16, 3, "relu"), "activation = relu, the config linear"),
    ],
)
def test_a_model_that_is_not_the_configs_is_refused(model: KSparseAutoencoder, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(pattern(), config(), model=model)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"units": "16"}, "units = 16 is not possible: it must be at least 1"),
        ({"epochs": math.nan}, "epochs = nan is not possible: it must be at least 1 and a whole number"),
        ({"batch_size": 2.5}, "batch_size = 2.5"),
        ({"k": None}, "k = None"),
        ({"momentum": None}, "momentum = None"),
        ({"learning_rate": "fast"}, "learning_rate = fast"),
        ({"selection": "largest"}, "selection = 'largest' is unknown: choose one of sort, threshold, batch_topk"),
        ({"units": 0}, "units = 0 is not possible: it must be at least 1"),
        ({"epochs": 0}, "epochs = 0"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"k": 0}, "k = 0 is not possible with 16 hidden units"),
        ({"k": 17}, "k = 17 is not possible with 16 hidden units"),
        ({"k_start": 17}, "k_start = 17 is not possible with 16 hidden units"),
        ({"k_start": 0}, "k_start = 0"),
        ({"k_ramp": 1.5}, "ramp = 1.5"),
        ({"learning_rate": 0.0}, "learning_rate = 0.0 is not possible: it must be a positive number"),
        ({"learning_rate": float("nan")}, "learning_rate = nan"),
        ({"learning_rate_end": -1.0}, "learning_rate_end = -1.0"),
        ({"weight_std": float("inf")}, "weight_std = inf"),
        ({"momentum": 1.0}, "momentum = 1.0 is not possible: choose a number from 0 to below 1"),
        ({"momentum": -0.1}, "momentum = -0.1"),
        ({"momentum_end": 1.5}, "momentum_end = 1.5"),
        ({"bias_init": "ones"}, "bias_init = 'ones' is unknown: choose one of zeros, gaussian, centered"),
        ({"activation": "sigmoid"}, "activation = 'sigmoid' is unknown: choose one of linear, relu"),
        ({"seed": -1}, "seed = -1"),
    ],
    ids=str,
)
def test_impossible_configs_are_refused_in_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        config(**changes)


def test_the_defaults_are_the_papers() -> None:
    paper = TrainConfig()
    assert (paper.units, paper.k, paper.epochs, paper.k_ramp) == (1000, 25, 5000, 0.5)
    assert (paper.weight_std, paper.momentum, paper.learning_rate) == (0.01, 0.9, 0.01)
    assert (paper.learning_rate_end, paper.momentum_end) == (None, None)
    assert (paper.activation, paper.bias_init) == ("linear", "zeros")


@pytest.mark.parametrize("where", ["write_bytes", "fsync"])
def test_a_full_disk_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save_every_epoch: None, where: str
) -> None:
    checkpoint, settings = tmp_path / "run.ckpt", config()
    whole = train(pattern(), settings)
    calls: list[int] = []
    owner: Any = Path if where == "write_bytes" else os
    original = getattr(owner, where)

    def full(*arguments: Any, **named: Any) -> None:
        original(*arguments, **named)
        calls.append(1)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(owner, where, full)
    with pytest.raises(OSError, match="No space left on device"):
        train(pattern(), settings, checkpoint=checkpoint)
    assert list(tmp_path.iterdir()) == [checkpoint]
    assert epochs_saved(checkpoint) == 2
    assert_same_run(train(pattern(), settings, checkpoint=checkpoint), whole)


def diverging(runs: int, bad: int, at: int) -> Any:
    """An epoch of runs of which one diverges."""

    def epoch(number: int) -> list[dict[str, Any]]:
        losses = [math.nan if run == bad and number >= at else 1.0 for run in range(runs)]
        return [{"epoch": number, "loss": loss, "learning_rate": 0.5} for loss in losses]

    return epoch


def test_a_run_that_diverged_before_a_checkpoint_is_still_told_of_after_it(
    tmp_path: Path, save_every_epoch: None
) -> None:
    def checkpoint() -> Checkpoint:
        return Checkpoint(tmp_path / "run.ckpt", {"runs": 2}, {"weight": torch.zeros(3)})

    for _ in range(2):
        calm, error = run_epochs("A test", 5, diverging(2, 1, 2), checkpoint=checkpoint(), progress=False)
        assert isinstance(calm, list) and columns(calm)["epoch"].tolist() == list(range(5))
        assert isinstance(error, DivergenceError)
        assert "A test diverged" in str(error) and "in epoch 2 (counted from 0) at learning rate 0.5" in str(error)


def test_the_bar_shows_loss_k_and_live_units(capsys: pytest.CaptureFixture[str]) -> None:
    train(pattern(), config(), progress=True)
    assert re.search(r"6/6 .*k=3, live=1\d, loss=0\.\d+", capsys.readouterr().err)


@pytest.mark.parametrize("activation", ["linear", "relu"])
def test_batch_topk_trains_on_the_reference_engine(activation: str) -> None:
    x = np.concatenate([pattern(), np.zeros((64, 20), np.float32)])
    settings = config(selection="batch_topk", activation=activation, epochs=40, k_start=None)
    model, history = run(x, settings)
    assert history["loss"][-1] < history["loss"][0] / 2
    kept = model.code(torch.from_numpy(x)).count_nonzero(1)
    assert int(kept.sum()) <= 3 * len(x)
    assert kept[:64].float().mean() > kept[64:].float().mean() + 1, "examples with more in them keep more"
    by_row, _ = run(x, config(activation=activation, epochs=40, k_start=None))
    assert not torch.equal(model.weight, by_row.weight)


@pytest.mark.parametrize("engine", ENGINES)
def test_without_shuffling_examples_are_taken_as_they_come(engine: str) -> None:
    x, settings = pattern(), config(shuffle=False, k_start=None)
    model, velocity = new_model(settings, x), {}
    by_hand = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    for _ in range(settings.epochs):
        for first in range(0, len(x), settings.batch_size):
            batch = torch.from_numpy(x[first : first + settings.batch_size])
            loss = torch.func.functional_call(_Loss(model), {f"model.{n}": p for n, p in by_hand.items()}, batch)
            for (name, p), gradient in zip(by_hand.items(), torch.autograd.grad(loss, by_hand.values()), strict=True):
                velocity[name] = settings.momentum * velocity.get(name, 0) - settings.learning_rate * gradient
                p.data += velocity[name]
    trained, _ = train(x, settings, engine=engine)
    for name, parameter in trained.named_parameters():
        torch.testing.assert_close(parameter, by_hand[name], rtol=1e-4, atol=1e-5, msg=name)


class _Loss(torch.nn.Module):
    def __init__(self, model: KSparseAutoencoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model.loss(x)
