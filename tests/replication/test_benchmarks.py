import json
from argparse import Namespace
from functools import partial
from importlib.metadata import version
from itertools import count
from types import SimpleNamespace

import joblib
import numpy as np
import pytest
import torch

from benchmarks import common, encoding, engines, peers, readout, recovery, scaling
from benchmarks.__main__ import main
from replication.data import Dataset

FIGURES = {
    "reference_over_cpu",
    "cpu_over_floor",
    "cpu_over_first",
    *(f"{n}_s_per_epoch" for n in ("cpu", "reference", "floor")),
}


def sparse_images(n=600):
    """A fifth of the pixels not zero, as in MNIST."""
    rng = np.random.default_rng(0)
    return (rng.random((n, 49)) * (rng.random((n, 49)) < 0.2)).astype(np.float32)


@pytest.fixture
def few_examples(monkeypatch):
    """Few images, and hardly any warm-up."""
    monkeypatch.setattr(engines, "load_data", lambda config: SimpleNamespace(train_x=sparse_images(200)))
    monkeypatch.setattr(engines, "WARM_UP_EXAMPLES", 200)


def of_engines(k, seconds=0.0, examples=100):
    return engines.measure(Namespace(task="mnist", k=k, seconds=seconds, examples=examples))["nets"]


@pytest.mark.parametrize(
    ("task", "size"), [("mnist", ("MNIST", 50_000, 49, 1000)), ("norb", ("toy NORB (stand-in)", 20_000, 49, 4000))]
)
def test_json_is_one_object_with_the_promised_keys(few_examples, capfd, tmp_path, task, size):
    file = tmp_path / "new" / "engines.json"
    main(["engines", "--task", task, "--k", "3,5", "--seconds", "0", "--examples", "100", "--output", str(file)])
    printed = capfd.readouterr().out
    results = json.loads(printed)
    assert json.loads(file.read_text()) == results
    nets = ["k = 3", "k = 5", *(["k = 3, batches of 20"] if task == "mnist" else [])]
    assert list(results) == ["nets", "task", "hardware"] and list(results["nets"]) == nets
    for row in results["nets"].values():
        assert all(row[name] > 0 for name in FIGURES) and row["quartiles"].keys() == FIGURES
        assert row["rounds"] == 1
    assert results["nets"]["k = 3"]["cpu_over_first"] == 1
    assert tuple(results["task"].values()) == (*size, 100, 100)
    assert results["hardware"].keys() >= {"cpu", "cores", "torch", "numba"}
    assert results["hardware"]["nonzero_inputs"] == pytest.approx(0.2, abs=0.02)


def test_ratios_are_of_the_seconds(few_examples):
    row = of_engines("4", examples=200)["k = 4"]
    reference, cpu, floor = (row[f"{name}_s_per_epoch"] for name in ("reference", "cpu", "floor"))
    assert row["reference_over_cpu"] == pytest.approx(reference / cpu, rel=2e-3)
    assert row["cpu_over_floor"] == pytest.approx(cpu / floor, rel=2e-3)


def test_engines_are_timed_from_the_same_state_on_the_same_examples(few_examples):
    x, rng = sparse_images(200), np.random.default_rng(0)
    config = engines.TrainConfig(k=4, k_start=None)
    made = engines.warm_engines(x, config, rng)
    order = rng.integers(len(x), size=200)
    for engine in made.values():
        engines.run(engine, config, order)
    weights = [engine.models[0].weight.detach() for engine in made.values()]
    assert not np.allclose(weights[0], engines.new_model(config, x).weight.detach())
    np.testing.assert_allclose(weights[0], weights[1], atol=1e-5)


def test_rounds_go_on_until_the_time_is_spent(few_examples, monkeypatch):
    readings_per_round = 2 * 3 * 2 + 1
    monkeypatch.setattr(common, "time", SimpleNamespace(perf_counter=count().__next__, sleep=lambda seconds: None))
    assert of_engines("4", seconds=2.5 * readings_per_round)["k = 4"]["rounds"] == 3


@pytest.mark.parametrize(
    "bad",
    [
        ["engines", "--k", "0"], ["engines", "--k", "1001"], ["engines", "--examples", "0"], ["engines", "--task", "x"],
        ["readout", "--epochs", "0"], ["peers", "--k", "1001"],
    ],
)  # fmt: skip
def test_impossible_options_are_refused_in_one_sentence(bad, capsys, few_examples):
    with pytest.raises(SystemExit):
        main(bad)
    assert "is not possible" in capsys.readouterr().err


def test_every_measurement_says_what_it_measures(capsys):
    for name in ("encoding", "engines", "peers", "readout", "scaling"):
        with pytest.raises(SystemExit):
            main([name, "--help"])
        assert len(capsys.readouterr().out) > 500
    assert "dense encode products" in engines.__doc__


