from __future__ import annotations

from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import cross_entropy

from ksae_lib.engines.gpu import choose_largest
from ksae_lib.loop import DivergenceError
from ksae_lib.model import KSparseAutoencoder
from replication.judge import finetune as module
from replication.judge.finetune import DiscriminativeNet, FinetuneConfig, finetune, new_net, stages
from replication.methods import METHODS
from replication.methods.base import few_threads
from replication.methods.layer import Layer, Unit

CLASSES = 4
AUTOENCODER = METHODS["autoencoder"]
CONFIG = FinetuneConfig(epochs=6, batch_size=17, learning_rate=0.2, learning_rate_end=0.05, momentum=0.5)
CONFIGS = tuple(replace(CONFIG, seed=seed) for seed in range(3))


def examples(n: int = 60, inputs: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Sparse examples of classes that differ in their mean."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, CLASSES, n)
    means = np.random.default_rng(1).random((CLASSES, inputs))
    x = (means[y] + 0.3 * rng.random((n, inputs))) * (rng.random((n, inputs)) < 0.6)
    return x.astype(np.float32), y


def sparse_net(layers: int = 1, unit: str = "linear", dtype: torch.dtype = torch.float64) -> DiscriminativeNet:
    """A k-sparse net with random weights everywhere."""
    noise = torch.Generator().manual_seed(3)
    sizes = [20, 30, 25][: layers + 1]
    made = [
        Layer(torch.randn(sizes[i + 1], sizes[i], generator=noise) / 3, torch.randn(sizes[i + 1], generator=noise) / 9,
              unit, 7 + i)  # type: ignore[arg-type]
        for i in range(layers)
    ]  # fmt: skip
    net = DiscriminativeNet(made, CLASSES)
    for parameter in net.softmax.parameters():
        parameter.data.normal_(0, 0.3, generator=noise)
    return net.to(dtype)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nets are stacked on a processor too."""
    monkeypatch.setattr(module, "_AT_ONCE_ON", ("cpu",))


def tuned(net: DiscriminativeNet, config: FinetuneConfig, *data: Any) -> pd.DataFrame:
    """The history of one net, fine-tuned on a processor."""
    held_out = data[2:] or [examples(30, seed=1)]
    (outcome,) = finetune([net], *(data[:2] or examples()), [config], *held_out, device="cpu")
    if isinstance(outcome, DivergenceError):
        raise outcome
    return outcome


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_fixed_layers_stay_as_they_are(stage: int, monkeypatch: pytest.MonkeyPatch) -> None:
    net, start = sparse_net(2, dtype=torch.float32), sparse_net(2, dtype=torch.float32).state_dict()
    monkeypatch.setattr(module, "stages", lambda *_: [(2 - stage, 2)])
    tuned(net, FinetuneConfig(epochs=2, learning_rate=0.1))
    for name, value in net.state_dict().items():
        is_fixed = name.startswith("layers") and int(name.split(".")[1]) < 2 - stage
        assert torch.equal(value, start[name]) == is_fixed


def test_autograd_of_a_k_sparse_net_agrees_with_finite_differences() -> None:
    x, y = (torch.from_numpy(a) for a in examples(6))
    net = sparse_net(2)

    def loss() -> torch.Tensor:
        return cross_entropy(net(x.double()), y)

    loss().backward()
    rng = np.random.default_rng(0)
    for parameter in net.parameters():
        flat = parameter.data.view(-1)
        assert parameter.grad is not None
        for place in rng.choice(len(flat), min(5, len(flat)), replace=False):
            step, value = 1e-6, float(flat[place])
            values = []
            for sign in (1, -1):
                flat[place] = value + sign * step
                values.append(float(loss().detach()))
            flat[place] = value
            assert (values[0] - values[1]) / (2 * step) == pytest.approx(
                float(parameter.grad.view(-1)[place]), abs=1e-8
            )


def test_a_net_starts_as_its_encoder_codes() -> None:
    x, _ = examples()
    config = FinetuneConfig(alpha=2)
    block = torch.from_numpy(x)
    for method in (
        METHODS["k_sparse"](units=30, k=5, k_start=None, epochs=1),
        AUTOENCODER(units=30, epochs=1, hidden_dropout=0.5),
        METHODS["rbm"](units=30, epochs=1),
        METHODS["kl_sparse"](units=30, epochs=1),
        METHODS["dbn"](units=30, epochs=1),
    ):
        encoder, _ = method.fit(x.clip(0, 1), device="cpu")
        net = new_net(method.hidden_layers(encoder, config.alpha), 20, CLASSES, config)
        hidden = block
        for layer in net.layers:
            hidden = layer(hidden)
        (codes,) = method.codes(encoder, x, method.code_mode(), (config.alpha,))
        dense = codes if isinstance(codes, np.ndarray) else codes.toarray()
        torch.testing.assert_close(hidden.detach(), torch.from_numpy(dense))
        assert torch.equal(net(block), torch.zeros(len(x), CLASSES))


def test_dropout_nets_keep_the_regularizer_of_their_pre_training() -> None:
    method = AUTOENCODER(units=500, epochs=1, hidden_dropout=0.5, input_dropout=0.2)
    encoder, _ = method.fit(examples()[0], device="cpu")
    (layer,) = new_net(method.hidden_layers(encoder), 20, CLASSES, FinetuneConfig()).layers
    ones = torch.ones(200, 20)
    layer.weight.data.fill_(1.0)
    layer.bias.data.zero_()
    h = layer(ones, torch.Generator().manual_seed(0))
    assert float((h == 0).float().mean()) == pytest.approx(0.5, abs=0.01)
    assert float(h.detach().mean()) == pytest.approx(20, rel=0.03)
    assert torch.equal(layer(ones), torch.full((200, 500), 20.0))


@pytest.mark.parametrize("net", ["sparse", "random"])
def test_fine_tuning_learns_the_classes(net: str) -> None:
    x, y = examples(400)
    config = FinetuneConfig(epochs=30, learning_rate=0.3, units=30, alpha=2, weight_std=0.1)
    layers = []
    if net == "sparse":
        encoder = KSparseAutoencoder(20, 30, 5)
        encoder.initialize(0.3, torch.Generator().manual_seed(0))
        layers = [Layer(encoder.weight, encoder.bias, "linear", encoder.alpha_k(config.alpha))]
    history = tuned(new_net(layers, 20, CLASSES, config), config, x, y, examples(200, seed=9))
    assert history["loss"].iloc[0] > 2 * history["loss"].iloc[-1]
    assert history["validation_error"].iloc[-1] < 25  # by chance: 75


def test_deep_nets_are_fine_tuned_in_the_three_stages_of_section_4_6() -> None:
    assert list(stages(2, FinetuneConfig(epochs=20))) == [(2, 6), (1, 6), (0, 8)]
    assert list(stages(2, FinetuneConfig(epochs=20, layerwise=False))) == [(0, 20)]
    assert list(stages(1, FinetuneConfig(epochs=20))) == [(0, 20)]
    history = tuned(sparse_net(2, dtype=torch.float32), FinetuneConfig(epochs=7, learning_rate=0.1))
    assert history["fixed_layers"].tolist() == [2, 2, 1, 1, 0, 0, 0]
    assert history["learning_rate"].tolist() == pytest.approx([0.1, 0.001, 0.1, 0.001, 0.1, 0.0505, 0.001])


def test_a_seed_decides_the_run() -> None:
    def losses(seed: int) -> list[float]:
        config = FinetuneConfig(epochs=2, learning_rate=0.1, seed=seed)
        return tuned(net(0, "relu", None, 0.5), config)["loss"].tolist()

    assert losses(0) == losses(0) != losses(1)


def test_the_defaults_are_those_of_section_4_2() -> None:
    config = FinetuneConfig()
    assert (config.epochs, config.momentum) == (200, 0.25)
    assert (config.learning_rate, config.learning_rate_end) == (1.0, 0.001)


def test_a_unit_that_became_nan_is_divergence_although_it_is_never_kept() -> None:
    net = sparse_net(1, dtype=torch.float32)
    net.layers[0].weight.data[3] = torch.nan
    with pytest.raises(DivergenceError, match="a weight stopped being finite"):
        tuned(net, FinetuneConfig(epochs=1, learning_rate=0.1))


def test_divergence_is_told_with_its_remedy() -> None:
    config = FinetuneConfig(epochs=20, learning_rate=1e20)
    with np.errstate(all="ignore"), pytest.raises(DivergenceError, match="Lower the learning rate"):
        tuned(sparse_net(1, dtype=torch.float32), config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs = 0"),
        ({"learning_rate": 0}, "learning_rate = 0"),
        ({"momentum": 1}, "momentum = 1"),
        ({"alpha": 0.5}, "alpha = 0.5"),
        ({"seed": -1}, "seed = -1"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(FinetuneConfig(), **change)  # type: ignore[arg-type]


def test_what_cannot_be_fine_tuned_is_refused() -> None:
    x, y = examples()
    config = FinetuneConfig()
    with pytest.raises(ValueError, match="one for each of 60 examples"):
        tuned(sparse_net(), config, x, y[:-1])
    for wrong in (y - 1, y + 1, y.astype(float)):
        with pytest.raises(ValueError, match="whole numbers from 0 to 3"):
            tuned(sparse_net(), config, x, wrong)
    broken = x.copy()
    broken[0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        tuned(sparse_net(), config, broken, y)


def test_nets_at_once_may_differ_in_seed_start_and_kept_units_alone(at_once: None) -> None:
    (x, y), held = examples(), examples(30, seed=1)

    def together(config: FinetuneConfig, second: DiscriminativeNet) -> list[Any]:
        return finetune([net(0, "linear", (7, 9)), second], x, y, [CONFIG, config], held, device="cpu")

    assert len(together(replace(CONFIG, seed=1), net(1, "linear", (8, 9)))) == 2
    other = {"epochs": 7, "batch_size": 9, "alpha": 2.0, "layerwise": False}
    rates = {name: asdict(CONFIG)[name] / 2 for name in ("learning_rate", "learning_rate_end", "momentum")}
    for name, value in (other | rates).items():
        with pytest.raises(ValueError, match="of 2 kinds"):
            together(replace(CONFIG, **{name: value}), net(1, "linear", (7, 9)))
    for second in (net(1, "relu", (7, 9)), net(1, "linear", None), net(1, "linear", (7, 9), 0.3)):
        with pytest.raises(ValueError, match="of 2 kinds"):
            together(CONFIG, second)


def net(seed: int, unit: Unit, kept: tuple[int, ...] | None, dropout: float = 0.0) -> DiscriminativeNet:
    """A deep net with random weights."""
    noise = torch.Generator().manual_seed(seed)
    layers = [
        Layer(torch.randn(after, before, generator=noise) / 3, torch.randn(after, generator=noise) / 9, unit,
              None if kept is None else kept[number], (dropout, dropout))
        for number, (before, after) in enumerate(pairwise((20, 30, 25)))
    ]  # fmt: skip
    return DiscriminativeNet(layers, CLASSES)


@pytest.mark.parametrize("layerwise", [True, False])
@pytest.mark.parametrize(("unit", "kept"), [("linear", (7, 9)), ("relu", None), ("sigmoid", None)])
def test_nets_at_once_are_the_nets_one_by_one(
    unit: Unit, kept: tuple[int, ...] | None, layerwise: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (x, y), held = examples(), examples(30, seed=1)
    configs = [replace(config, layerwise=layerwise) for config in CONFIGS]

    def nets() -> list[DiscriminativeNet]:
        return [net(seed, unit, kept and (kept[0] + seed, kept[1])) for seed in range(3)]

    together, alone = nets(), nets()
    wanted_outcomes = finetune(alone, x, y, configs, held, device="cpu")
    monkeypatch.setattr(module, "_AT_ONCE_ON", ("cpu",))
    outcomes = finetune(together, x, y, configs, held, device="cpu")
    for outcome, wanted, one, other in zip(outcomes, wanted_outcomes, together, alone, strict=True):
        assert isinstance(outcome, pd.DataFrame) and isinstance(wanted, pd.DataFrame)
        assert outcome.columns.tolist() == wanted.columns.tolist()
        for column in ("epoch", "fixed_layers", "learning_rate", "momentum", "validation_error"):
            assert outcome[column].tolist() == pytest.approx(wanted[column].tolist()), column
        assert outcome["loss"].to_numpy() == pytest.approx(wanted["loss"].to_numpy(), rel=1e-4)
        for (name, value), theirs in zip(one.named_parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(value, theirs, rtol=1e-3, atol=1e-4, msg=name)


def test_the_selection_of_nets_at_once_gets_rows_in_one_piece_as_its_gpu_kernel_needs(
    at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (x, y), held = examples(), examples(30, seed=1)
    seen = []

    def choose(device: torch.device, dtype: torch.dtype) -> Any:
        select = choose_largest(device, dtype)
        return lambda z, k: seen.append((z.ndim, z.is_contiguous())) or select(z, k)

    monkeypatch.setattr(module, "choose_largest", choose)
    finetune([net(s, "linear", (7, 9)) for s in range(3)], x, y, CONFIGS, held, device="cpu")
    assert set(seen) == {(3, True)}


@pytest.mark.parametrize("devices", [(), ("cpu",)])
def test_a_net_that_diverges_leaves_the_others_alone(devices: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AT_ONCE_ON", devices)
    (x, y), held = examples(), examples(30, seed=1)
    wild = net(1, "linear", (7, 9))
    wild.layers[0].weight.data.mul_(1e30)
    calm, alone = net(0, "linear", (7, 9)), net(0, "linear", (7, 9))
    history, error = finetune([calm, wild], x, y, CONFIGS[:2], held, device="cpu")
    assert isinstance(error, DivergenceError)
    assert isinstance(history, pd.DataFrame)
    assert history["loss"].to_numpy() == pytest.approx(tuned(alone, CONFIG, x, y, held)["loss"].to_numpy(), rel=1e-4)


def test_small_work_keeps_to_one_thread_and_gives_the_others_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with few_threads(10_000):
        assert torch.get_num_threads() == 2
    with few_threads(100):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_a_frozen_net_trains_its_softmax_alone() -> None:
    one, start = sparse_net(2, dtype=torch.float32), sparse_net(2, dtype=torch.float32).state_dict()
    history = tuned(one, replace(CONFIG, frozen=True))
    assert len(history) == CONFIG.epochs and set(history["fixed_layers"]) == {2}
    for name, value in one.state_dict().items():
        assert torch.equal(value, start[name]) == name.startswith("layers")


def test_no_unit_has_weights_above_the_largest_norm_and_smaller_ones_stay() -> None:
    free, held_in = sparse_net(2, dtype=torch.float32), sparse_net(2, dtype=torch.float32)
    tuned(free, replace(CONFIG, layerwise=False))
    norms = torch.cat([layer.weight.detach().norm(dim=1) for layer in free.layers])
    limit = float(norms.median())
    tuned(held_in, replace(CONFIG, layerwise=False, max_norm=limit))
    for layer in held_in.layers:
        assert float(layer.weight.detach().norm(dim=1).max()) <= limit * 1.0001
    roomy = sparse_net(2, dtype=torch.float32)
    tuned(roomy, replace(CONFIG, layerwise=False, max_norm=100.0))
    assert torch.equal(roomy.layers[0].weight, free.layers[0].weight)


def test_errors_on_a_tested_part_are_recorded_and_change_nothing() -> None:
    (x, y), held, test = examples(), examples(30, seed=1), examples(40, seed=2)
    one, other = sparse_net(dtype=torch.float32), sparse_net(dtype=torch.float32)
    plain = tuned(one, CONFIG, x, y, held)
    (watched,) = finetune([other], x, y, [CONFIG], held, tested=test, device="cpu")
    assert isinstance(watched, pd.DataFrame)
    assert watched["validation_error"].tolist() == plain["validation_error"].tolist()
    assert watched["test_error"].iloc[-1] == pytest.approx(100 * len(other.mistakes(*test)) / 40)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
