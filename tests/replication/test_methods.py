from __future__ import annotations

import itertools
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.nn.functional import softplus

from ksae_lib.loop import DivergenceError
from ksae_lib.model import CodeMode, KSparseAutoencoder
from ksae_lib.training import train
from replication.methods import METHODS, method_from_json
from replication.methods.autoencoders import Autoencoder, KLSparse, kl_penalty
from replication.methods.base import NOT_NEGATIVE, Method, setting, torch_device
from replication.methods.k_sparse import KSparse, RandomK
from replication.methods.layer import Layer, drop
from replication.methods.plain import PCA, Pixels
from replication.methods.rbm import DBN, RBM, GaussianRBM
from replication.methods.sgd import SGDBaseline

RESULTS = Path(__file__).parents[2] / "results"


def bars(examples: int = 200, seed: int = 0) -> np.ndarray:
    """Pictures of 4 × 4 pixels, each with some whole rows lit."""
    lit = np.random.default_rng(seed).random((examples, 4)) < 0.4
    return np.repeat(lit, 4, axis=1).astype(np.float32)


SMALL: dict[str, Method] = {
    "relu": Autoencoder(units=8, epochs=3),
    "dropout and denoising": Autoencoder(units=8, epochs=3, hidden_dropout=0.5, input_dropout=0.2),
    "cross-entropy": Autoencoder(units=8, epochs=3, visible="sigmoid"),
    "kl_sparse": KLSparse(units=8, epochs=3),
    "rbm": RBM(units=8, epochs=3),
    "gaussian_rbm": GaussianRBM(units=8, epochs=3),
    "pcd": RBM(units=8, epochs=3, persistent=True, cd_steps=2),
    "dbn": DBN(units=8, epochs=3),
    "k_sparse": KSparse(units=8, k=2, k_start=4, epochs=3),
    "random_k": RandomK(units=8, k=2),
    "pca": PCA(units=4),
    "pixels": Pixels(),
}
each_method = pytest.mark.parametrize("method", SMALL.values(), ids=SMALL)


def codes_of(method: Method, model: nn.Module, x: np.ndarray) -> np.ndarray:
    codes = method.codes(model, x, method.code_mode())[0]
    return codes.toarray() if isinstance(codes, sparse.csr_array) else codes


@each_method
def test_a_seed_decides_everything_and_weights_load_into_a_new_module(method: Method) -> None:
    x = bars()
    first, history = method.fit(x, progress=False, device="cpu")
    again, same = method.fit(x, progress=False, device="cpu")
    assert history.drop(columns="seconds", errors="ignore").equals(same.drop(columns="seconds", errors="ignore"))
    loaded = method.build(16)
    loaded.load_state_dict(first.state_dict())
    codes = [codes_of(method, model, x) for model in (first, again, loaded)]
    assert codes[0].shape == (200, method.units or 16)
    assert np.array_equal(codes[0], codes[1]) and np.array_equal(codes[0], codes[2])
    if method.uses_seed:
        other, _ = replace(method, seed=1).fit(x, progress=False, device="cpu")
        assert not np.array_equal(codes_of(method, other, x), codes[0])


LOSSES = {
    "relu": 5.156538,
    "dropout and denoising": 5.152373,
    "cross-entropy": 11.06074,
    "kl_sparse": 2.097101,
    "rbm": 3.747191,
    "gaussian_rbm": 3.749948,
    "pcd": 3.747187,
    "dbn": 0.001174193,
}
"""After three epochs with seed 3: stored runs were trained with these orders and random numbers."""


@pytest.mark.parametrize("name", LOSSES)
def test_training_repeats_what_stored_runs_did(name: str) -> None:
    _, history = replace(SMALL[name], seed=3).fit(bars(), progress=False, device="cpu")
    assert history["loss"].iloc[-1] == pytest.approx(LOSSES[name], rel=2e-6)


