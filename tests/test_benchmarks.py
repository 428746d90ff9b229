import json
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import engines, finetuning, readout
from ksae_lib.datasets import Dataset

FIGURES = {"reference_s_per_epoch", "cpu_s_per_epoch", "ratio", "floor_s_per_epoch"}


@pytest.fixture
def few_examples(monkeypatch):
    """A fifth of the pixels not zero, as in MNIST, and hardly any warm-up."""
    rng = np.random.default_rng(0)
    x = (rng.random((200, 49)) * (rng.random((200, 49)) < 0.2)).astype(np.float32)
    monkeypatch.setattr(engines, "load_data", lambda config: SimpleNamespace(train_x=x))
    monkeypatch.setattr(engines, "WARM_UP_STEPS", 2)
    monkeypatch.setattr(engines, "_PRODUCT_SIZE", 64)


def test_json_is_one_object_with_the_promised_keys(few_examples, capfd, tmp_path):
    file = tmp_path / "new" / "engines.json"
    engines.main(["--json", "--k", "3", "5", "--seconds", "0", "--steps", "1", "--output", str(file)])
    printed = capfd.readouterr().out
    results = json.loads(printed)
    assert json.loads(file.read_text()) == results
    assert list(results) == ["3", "5", "task", "hardware"]
    for k in ("3", "5"):
        assert results[k].keys() >= FIGURES | {"cpu_bfloat16_s_per_epoch"}
        assert all(results[k][name] > 0 for name in FIGURES)
        assert results[k]["quartiles"].keys() >= FIGURES
        assert results[k]["rounds"] == 1
        assert results[k]["sparse_floor_s_per_epoch"] < results[k]["floor_s_per_epoch"]
    assert results["hardware"].keys() >= {"cpu", "cores", "torch", "numba"}
    assert results["hardware"]["nonzero_inputs"] == pytest.approx(0.2, abs=0.02)


def test_ratio_is_reference_over_cpu(few_examples):
    x = engines.load_data(None).train_x
    row = engines.benchmark(x, [4], seconds=0, steps=2)["4"]
    assert row["ratio"] == pytest.approx(row["reference_s_per_epoch"] / row["cpu_s_per_epoch"], rel=2e-3)


def test_engines_are_timed_from_the_same_state_on_the_same_examples(few_examples):
    one = engines._Slices(engines.load_data(None).train_x, 4, 2, engines.TASKS["mnist"])
    one.round()
    weights = [engine.model.weight.detach() for engine in one.engines.values()]
    assert not np.allclose(weights[0], engines.new_model(engines.TrainConfig(), one.x).weight.detach())
    np.testing.assert_allclose(weights[0], weights[1], atol=1e-5)


def test_rounds_go_on_until_the_time_is_spent(few_examples, monkeypatch):
    readings_per_round = 2 * 3 + 2 * 3 + 2 * 20 + 1
    monkeypatch.setattr(engines, "time", SimpleNamespace(perf_counter=count().__next__, sleep=lambda seconds: None))
    row = engines.benchmark(engines.load_data(None).train_x, [4], seconds=2.5 * readings_per_round, steps=1)["4"]
    assert row["rounds"] == 3


@pytest.mark.parametrize(("task", "size"), [("mnist", "50,000 × 49, 1000 units"), ("norb", "20,000 × 49, 4000 units")])
def test_table_is_aligned_and_names_the_task_and_the_floor(few_examples, capsys, task, size):
    engines.main(["--task", task, "--k", "3", "--seconds", "0", "--steps", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert size in lines[0]
    assert len({len(line) for line in lines[2:5]}) == 1
    assert "dense encode product" in "\n".join(lines)


@pytest.mark.parametrize("bad", [["--k", "0"], ["--k", "1001"], ["--steps", "0"]])
def test_impossible_options_are_refused_in_one_sentence(bad, capsys):
    with pytest.raises(SystemExit):
        engines.main(bad)
    assert "is not possible" in capsys.readouterr().err


def test_fine_tuning_benchmark_times_every_net(monkeypatch, capfd, tmp_path):
    rng = np.random.default_rng(0)
    x, y = (rng.random((200, 49)) * (rng.random((200, 49)) < 0.2)).astype(np.float32), rng.integers(0, 10, 200)
    monkeypatch.setattr(finetuning, "load_mnist", lambda: SimpleNamespace(train_x=x, train_y=y))
    file = tmp_path / "finetuning.json"
    finetuning.main(["--seconds", "0", "--steps", "1", "--output", str(file)])
    results = json.loads(file.read_text())
    times = {name: value for name, value in results.items() if name.endswith("s_per_epoch")}
    assert len(times) == 5 and all(value > 0 for value in times.values())
    ratio = results["dense_s_per_epoch"] / results["k_sparse_s_per_epoch"]
    assert results["dense_over_k_sparse"] == pytest.approx(ratio, rel=2e-3)
    assert "k_sparse_s_per_epoch" in capfd.readouterr().out
    with pytest.raises(SystemExit):
        finetuning.main(["--steps", "0"])


def test_readout_benchmark_times_both_solvers_on_the_same_codes(monkeypatch, capfd, tmp_path):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, 400)
    x = (rng.random((400, 49)) * (rng.random((400, 49)) < 0.3) + 2 * np.eye(10, 49)[y]).astype(np.float32)
    data = Dataset(x[:300], y[:300], x[300:350], y[300:350], x[350:], y[350:], (7, 7), {}, "none")
    monkeypatch.setattr(readout, "load_mnist", lambda train_size: data)
    file = tmp_path / "readout.json"
    readout.main(["--epochs", "1", "--output", str(file)])
    results = json.loads(file.read_text())
    assert (set(results["codes"]), results["examples"]) == ({"k25", "k100", "relu"}, 300)
    for row in results["codes"].values():
        assert row["ratio"] == pytest.approx(row["scikit_learn_s"] / row["ours_s"], rel=2e-3)
        assert abs(row["ours_test_error"] - row["scikit_learn_test_error"]) <= 2
        assert (row["ours_converged"], row["scikit_learn_converged"]) == (3, 3)
    assert results["codes"]["k25"]["share_nonzero"] == pytest.approx(0.075)
    assert "scikit-learn" in capfd.readouterr().out
    with pytest.raises(SystemExit):
        readout.main(["--epochs", "0"])
