from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from ksae_lib import KSparseAutoencoder
from ksae_lib.training import DivergenceError
from replication.judge.finetune import (
    AutogradNetEngine,
    DiscriminativeNet,
    FinetuneConfig,
    Layer,
    finetune,
    make_engine,
    new_net,
    stages,
)
from replication.judge.sparse_net import SparseNetEngine
from replication.methods import AutoencoderConfig, DBNConfig, KLSparseConfig, PCAConfig, RBMConfig

CLASSES = 4


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


@pytest.mark.parametrize("fixed", [0, 1, 2])
@pytest.mark.parametrize("unit", ["linear", "relu"])
@pytest.mark.parametrize("layers", [1, 2])
def test_sparse_kernels_train_as_autograd_does(layers: int, unit: str, fixed: int) -> None:
    x, y = examples()
    x = x.astype(np.float64)
    order = np.random.default_rng(5).permutation(len(x))
    nets = [sparse_net(layers, unit) for _ in range(2)]
    fixed = min(fixed, layers)
    engines = [
        AutogradNetEngine(nets[0], x, y, 8, fixed, torch.Generator()),
        SparseNetEngine(nets[1].layers, nets[1].softmax, x, y, 8, fixed),
    ]
    for rate in (0.3, 0.1):
        losses = [engine.run_epoch(order, rate, 0.5) for engine in engines]
        assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    start = sparse_net(layers, unit).state_dict()
    for name, value in nets[0].state_dict().items():
        torch.testing.assert_close(nets[1].state_dict()[name], value, rtol=1e-10, atol=1e-12)
        is_fixed = name.startswith("layers") and int(name.split(".")[1]) < fixed
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
    k_sparse = KSparseAutoencoder(20, 30, 5)
    net = new_net([k_sparse], 20, CLASSES, config)
    torch.testing.assert_close(net.layers[0](block), k_sparse.encode(block, "alpha_k", 2))
    for baseline in (
        AutoencoderConfig(units=30, epochs=1, hidden_dropout=0.5),
        RBMConfig(units=30, epochs=1),
        KLSparseConfig(units=30, epochs=1),
        DBNConfig(units=30, epochs=1),
    ):
        encoder, _ = baseline.fit(x.clip(0, 1))
        net = new_net([encoder], 20, CLASSES, config)
        hidden = block
        for layer in net.layers:
            hidden = layer(hidden)
        torch.testing.assert_close(hidden, encoder.encode(block))
        assert torch.equal(net(block), torch.zeros(len(x), CLASSES))


def test_dropout_nets_keep_the_regularizer_of_their_pre_training() -> None:
    encoder, _ = AutoencoderConfig(units=500, epochs=1, hidden_dropout=0.5, input_dropout=0.2).fit(examples()[0])
    (layer,) = new_net([encoder], 20, CLASSES, FinetuneConfig()).layers
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
    encoders = [KSparseAutoencoder(20, 30, 5)] if net == "sparse" else []
    if encoders:
        encoders[0].initialize(0.3, torch.Generator().manual_seed(0))
    made = new_net(encoders, 20, CLASSES, config)
    history = finetune(made, x, y, config, held_out=examples(200, seed=9))
    assert history["loss"].iloc[0] > 2 * history["loss"].iloc[-1]
    assert history["validation_error"].iloc[-1] < 25  # by chance: 75


def test_deep_nets_are_fine_tuned_in_the_three_stages_of_section_4_6() -> None:
    assert list(stages(2, FinetuneConfig(epochs=20))) == [(2, 6), (1, 6), (0, 8)]
    assert list(stages(2, FinetuneConfig(epochs=20, layerwise=False))) == [(0, 20)]
    assert list(stages(1, FinetuneConfig(epochs=20))) == [(0, 20)]
    x, y = examples()
    config = FinetuneConfig(epochs=7, learning_rate=0.1)
    history = finetune(sparse_net(2, dtype=torch.float32), x, y, config)
    assert history["fixed_layers"].tolist() == [2, 2, 1, 1, 0, 0, 0]
    assert history["learning_rate"].tolist() == pytest.approx([0.1, 0.001, 0.1, 0.001, 0.1, 0.0505, 0.001])