@each_method
@pytest.mark.parametrize("x", [np.full((4, 16), np.nan, np.float32), np.zeros((0, 16), np.float32), np.zeros(16)])
def test_examples_that_cannot_be_trained_on_are_refused(method: Method, x: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"Examples (hold NaN|have shape)"):
        method.fit(x, device="cpu")


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (Autoencoder, {"units": 0}, "units = 0"),
        (Autoencoder, {"units": 2.5}, "units = 2.5 is not possible: it must be at least 1 and a whole number"),
        (Autoencoder, {"epochs": float("nan")}, "epochs = nan"),
        (Autoencoder, {"hidden_dropout": 1.0}, "hidden_dropout = 1.0"),
        (Autoencoder, {"input_dropout": -0.1}, "input_dropout = -0.1"),
        (Autoencoder, {"visible": "round"}, "visible = 'round'"),
        (Autoencoder, {"learning_rate": 0}, "learning_rate = 0"),
        (Autoencoder, {"learning_rate_end": float("inf")}, "learning_rate_end = inf"),
        (Autoencoder, {"momentum": 1}, "momentum = 1"),
        (KLSparse, {"rho": 0}, "rho = 0"),
        (KLSparse, {"beta": -1}, "beta = -1"),
        (KSparse, {"k": 2000}, "k = 2000"),
        (RBM, {"cd_steps": 0}, "cd_steps = 0"),
        (RBM, {"learning_rate": 0}, "learning_rate = 0"),
        (RBM, {"weight_decay": -1}, "weight_decay = -1"),
        (RBM, {"seed": -1}, "seed = -1 is not possible: choose a whole number from 0"),
        (DBN, {"layers": 0}, "layers = 0"),
        (PCA, {"units": 0}, "units = 0"),
        (RandomK, {"k": 2000}, "k = 2000"),
    ],
)
def test_impossible_values_are_refused(kind: type[Method], values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**values)


def test_divergence_says_where() -> None:
    wild = Autoencoder(units=8, epochs=5, learning_rate=1000.0, weight_std=1.0)
    with pytest.raises(DivergenceError, match="autoencoder diverged: .* in epoch 2 .* learning rate 1000"):
        wild.fit(bars(), device="cpu")


def test_a_method_that_diverges_among_others_leaves_its_error_and_the_others_alone() -> None:
    tame, xs = Autoencoder(units=8, epochs=3), [bars(), bars(seed=1), bars()]
    methods = [tame, replace(tame, learning_rate=1000.0, weight_std=1.0), replace(tame, seed=1)]
    first, second, third = Autoencoder.fit_many(methods, xs, [], "cpu", False)
    assert isinstance(second, DivergenceError)
    for fitted, method, x in ((first, methods[0], xs[0]), (third, methods[2], xs[2])):
        assert not isinstance(fitted, DivergenceError)
        assert np.array_equal(codes_of(method, fitted[0], x), codes_of(method, method.fit(x, device="cpu")[0], x))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_device_that_is_not_here_is_refused() -> None:
    for method in (RBM(units=8), KSparse(units=8, k=2, k_start=None, epochs=1)):
        with pytest.raises(ValueError, match="is not possible"):
            method.fit(bars(), device="cuda")
    with pytest.raises(ValueError, match="device = 'tpu' is not possible here: choose auto or cpu"):
        torch_device("tpu")  # type: ignore[arg-type]


# Names and settings, on which ids of stored runs depend

SGD = {
    "units": 1000,
    "seed": 0,
    "epochs": 20,
    "batch_size": 100,
    "learning_rate": 0.01,
    "learning_rate_end": None,
    "momentum": 0.9,
    "weight_std": 0.01,
}
CD = {"cd_steps": 1, "persistent": False, "weight_decay": 0.0}
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "autoencoder": ("relu-e20", SGD | {"hidden_dropout": 0.0, "input_dropout": 0.0, "visible": "linear"}),
    "dbn": ("dbn-e20", SGD | CD | {"learning_rate": 0.05, "layers": 2}),
    "gaussian_rbm": ("gaussian-rbm-e20", SGD | CD | {"learning_rate": 0.001, "weight_decay": 0.0002}),
    "k_sparse": (
        "k25-zeros-e5000",
        SGD
        | {"epochs": 5000, "k": 25, "k_start": 100, "k_ramp": 0.5, "momentum_end": None, "bias_init": "zeros"}
        | {"activation": "linear", "selection": "sort", "shuffle": True},
    ),
    "kl_sparse": ("kl-sparse-e20", SGD | {"learning_rate": 0.1, "rho": 0.05, "beta": 3.0, "weight_decay": 0.0}),
    "pca": ("pca", {"units": 100, "seed": 0}),
    "pixels": ("pixels", {}),
    "random_k": ("random-k", {"units": 1000, "seed": 0, "k": 25, "weight_std": 0.05}),
    "rbm": ("rbm-e20", SGD | CD | {"learning_rate": 0.05}),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_names_and_settings_stay(name: str) -> None:
    label, settings = SETTINGS[name]
    method = METHODS[name]()
    named = {} if name in ("k_sparse", "pixels") else {"method": name}
    assert (method.method, method.label, asdict(method)) == (name, label, named | settings)
    assert method.kind == ("train" if name == "k_sparse" else "baseline")


