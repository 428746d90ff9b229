from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ksae_lib import loop, training
from ksae_lib.engines.base import EpochResult
from ksae_lib.engines.gpu import GpuEngine
from ksae_lib.loop import DivergenceError, columns
from ksae_lib.training import TrainConfig, Trained, batch_key, choose_engine, train, train_many

BASE = TrainConfig(units=30, k=5, k_start=12, epochs=6, batch_size=20, learning_rate=0.005)
CONFIGS = (BASE, replace(BASE, k=3, seed=1, bias_init="centered"), replace(BASE, k=8, seed=2, learning_rate=0.002))


NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


class OnProcessor(GpuEngine):
    """The gpu engine's batches where there is no GPU."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments, device="cpu")


@pytest.fixture(params=["gpu", "reference", pytest.param("cuda", marks=NEEDS_GPU)])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of the gpu engine, without a GPU and on one."""
    if request.param == "cuda":
        return "gpu"
    monkeypatch.setattr(training, "gpu_missing", lambda: None)
    monkeypatch.setitem(training.ENGINES, "gpu", OnProcessor)
    return request.param


alone = partial(train, engine="reference")


def examples(n: int = 90, inputs: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((n, inputs), np.float32)


def trained(outcome: Trained | DivergenceError) -> Trained:
    assert not isinstance(outcome, DivergenceError), outcome
    return outcome


def assert_same(found: Trained, wanted: Trained) -> None:
    for (name, value), other in zip(found[0].named_parameters(), wanted[0].parameters(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-6, msg=name)
    ours, theirs = columns(found[1]), columns(wanted[1])
    assert list(ours) == list(theirs)
    for column in ("epoch", "k", "learning_rate", "momentum", "live_units"):
        assert ours[column].tolist() == theirs[column].tolist(), column
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)


def test_runs_at_once_are_the_runs_that_train_makes_of_each(engine: str) -> None:
    x = examples()
    for outcome, config in zip(train_many(x, CONFIGS, engine=engine), CONFIGS, strict=True):
        assert_same(trained(outcome), alone(x, config))
    assert_same(train(x, BASE, engine=engine), alone(x, BASE))


def test_each_run_can_have_examples_of_its_own(engine: str) -> None:
    x = np.stack([examples(seed=seed) for seed in range(3)])
    for outcome, own, config in zip(train_many(x, CONFIGS, engine=engine), x, CONFIGS, strict=True):
        assert_same(trained(outcome), alone(own, config))
    with pytest.raises(ValueError, match="There are examples for 3 runs, but 2 runs"):
        train_many(x, CONFIGS[:2], engine=engine)


def test_runs_that_are_interrupted_go_on_from_their_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    x, files = examples(), [tmp_path / f"{number}.ckpt" for number in range(3)]
    whole = train_many(x, CONFIGS, engine=engine)
    kind: Any = training.ENGINES[engine]
    original, calls = kind.run_epoch, []

    def interrupted(self: Any, *arguments: Any) -> list[EpochResult]:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        results: list[EpochResult] = original(self, *arguments)
        return results

    with monkeypatch.context() as patch:
        patch.setattr(loop, "CHECKPOINT_SECONDS", 0)
        patch.setattr(kind, "run_epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_many(x, CONFIGS, engine=engine, checkpoint=files)
        assert [file.exists() for file in files] == [True, False, False]
        with pytest.raises(ValueError, match="not a checkpoint of this run"):
            train_many(x, CONFIGS[1:], engine=engine, checkpoint=files[:2])
        resumed = train_many(x, CONFIGS, engine=engine, checkpoint=files)
    assert len(calls) == 4 + (3 if engine == "gpu" else 3 + 2 * 6)
    for outcome, wanted in zip(resumed, whole, strict=True):
        (model, history), (same, rows) = trained(outcome), trained(wanted)
        for value, other in zip(model.parameters(), same.parameters(), strict=True):
            assert torch.equal(value, other)
        assert columns(history)["loss"].tolist() == columns(rows)["loss"].tolist()


def test_a_run_that_diverges_says_so_and_leaves_the_others_alone(engine: str) -> None:
    x, wild = examples(), replace(BASE, learning_rate=1e4, seed=1)
    error, calm = train_many(x, (wild, BASE), engine=engine)
    assert isinstance(error, DivergenceError)
    assert "in epoch 0" in str(error) and "learning rate 10000" in str(error)
    assert_same(trained(calm), alone(x, BASE))
    assert isinstance(train_many(x, (wild,), engine=engine)[0], DivergenceError)
    with pytest.raises(DivergenceError, match="learning rate 10000"):
        train(x, wild, engine=engine)


def test_what_cannot_be_trained_at_once_is_refused(engine: str) -> None:
    with pytest.raises(ValueError, match="2 runs of 2 kinds: they must have the same units"):
        train_many(examples(), (BASE, replace(BASE, units=31)), engine=engine)
    spoilt = examples()
    spoilt[3, 4] = math.nan
    with pytest.raises(ValueError, match="NaN"):
        train_many(spoilt, CONFIGS, engine=engine)


def test_the_key_of_a_batch_is_what_runs_at_once_must_share() -> None:
    assert len({batch_key(config) for config in CONFIGS}) == 1
    shared = {"units": 31, "activation": "relu", "selection": "threshold", "epochs": 9, "batch_size": 7}
    shared |= {"momentum": 0.5, "momentum_end": 0.5}
    for other in ({name: value} for name, value in shared.items()):
        assert batch_key(replace(BASE, **other)) != batch_key(BASE)


def test_auto_takes_the_fastest_engine_there_is_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_engine(BASE) == ("cpu", "torch sees no CUDA device")
    assert choose_engine(replace(BASE, k=16))[0] == "reference"
    assert choose_engine(replace(BASE, k=15))[0] == "cpu"
    assert choose_engine(BASE, "reference") == ("reference", "asked for")
    with pytest.raises(ValueError, match="engine = 'gpu' is not possible: torch sees no CUDA device"):
        train(examples(), BASE, engine="gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "GPU")
    monkeypatch.setattr("ksae_lib.training.find_spec", lambda name: object())
    assert choose_engine(BASE) == ("gpu", "this machine has a GPU")
    assert choose_engine(replace(BASE, selection="threshold"))[0] == "gpu"
    assert choose_engine(replace(BASE, selection="batch_topk")) == (
        "reference", "no other knows selection = 'batch_topk'",
    )  # fmt: skip
    monkeypatch.setattr("ksae_lib.training.find_spec", lambda name: None)
    assert choose_engine(BASE) == ("cpu", "Triton is not installed")


@pytest.mark.parametrize(
    ("engine", "changes", "sentence"),
    [
        ("tpu", {}, "engine = 'tpu' is unknown: choose one of auto, gpu, cpu, reference"),
        ("cpu", {"selection": "batch_topk"}, "cpu engine does not know selection = 'batch_topk': choose reference"),
        ("gpu", {"selection": "batch_topk"}, "gpu engine does not know selection = 'batch_topk': choose reference"),
    ],
)
def test_engines_that_cannot_train_a_config_say_so(
    monkeypatch: pytest.MonkeyPatch, engine: str, changes: dict[str, Any], sentence: str
) -> None:
    monkeypatch.setattr(training, "gpu_missing", lambda: None)
    with pytest.raises(ValueError, match=sentence):
        train(examples(), replace(BASE, **changes), engine=engine)