def test_a_seed_decides_the_run() -> None:
    x, y = examples()
    encoder, _ = AutoencoderConfig(units=30, epochs=1, hidden_dropout=0.5).fit(x)

    def losses(seed: int) -> list[float]:
        config = FinetuneConfig(epochs=2, learning_rate=0.1, seed=seed)
        return finetune(new_net([encoder], 20, CLASSES, config), x, y, config)["loss"].tolist()

    assert losses(0) == losses(0) != losses(1)


def test_the_defaults_are_those_of_section_4_2() -> None:
    config = FinetuneConfig()
    assert (config.epochs, config.momentum) == (200, 0.25)
    assert (config.learning_rate, config.learning_rate_end) == (1.0, 0.001)


def test_a_unit_that_became_nan_is_divergence_although_it_is_never_kept() -> None:
    x, y = examples()
    net = sparse_net(1, dtype=torch.float32)
    net.layers[0].weight.data[3] = torch.nan
    with pytest.raises(DivergenceError, match="a weight stopped being finite"):
        finetune(net, x, y, FinetuneConfig(epochs=1, learning_rate=0.1))


def test_divergence_is_told_with_its_remedy() -> None:
    x, y = examples()
    config = FinetuneConfig(epochs=20, learning_rate=1e20)
    with np.errstate(all="ignore"), pytest.raises(DivergenceError, match="Lower the learning rate"):
        finetune(sparse_net(1, dtype=torch.float32), x, y, config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs = 0"),
        ({"learning_rate": 0}, "learning_rate = 0"),
        ({"momentum": 1}, "momentum = 1"),
        ({"alpha": 0.5}, "alpha = 0.5"),
        ({"engine": "gpu"}, "engine = 'gpu'"),
        ({"seed": -1}, "seed = -1"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(FinetuneConfig(), **change)  # type: ignore[arg-type]


def test_what_cannot_be_fine_tuned_is_refused() -> None:
    x, y = examples()
    with pytest.raises(ValueError, match="one class for each"):
        finetune(sparse_net(), x, y[:-1], FinetuneConfig())
    for wrong in (y - 1, y + 1, y.astype(float)):
        with pytest.raises(ValueError, match="whole numbers from 0 to 3"):
            finetune(sparse_net(), x, wrong, FinetuneConfig())
    broken = x.copy()
    broken[0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        finetune(sparse_net(), broken, y, FinetuneConfig())
    pca, _ = PCAConfig(units=5).fit(x)
    with pytest.raises(ValueError, match="PCA has no units"):
        new_net([pca], 20, CLASSES, FinetuneConfig())
    with pytest.raises(ValueError, match="alpha"):
        new_net([KSparseAutoencoder(20, 30, 20)], 20, CLASSES, FinetuneConfig())


@pytest.mark.parametrize(
    ("kept", "zeros", "engine", "chosen"),
    [
        (2, 0.8, "auto", SparseNetEngine),
        (2, 0.2, "auto", AutogradNetEngine),
        (None, 0.8, "auto", AutogradNetEngine),
        (2, 0.8, "reference", AutogradNetEngine),
    ],
)
def test_sparse_kernels_are_chosen_for_k_sparse_nets_on_inputs_that_are_mostly_zero(
    kept: int | None, zeros: float, engine: Literal["auto", "reference"], chosen: type
) -> None:
    rng = np.random.default_rng(0)
    x = (rng.random((50, 8)) * (rng.random((50, 8)) > zeros)).astype(np.float32)
    net = DiscriminativeNet([Layer(torch.ones(5, 8), torch.zeros(5), "linear", kept)], 2)
    config = FinetuneConfig(engine=engine)
    assert type(make_engine(net, x, np.zeros(50, np.int64), config, 0, torch.Generator())) is chosen
