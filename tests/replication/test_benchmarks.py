import json
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks import encoding, engines, finetuning, peers, readout, scaling
from replication.data import Dataset

FIGURES = {"reference_s_per_epoch", "cpu_s_per_epoch", "ratio", "floor_s_per_epoch"}


@pytest.fixture
def few_examples(monkeypatch):
    """A fifth of the pixels not zero, as in MNIST, and hardly any warm-up."""
    rng = np.random.default_rng(0)
    x = (rng.random((200, 49)) * (rng.random((200, 49)) < 0.2)).astype(np.float32)
    monkeypatch.setattr(engines, "load_data", lambda config: SimpleNamespace(train_x=x))
    monkeypatch.setattr(engines, "WARM_UP_STEPS", 2)
    monkeypatch.setattr(engines, "PRODUCT_SIZE", 64)


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


def sparse_images(n=600):
    rng = np.random.default_rng(0)
    return (rng.random((n, 49)) * (rng.random((n, 49)) < 0.2)).astype(np.float32)


def test_peers_that_are_not_installed_are_named_and_the_others_timed(monkeypatch):
    def missing(x, k):
        raise ImportError("No module named 'peer'")

    def loop(x, k):
        model = torch.nn.Linear(x.shape[1], x.shape[1])
        return peers._loop(x, model, lambda batch: peers._squared(batch, model(batch)))

    monkeypatch.setattr(peers, "UNITS", 60)
    monkeypatch.setattr(
        peers,
        "PEERS",
        {"slow": peers.Peer("torch", "untied", "SGD", loop), "gone": peers.Peer("torch", "untied", "SGD", missing)},
    )
    results = peers.benchmark(sparse_images(), 5, "cpu", 0, 2)
    assert results["left_out"] == {"gone": "not installed: No module named 'peer'"}
    assert list(results["peers"]) == ["ours, cpu engine", "plain autograd", "slow"]
    assert results["rounds"] == 5
    ours, plain, slow = results["peers"].values()
    assert ours["loss"] == pytest.approx(plain["loss"], rel=1e-3), "the same model on the same batches"
    assert slow["loss"] is None
    assert slow["fastest_peer_over_this"] == 1
    assert "gone: not installed" in peers.table(results)


def test_many_models_at_once_train_in_a_benchmark_as_the_plain_loop_does():
    x = torch.from_numpy(sparse_images(300))
    order = np.random.default_rng(0).permutation(200)
    batched, plain = peers._batched(3, "float32")(x, 5), peers._ours("reference")(x, 5)
    assert batched(order) == pytest.approx(plain(np.argsort(order)), rel=1e-4)


def test_encoders_are_compared_at_equal_sparsity(monkeypatch):
    monkeypatch.setattr(encoding, "UNITS", 120)
    monkeypatch.setattr(encoding, "PRODUCT_SIZE", 64)
    monkeypatch.setattr(encoding, "_SPARSE_CODED", 30)
    monkeypatch.setattr(encoding, "_DICTIONARY_BATCH", 50)
    x = sparse_images()
    results = encoding.benchmark(x, x, 4, 3, 0.0)
    rows = results["methods"]
    assert rows["k-sparse encoder"]["l0"] == 4
    assert rows["k-sparse encoder, all pixels"]["fvu"] == pytest.approx(rows["k-sparse encoder"]["fvu"], rel=1e-3)
    assert rows["OMP"]["l0"] <= 4
    assert 2 < rows["LARS-lasso"]["l0"] <= 5
    assert rows["OMP"]["fvu"] < rows["k-sparse encoder"]["fvu"], "sparse coding solves for its values"
    assert results["support_with_least_squares_fvu"] < rows["k-sparse encoder"]["fvu"]
    assert rows["OMP"]["encoder_over_this"] == pytest.approx(
        rows["k-sparse encoder"]["images_per_s"] / rows["OMP"]["images_per_s"], rel=1e-2
    )
    assert "encoder / this" in encoding.table(results)


def test_sizes_grow_one_at_a_time_beside_a_roofline_of_products_and_bytes(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(scaling, "VARIED", {"units": (50, 100), "k": (5,), "models": (2,)})
    monkeypatch.setattr(scaling, "product_rate", lambda size, device: 1e9)
    monkeypatch.setattr(scaling, "_copy_rate", lambda device: 1e9)
    file, figure = tmp_path / "scaling.json", tmp_path / "scaling.png"
    scaling.main(["--output", str(file), "--plot", str(figure)])
    points = json.loads(file.read_text())["points"]
    assert [(p["varied"], p["units"], p["k"]) for p in points] == [
        ("units", 50, 25),
        ("units", 100, 25),
        ("k", 1000, 5),
    ], "many models at once only on a GPU"
    assert points[0]["roofline_s_per_step"] == pytest.approx((10 * 100 * 50 * 784 + 16 * 50 * 784) / 1e9, rel=1e-3)
    assert figure.read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()
    scaling.main(["--from", str(file)])
    assert capsys.readouterr().out.count("\n") == 4