def test_labels_say_what_is_dropped() -> None:
    assert Autoencoder(hidden_dropout=0.5, input_dropout=0.2, epochs=3).label == "dropout-denoising-e3"
    assert Autoencoder(input_dropout=0.2).label == "denoising-e20"
    assert KSparse(k=40, bias_init="centered", epochs=7).label == "k40-centered-e7"


def stored_settings(config: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Kind and settings of every method a stored run names."""
    made = [(kind, config[kind]) for kind in ("train", "baseline") if kind in config]
    return made + [found for key in ("encoder", "below") if config.get(key) for found in stored_settings(config[key])]


def test_settings_of_stored_runs_are_read_and_written_alike() -> None:
    names, later = set(), {("selection", "sort"), ("shuffle", True)}
    for path in RESULTS.glob("*/runs/*/config.json"):
        for kind, settings in stored_settings(json.loads(path.read_text(encoding="utf-8"))):
            for said in ("engine", "support_dtype"):
                settings.pop(said, None)
            method = method_from_json({kind: settings})
            written = {name: value for name, value in asdict(method).items() if (name, value) not in later}
            assert (method.kind, written) == (kind, settings)
            names.add(method.method)
    assert names == METHODS.keys() - {"pixels"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"baseline": {"method": "svm"}}, "There is no method 'svm': choose one of autoencoder, kl_sparse"),
        ({"baseline": {"epochs": 3}}, "There is no method None"),
        ({"baseline": {"method": "rbm", "tarin": 3}}, "rbm has no setting 'tarin': its settings are method, units"),
        ({"train": {"epochs": 0}}, "epochs = 0"),
    ],
)
def test_settings_that_say_nothing_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        method_from_json(config)


def test_methods_are_fitted_together_that_differ_in_the_seed_alone() -> None:
    assert RBM(seed=3).batch_key() == RBM().batch_key() != RBM(cd_steps=2).batch_key()
    assert KSparse(k=10, k_start=None, seed=3).batch_key() == KSparse().batch_key() != KSparse(epochs=3).batch_key()


@dataclass(frozen=True, kw_only=True)
class Shrinking(SGDBaseline):
    """A new baseline, as ``replication.methods`` says one is written."""

    method: str = "shrinking"
    pull: float = setting(0.1, NOT_NEGATIVE)

    def loss(self, model: Any, x: Tensor, noise: torch.Generator) -> Tensor:
        return ((x - model(x) @ model.weight - model.visible_bias) ** 2).sum(-1).mean() + self.pull * model(x).sum()


def test_a_baseline_is_one_class_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "shrinking", Shrinking)
    method = method_from_json({"baseline": {"method": "shrinking", "units": 8, "epochs": 5, "pull": 0.01}})
    model, history = method.fit(bars(), device="cpu")
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]
    assert method.label == "shrinking-e5" and codes_of(method, model, bars()).shape == (200, 8)
    assert torch.equal(method.hidden_layers(model)[0](torch.from_numpy(bars())), model(torch.from_numpy(bars())))
    with pytest.raises(ValueError, match="pull = -1 is not possible: it must not be negative"):
        Shrinking(pull=-1)


# What later tasks use


@each_method
def test_layers_for_fine_tuning_give_the_codes(method: Method) -> None:
    model, _ = method.fit(bars(), device="cpu")
    if method.method in ("pca", "pixels"):
        with pytest.raises(ValueError, match="has no units to fine-tune: choose another encoder"):
            method.hidden_layers(model, 1.0)
        return
    layers = method.hidden_layers(model, 1.0)
    h = torch.from_numpy(bars())
    for layer in layers:
        h = layer(h)
    assert len(layers) == (2 if method.method == "dbn" else 1)
    torch.testing.assert_close(h.detach(), torch.from_numpy(codes_of(method, model, bars())))
    assert layers[0].dropout == (getattr(method, "input_dropout", 0.0), getattr(method, "hidden_dropout", 0.0))


def test_k_sparse_layers_keep_alpha_k() -> None:
    model, _ = SMALL["k_sparse"].fit(bars(), device="cpu")
    assert SMALL["k_sparse"].hidden_layers(model, 3.0)[0].kept == 6
    with pytest.raises(ValueError, match="alpha·k"):
        SMALL["k_sparse"].hidden_layers(model, 5.0)


@each_method
def test_codes_are_given_for_each_alpha(method: Method) -> None:
    model, _ = method.fit(bars(), device="cpu")
    codes = method.codes(model, bars(), method.code_mode(), (1.0, 2.0))
    assert len(codes) == 2
    assert method.has_alpha == bool((codes[0] != codes[1]).sum())


@pytest.mark.parametrize("method", [KSparse(units=64, k=9, k_start=None, epochs=1), RandomK(units=64, k=9)])
def test_k_sparse_codes_are_the_models_own_to_the_bit(method: Method) -> None:
    rng = np.random.default_rng(0)
    x = (rng.random((200, 300)) * (rng.random((200, 300)) < 0.1)).astype(np.float32)
    model, _ = method.fit(x, device="cpu")
    assert (method.code_mode(), method.code_mode(dense_relu=True)) == (CodeMode.ALPHA_K, CodeMode.DENSE_RELU)
    kept = method.codes(model, x, CodeMode.ALPHA_K, (2.0,))[0]
    assert isinstance(kept, sparse.csr_array)
    assert np.array_equal(kept.toarray(), model.encode(torch.from_numpy(x), CodeMode.ALPHA_K, 2.0).numpy())
    positive = method.codes(model, x, CodeMode.DENSE_RELU, (None,))[0]  # type: ignore[arg-type]
    assert np.array_equal(positive, np.maximum(model.pre_activation(torch.from_numpy(x)).detach().numpy(), 0))


def test_pixels_are_their_own_sparse_codes() -> None:
    codes = Pixels().codes(None, bars(), Pixels().code_mode())[0]
    assert isinstance(codes, sparse.csr_array) and np.array_equal(codes.toarray(), bars())


# The k-sparse autoencoder


def test_the_k_sparse_method_is_the_librarys_training(tmp_path: Path) -> None:
    method, path = KSparse(units=8, k=2, k_start=4, epochs=3), tmp_path / "checkpoint"
    model, history = method.fit(bars(), device="cpu")
    theirs, rows = train(bars(), method, engine="cpu")
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), theirs.parameters(), strict=True))
    assert history["loss"].tolist() == [row["loss"] for row in rows]
    seconds = []
    for _ in range(2):
        (resumed,) = KSparse.fit_many([method], [bars()], [path], "cpu", False)
        assert not isinstance(resumed, DivergenceError) and path.exists()
        assert torch.equal(resumed[0].weight, model.weight)
        seconds.append(resumed[1]["seconds"].tolist())
    assert seconds[0] == seconds[1], "the second time, nothing is trained again"


def test_k_sparse_methods_fitted_together_are_those_fitted_alone(tmp_path: Path) -> None:
    methods = [KSparse(units=8, k=2, k_start=4, epochs=3, seed=seed) for seed in (0, 1)]
    for xs in ([bars()] * 2, [bars(), bars(seed=1)]):
        paths = [tmp_path / f"{id(xs)}-{seed}" for seed in (0, 1)]
        together = KSparse.fit_many(methods, xs, paths, "cpu", False)
        for fitted, method, x in zip(together, methods, xs, strict=True):
            assert not isinstance(fitted, DivergenceError)
            assert torch.equal(fitted[0].weight, method.fit(x, device="cpu")[0].weight)


def test_a_device_means_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = KSparse(k=25), KSparse(k=900, k_start=None)
    monkeypatch.setattr("ksae_lib.training.gpu_missing", lambda: "torch sees no CUDA device")
    assert [few.used_engine("auto"), few.used_engine("cpu")] == ["cpu", "cpu"]
    assert [many.used_engine("auto"), many.used_engine("cpu")] == ["reference", "reference"]
    monkeypatch.setattr("ksae_lib.training.gpu_missing", lambda: None)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "GPU")
    assert [few.used_engine(device) for device in ("auto", "cuda", "cpu")] == ["gpu", "gpu", "cpu"]
    assert PCA().used_engine("auto") == "torch"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert [RBM().used_engine(device) for device in ("auto", "cuda", "cpu")] == ["gpu", "gpu", "torch"]


def test_on_a_gpu_k_sparse_methods_are_one_batched_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[tuple[tuple[int, ...], dict[str, Any]]] = []

    def train_many(x: np.ndarray, configs: list[KSparse], **how: Any) -> list[Any]:
        seen.append((x.shape, how))
        return [(configs[0].build(16), [{"epoch": 0, "loss": 1.0}]), DivergenceError("diverged")]

    monkeypatch.setattr("ksae_lib.training.gpu_missing", lambda: None)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "GPU")
    monkeypatch.setattr("ksae_lib.training.train_many", train_many)
    methods = [KSparse(units=8, k=2, k_start=None, epochs=1, seed=seed) for seed in (0, 1)]
    shared, paths = bars(), [tmp_path / "a", tmp_path / "b"]
    fitted, diverged = KSparse.fit_many(methods, [shared, shared], paths, "cuda", False)
    KSparse.fit_many(methods, [shared, bars(seed=1)], paths, "auto", None)
    assert seen == [
        ((200, 16), {"engine": "gpu", "checkpoint": paths, "progress": False}),
        ((2, 200, 16), {"engine": "gpu", "checkpoint": paths, "progress": None}),
    ]
    assert not isinstance(fitted, DivergenceError) and fitted[1]["loss"].tolist() == [1.0]
    assert isinstance(diverged, DivergenceError)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@each_method
def test_a_gpu_trains_what_a_processor_uses(method: Method) -> None:
    model, history = method.fit(bars(), progress=False, device="cuda")
    again, same = method.fit(bars(), progress=False, device="auto")
    assert np.array_equal(codes_of(method, model, bars()), codes_of(method, again, bars()))
    assert history.drop(columns="seconds", errors="ignore").equals(same.drop(columns="seconds", errors="ignore"))


# Autoencoders


def test_the_squared_error_is_that_of_the_k_sparse_autoencoder_with_all_units_kept() -> None:
    config = Autoencoder(units=8, weight_std=0.3)
    model = config.build(16)
    twin = KSparseAutoencoder(16, 8, 8, "relu")
    twin.load_state_dict({**model.state_dict(), "threshold": torch.tensor(0.0)})
    x = torch.from_numpy(bars())
    ours, theirs = config.loss(model, x, torch.Generator()), twin.loss(x)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    gradients = (
        torch.autograd.grad(ours, list(model.parameters())),
        torch.autograd.grad(theirs, list(twin.parameters())),
    )
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_a_step_is_the_printed_momentum_update() -> None:
    config = Autoencoder(units=3, epochs=2, batch_size=50, weight_std=0.3, momentum=0.6)
    x = bars(50)
    trained, _ = config.fit(x, device="cpu")
    model = config.build(16)
    velocity = [torch.zeros_like(p) for p in model.parameters()]
    for _ in range(2):
        loss = config.loss(model, torch.from_numpy(x), torch.Generator())
        gradient = torch.autograd.grad(loss, list(model.parameters()))
        velocity = [0.6 * v - 0.01 * g for v, g in zip(velocity, gradient, strict=True)]
        with torch.no_grad():
            for p, v in zip(model.parameters(), velocity, strict=True):
                p += v
    for p, q in zip(trained.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_dropping_keeps_the_mean_and_the_share() -> None:
    x = torch.ones(400, 500)
    dropped = drop(x, 0.2, torch.Generator().manual_seed(0))
    assert set(dropped.unique().tolist()) == {0.0, 1.25}
    assert (dropped == 0).float().mean().item() == pytest.approx(0.2, abs=0.005)
    assert drop(x, 0.0, torch.Generator()) is x


def test_denoising_reconstructs_the_clean_example_from_the_corrupted_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def hide_all_inputs(x: Tensor, rate: float, noise: torch.Generator | None) -> Tensor:
        return x * (rate == 0)

    monkeypatch.setattr("replication.methods.layer.drop", hide_all_inputs)
    config = Autoencoder(units=8, weight_std=0.3, input_dropout=0.2)
    model = config.build(16)
    nn.init.constant_(model.bias, 0.5)
    x = torch.from_numpy(bars())
    blind = torch.full((16,), 0.0) + 0.5 * model.weight.sum(0)
    error = config.loss(model, x, torch.Generator()).item()
    assert error == pytest.approx(((x - blind) ** 2).sum(-1).mean().item(), rel=1e-5)


def test_codes_are_of_the_clean_input_with_all_units() -> None:
    config = Autoencoder(units=8, weight_std=0.3, hidden_dropout=0.5, input_dropout=0.5)
    model = config.build(16)
    x = torch.from_numpy(bars())
    assert torch.equal(config.encode(model, x), torch.relu(x @ model.weight.T))


def test_cross_entropy_by_hand() -> None:
    config = Autoencoder(units=2, visible="sigmoid")
    model = config.build(3)
    nn.init.zeros_(model.weight)
    model.visible_bias.data = torch.tensor([0.0, 1.0, -2.0])
    x = torch.tensor([[1.0, 0.5, 0.0]])
    p = 1 / (1 + np.exp([-0.0, -1.0, 2.0]))
    expected = -(np.log(p[0]) + 0.5 * np.log(p[1]) + 0.5 * np.log(1 - p[1]) + np.log(1 - p[2]))
    assert config.loss(model, x, torch.Generator()).item() == pytest.approx(expected, rel=1e-6)


# KL-sparse


def test_kl_penalty_by_hand() -> None:
    assert kl_penalty(torch.tensor([0.2]), 0.2).item() == pytest.approx(0, abs=1e-7)
    by_hand = 0.05 * np.log(0.05 / 0.5) + 0.95 * np.log(0.95 / 0.5)
    assert kl_penalty(torch.tensor([0.5]), 0.05).item() == pytest.approx(by_hand, rel=1e-5)
    assert torch.isfinite(kl_penalty(torch.tensor([0.0, 1.0]), 0.05)).all()


def test_the_cost_by_hand_and_its_gradient_by_finite_differences() -> None:
    config = KLSparse(units=4, beta=2.0, weight_decay=0.1, weight_std=0.5)
    model = config.build(16).double()
    x = torch.from_numpy(bars(10)).double()
    w, v = (p.detach().numpy() for p in (model.weight, model.decoder))
    h = 1 / (1 + np.exp(-x.numpy() @ w.T))
    out = 1 / (1 + np.exp(-h @ v))
    mean = h.mean(0)
    cost = 0.5 * ((x.numpy() - out) ** 2).sum() / 10 + 0.05 * ((w**2).sum() + (v**2).sum())
    cost += 2 * (0.05 * np.log(0.05 / mean) + 0.95 * np.log(0.95 / (1 - mean))).sum()
    assert config.loss(model, x).item() == pytest.approx(cost, rel=1e-10)
    gradient = torch.autograd.grad(config.loss(model, x), model.weight)[0]
    for unit, pixel in ((0, 0), (3, 7)):
        changed = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                model.weight[unit, pixel] += step
                changed.append(config.loss(model, x).item())
                model.weight[unit, pixel] -= step
        assert gradient[unit, pixel].item() == pytest.approx((changed[0] - changed[1]) / 2e-6, rel=1e-5)


def test_the_penalty_pulls_mean_activations_to_rho() -> None:
    config = KLSparse(units=8, epochs=60, beta=3.0, rho=0.2, learning_rate=0.05)
    model, _ = config.fit(bars(500), device="cpu")
    mean = codes_of(config, model, bars(500)).mean(0)
    assert np.abs(mean - 0.2).max() < 0.05


# Restricted Boltzmann machines


def step_of(config: RBM, rbm: Layer, v: Tensor) -> dict[str, Tensor]:
    """What one update at rate 1 adds to each parameter."""
    step = {name: torch.zeros_like(p) for name, p in rbm.named_parameters()}
    config.descend(rbm, v, 1.0, torch.Generator().manual_seed(1), step)
    return step


def states(n: int) -> Tensor:
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=n)))


def small_rbm() -> Any:
    rbm = RBM(units=3, weight_std=0.8).build(4).requires_grad_(False)
    rbm.bias.copy_(torch.tensor([0.3, -0.2, 0.1]))
    rbm.visible_bias.copy_(torch.tensor([-0.1, 0.4, 0.0, 0.2]))
    return rbm


def energies(rbm: Any) -> Tensor:
    v, h = states(4), states(3)
    return -(v @ rbm.weight.T @ h.T) - (v @ rbm.visible_bias)[:, None] - (h @ rbm.bias)[None]


def test_conditionals_agree_with_enumeration() -> None:
    rbm, method = small_rbm(), RBM()
    joint = torch.exp(-energies(rbm))
    torch.testing.assert_close(method.encode(rbm, states(4)), joint @ states(3) / joint.sum(1, keepdim=True))
    torch.testing.assert_close(method.decode(rbm, states(3)), joint.T @ states(4) / joint.sum(0)[:, None])


@pytest.mark.parametrize("persistent", [False, True])
def test_long_chains_give_the_gradient_of_the_likelihood(persistent: bool) -> None:
    rbm = small_rbm()
    config = RBM(units=3, cd_steps=30, persistent=persistent, momentum=0.0)
    v = states(4)[[1, 5, 6, 15]].repeat(5000, 1)
    joint = torch.exp(-energies(rbm))
    model_mean = torch.einsum("vh,vi,hj->ji", joint / joint.sum(), states(4), states(3))
    exact = config.encode(rbm, v).T @ v / len(v) - model_mean
    torch.testing.assert_close(step_of(config, rbm, v)["weight"], exact, atol=0.015, rtol=0)


@pytest.mark.parametrize("changes", [{}, {"cd_steps": 3}, {"persistent": True}])
def test_training_raises_the_likelihood(changes: dict[str, Any]) -> None:
    config = RBM(
        units=3,
        epochs=150,
        batch_size=20,
        learning_rate=0.2,
        learning_rate_end=0.01,
        momentum=0.5,
        weight_std=0.1,
        **changes,
    )
    x = states(4)[[0, 3, 12, 15]].repeat(50, 1).numpy()
    rbm, history = config.fit(x, device="cpu")
    free_energy = -torch.logsumexp(-energies(rbm), 1)
    log_likelihood = -free_energy[[0, 3, 12, 15]].mean() - torch.logsumexp(-free_energy, 0)
    assert log_likelihood > np.log(1 / 16) + 0.5, "better than a coin for each pixel"
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]
    gap = free_energy[[1, 2, 5, 6]].mean() - free_energy[[0, 3, 12, 15]].mean()
    assert gap > 0.5, "what it never saw is less probable"


def test_persistent_chains_go_on_from_update_to_update() -> None:
    rbm, config = small_rbm(), RBM(units=3, persistent=True)
    step_of(config, rbm, states(4))
    chains = rbm.chains
    assert chains is not None and chains.shape == (16, 3)
    step_of(config, rbm, states(4)[:5])
    assert rbm.chains is not None and rbm.chains.shape == (16, 3) and rbm.chains is not chains


def test_inputs_that_are_no_probabilities_are_refused() -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        RBM(units=3).fit(bars() * 2)


def test_a_deep_network_is_its_machines_trained_one_on_the_other() -> None:
    config = DBN(units=6, epochs=2, seed=4)
    x = bars()
    dbn, history = config.fit(x, device="cpu")
    machines = config.machine(0), config.machine(1)
    lower, _ = machines[0].fit(x, device="cpu")
    codes = codes_of(machines[0], lower, x)
    upper, _ = machines[1].fit(codes, device="cpu")
    assert np.array_equal(codes_of(config, dbn, x), codes_of(machines[1], upper, codes))
    assert history["layer"].tolist() == [0, 0, 1, 1]
    assert machines[0].seed != machines[1].seed


# Sanity rows


def test_principal_components_keep_distances_and_order() -> None:
    x = np.random.default_rng(0).normal(size=(100, 6)).astype(np.float32) * [3, 1, 1, 1, 1, 0.1]
    config = PCA(units=6)
    pca, history = config.fit(x.astype(np.float32))
    codes = codes_of(config, pca, x)
    assert np.allclose(
        np.linalg.norm(codes[:50] - codes[50:], axis=1), np.linalg.norm(x[:50] - x[50:], axis=1), atol=1e-3
    )
    assert (np.diff(history["explained_variance"]) <= 0).all()
    with pytest.raises(ValueError, match="units = 7 is more than the 6 components"):
        PCA(units=7).fit(x)


def test_random_codes_come_from_a_centered_k_sparse_autoencoder_nobody_trained() -> None:
    model, history = RandomK(units=8, k=2, weight_std=0.5).fit(bars())
    assert isinstance(model, KSparseAutoencoder) and history.empty
    assert model.pre_activation(torch.from_numpy(bars().mean(0, keepdims=True))).abs().max() < 1e-5


def small_gaussian_rbm() -> Any:
    rbm = GaussianRBM(units=3, weight_std=0.5).build(2).requires_grad_(False)
    rbm.bias.copy_(torch.tensor([0.3, -0.2, 0.1]))
    rbm.visible_bias.copy_(torch.tensor([0.5, -1.0]))
    return rbm


def test_gaussian_rbm_has_the_conditionals_of_its_energy() -> None:
    rbm, v, h = small_gaussian_rbm(), torch.randn(5, 2, generator=torch.Generator().manual_seed(0)), states(3)
    method = GaussianRBM()
    square = 0.5 * ((v - rbm.visible_bias) ** 2).sum(-1)
    joint = torch.exp(-(square[:, None] - v @ rbm.weight.T @ h.T - (h @ rbm.bias)[None]))
    torch.testing.assert_close(method.encode(rbm, v), joint @ h / joint.sum(1, keepdim=True))
    # exp(-E) is, in v, a normal density around the mean: the slope of log p(v | h) is mean - v.
    torch.testing.assert_close(method.decode(rbm, h), rbm.visible_bias + h @ rbm.weight)
    drawn = method.sample_visible(torch.zeros(20_000, 2), torch.Generator().manual_seed(0))
    torch.testing.assert_close(torch.cov(drawn.T), torch.eye(2), atol=0.05, rtol=0)


def test_gaussian_rbm_follows_the_exact_gradient_when_its_chains_are_long() -> None:
    rbm, h = small_gaussian_rbm(), states(3)
    config = GaussianRBM(units=3, cd_steps=30, momentum=0.0, weight_decay=0.1)
    v = torch.randn(2, generator=torch.Generator().manual_seed(1)).repeat(40_000, 1)
    log_p = h @ rbm.bias + h @ rbm.weight @ rbm.visible_bias + 0.5 * ((h @ rbm.weight) ** 2).sum(-1)
    p = torch.softmax(log_p, 0)
    exact = config.encode(rbm, v).T @ v / len(v) - (h * p[:, None]).T @ config.decode(rbm, h) - 0.1 * rbm.weight
    torch.testing.assert_close(step_of(config, rbm, v)["weight"], exact, atol=0.03, rtol=0)


def test_gaussian_rbm_takes_real_inputs_and_lowers_their_free_energy_below_others() -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(500, 6)) + 2 * rng.choice([-1.0, 1.0], (500, 1))).astype(np.float32)
    config = GaussianRBM(units=20, epochs=30, learning_rate=0.01)
    rbm: Any
    rbm, history = config.fit(x, device="cpu")
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]
    other = torch.from_numpy(rng.permuted(x, axis=1) * rng.choice([-1.0, 1.0], x.shape).astype(np.float32))

    def free_energy(v: Tensor) -> Tensor:
        return 0.5 * ((v - rbm.visible_bias) ** 2).sum(-1) - softplus(v @ rbm.weight.T + rbm.bias).sum(-1)

    assert free_energy(torch.from_numpy(x)).mean() < free_energy(other).mean()
