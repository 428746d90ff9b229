from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ksae_lib.engines.gpu import GpuEngine
from ksae_lib.many import OutOfTimeError, Trained, train_many
from ksae_lib.training import DivergenceError, TrainConfig, choose_engine, make_engine, new_model, train

BASE = TrainConfig(units=30, k=5, k_start=12, epochs=6, batch_size=20, learning_rate=0.005, engine="reference")
CONFIGS = (BASE, replace(BASE, k=3, seed=1, bias_init="centered"), replace(BASE, k=8, seed=2, learning_rate=0.002))


def examples(n: int = 90, inputs: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((n, inputs), np.float32)


def trained(outcome: Trained | DivergenceError) -> Trained:
    assert not isinstance(outcome, DivergenceError), outcome
    return outcome


def assert_same(found: Trained, wanted: Trained) -> None:
    for (name, value), other in zip(found[0].named_parameters(), wanted[0].parameters(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-6, msg=name)
    assert list(found[1].columns) == list(wanted[1].columns)
    for column in ("epoch", "k", "learning_rate", "momentum", "live_units"):
        assert found[1][column].tolist() == wanted[1][column].tolist(), column
    assert found[1]["loss"].to_numpy() == pytest.approx(wanted[1]["loss"].to_numpy(), rel=1e-5)


def test_runs_at_once_are_the_runs_that_train_makes_of_each() -> None:
    x = examples()
    for outcome, config in zip(train_many(x, CONFIGS, device="cpu"), CONFIGS, strict=True):
        assert_same(trained(outcome), train(x, config))


def test_each_run_can_have_examples_of_its_own() -> None:
    x = np.stack([examples(seed=seed) for seed in range(3)])
    for outcome, own, config in zip(train_many(x, CONFIGS, device="cpu"), x, CONFIGS, strict=True):
        assert_same(trained(outcome), train(own, config))


def test_a_slice_of_time_ends_in_a_checkpoint_and_the_next_goes_on_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, file = examples(), tmp_path / "checkpoint"
    whole = train_many(x, CONFIGS, device="cpu")
    now = iter(range(1000))
    with monkeypatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: float(next(now)))
        with pytest.raises(OutOfTimeError, match="of 6 epochs of 3 runs"):
            train_many(x, CONFIGS, device="cpu", checkpoint=file, until=5.0)
    with pytest.raises(ValueError, match="not a checkpoint of this run"):
        train_many(x, CONFIGS[:2], device="cpu", checkpoint=file)
    for outcome, wanted in zip(train_many(x, CONFIGS, device="cpu", checkpoint=file), whole, strict=True):
        found, wanted = trained(outcome), trained(wanted)
        for value, other in zip(found[0].parameters(), wanted[0].parameters(), strict=True):
            assert torch.equal(value, other)
        assert found[1]["loss"].tolist() == wanted[1]["loss"].tolist()


def test_a_run_that_diverges_says_so_and_leaves_the_others_alone() -> None:
    x, wild = examples(), replace(BASE, learning_rate=1e4, seed=1)
    calm, error = train_many(x, (BASE, wild), device="cpu")
    assert isinstance(error, DivergenceError)
    assert "learning rate 10000" in str(error)
    assert_same(trained(calm), train(x, BASE))
    assert isinstance(train_many(x, (wild,), device="cpu")[0], DivergenceError)


def test_what_cannot_be_trained_at_once_is_refused() -> None:
    with pytest.raises(ValueError, match="2 runs of 2 kinds: they must have the same units"):
        train_many(examples(), (BASE, replace(BASE, units=31)), device="cpu")
    spoilt = examples()
    spoilt[3, 4] = math.nan
    with pytest.raises(ValueError, match="NaN"):
        train_many(spoilt, CONFIGS, device="cpu")


def test_one_model_on_a_device_is_the_batched_engine_with_one_run() -> None:
    x = examples()
    ours, theirs = new_model(BASE, x), new_model(BASE, x)
    engine, reference = GpuEngine(ours, x, 20, "cpu"), make_engine(theirs, x, BASE)
    for epoch in range(3):
        order = np.random.default_rng(epoch).permutation(len(x))
        found, wanted = (one.run_epoch(order, 5, 0.005, 0.9) for one in (engine, reference))
        assert found.loss == pytest.approx(wanted.loss, rel=1e-5)
    for name, value in engine.velocity.items():
        torch.testing.assert_close(value, reference.velocity[name], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-4, atol=1e-6)


def test_auto_takes_the_fastest_engine_there_is_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    auto = replace(BASE, engine="auto")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_engine(auto) == ("cpu", "torch sees no CUDA device")
    assert choose_engine(replace(auto, k=29))[0] == "reference"
    assert choose_engine(BASE) == ("reference", "asked for")
    with pytest.raises(ValueError, match="engine = 'gpu' is not possible: torch sees no CUDA device"):
        train(examples(), replace(BASE, engine="gpu"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "GPU")
    monkeypatch.setattr("ksae_lib.training.find_spec", lambda name: object())
    assert choose_engine(auto) == ("gpu", "this machine has a GPU")
    monkeypatch.setattr("ksae_lib.training.find_spec", lambda name: None)
    assert choose_engine(auto) == ("cpu", "Triton is not installed")