def test_readout_benchmark_times_both_solvers_on_the_same_codes(monkeypatch, capfd, tmp_path):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, 400)
    x = (rng.random((400, 49)) * (rng.random((400, 49)) < 0.3) + 2 * np.eye(10, 49)[y]).astype(np.float32)
    data = Dataset(x[:300], y[:300], x[300:350], y[300:350], x[350:], y[350:], (7, 7), {}, "none")
    monkeypatch.setattr(readout, "load_data", lambda config: data)
    file = tmp_path / "readout.json"
    main(["readout", "--epochs", "1", "--output", str(file)])
    results = json.loads(file.read_text())
    assert (set(results["codes"]), results["examples"]) == ({"k25", "k100", "relu"}, 300)
    for row in results["codes"].values():
        assert row["ratio"] == pytest.approx(row["scikit_learn_s"] / row["ours_s"], rel=2e-3)
        assert abs(row["ours_test_error"] - row["scikit_learn_test_error"]) <= 2
        assert (row["ours_converged"], row["scikit_learn_converged"]) == (3, 3)
    assert results["codes"]["k25"]["share_nonzero"] == pytest.approx(0.075)
    assert json.loads(capfd.readouterr().out) == results


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
        {"slow": peers.Peer(loop, "torch"), "gone": peers.Peer(missing, "torch")},
    )
    monkeypatch.setattr(peers, "load_data", lambda config: SimpleNamespace(train_x=sparse_images()))
    results = peers.measure(Namespace(k=5, device="cpu", seconds=0, steps=2))
    assert results["left_out"] == {"gone": "not installed: No module named 'peer'"}
    assert list(results["peers"]) == ["ours, cpu engine", "plain autograd", "slow"]
    assert results["rounds"] == 5
    ours, plain, slow = results["peers"].values()
    assert ours["loss"] == pytest.approx(plain["loss"], rel=1e-3), "the same model on the same batches"
    assert slow["loss"] is None
    assert slow["fastest_peer_over_this"] == 1
    assert slow["version"] == version("torch")


def test_many_models_at_once_train_in_a_benchmark_as_the_plain_loop_does():
    x = torch.from_numpy(sparse_images(300))
    order = np.random.default_rng(0).permutation(200)
    batched, plain = peers._batched(x, 5, models=3), peers._ours(x, 5, "reference")
    assert batched(order) == pytest.approx(plain(np.argsort(order)), rel=1e-4)


def test_encoders_are_compared_at_equal_sparsity(monkeypatch):
    monkeypatch.setattr(encoding, "UNITS", 120)
    monkeypatch.setattr(encoding, "_SPARSE_CODED", 30)
    monkeypatch.setattr(encoding, "_DICTIONARY_BATCH", 50)
    data = SimpleNamespace(train_x=sparse_images(), test_x=sparse_images())
    monkeypatch.setattr(encoding, "load_data", lambda config: data)
    results = encoding.measure(Namespace(k=4, epochs=3, seconds=0.0))
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


def test_sizes_grow_one_at_a_time_beside_a_roofline_of_products_and_bytes(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(scaling, "VARIED", {"units": (50, 100), "k": (5, 10), "models": (2,)})
    file, figure = tmp_path / "scaling.json", tmp_path / "scaling.png"
    main(["scaling", "--output", str(file), "--plot", str(figure)])
    results = json.loads(file.read_text())
    points = results["points"]
    assert [(p["varied"], p["units"], p["k"]) for p in points] == [
        ("units", 50, 25), ("units", 100, 25), ("k", 1000, 5), ("k", 1000, 10),
    ], "many models at once only on a GPU"  # fmt: skip
    ratio = points[1]["s_per_step"] / points[0]["s_per_step"]
    assert 2 ** results["slopes"]["units"] == pytest.approx(ratio, rel=2e-3)
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert json.loads(capsys.readouterr().out) == results


def test_atoms_are_found_again_wherever_the_mean_is(monkeypatch):
    monkeypatch.setattr(recovery, "INPUTS", 32)
    monkeypatch.setattr(recovery, "SETS", {"still": (48, 2, 0, 0.01, 0.3), "far": (48, 2, 30, 0.01, 0.3)})
    monkeypatch.setattr(recovery, "Parallel", partial(joblib.Parallel, backend="sequential"))
    results = recovery.measure(Namespace(examples=8000, epochs=30, seeds=2))
    still, far = results["sets"].values()
    assert list(still)[:5] == list(still["by_seed"]) == list(still["cosine"])
    cosine = still["cosine"]
    assert far["cosine"]["k-sparse"] == pytest.approx(cosine["k-sparse"], abs=0.01)
    assert cosine["k-sparse"] > 0.95
    for found in (cosine, far["cosine"]):
        assert min(found["TopK + AuxK"], found["scikit-learn"]) > found["exemplars"] + 0.05
    assert cosine["exemplars"] > cosine["random"] and still["by_seed"]["random"] == [0, 0]
    assert still["k-sparse"].startswith(f"{100 * np.mean(still['by_seed']['k-sparse']):.1f} (± ")
