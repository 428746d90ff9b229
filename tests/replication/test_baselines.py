from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ksae_lib import DivergenceError, KSparseAutoencoder
from replication.methods import (
    METHODS,
    AutoencoderConfig,
    Baseline,
    BaselineConfig,
    DBNConfig,
    GaussianRBMConfig,
    KLSparseConfig,
    PCAConfig,
    RandomKConfig,
    RBMConfig,
)
from replication.methods.base import SGDConfig, encode_all
from replication.methods.kl_sparse import kl_penalty
from replication.methods.layer import drop
from replication.methods.rbm import RBM, GaussianRBM, _Trainer


def bars(examples: int = 200, seed: int = 0) -> np.ndarray:
    """Pictures of 4 × 4 pixels, each with some whole rows lit."""
    lit = np.random.default_rng(seed).random((examples, 4)) < 0.4
    return np.repeat(lit, 4, axis=1).astype(np.float32)


SMALL: dict[str, BaselineConfig] = {
    "relu": AutoencoderConfig(units=8, epochs=3),
    "dropout and denoising": AutoencoderConfig(units=8, epochs=3, hidden_dropout=0.5, input_dropout=0.2),
    "cross-entropy": AutoencoderConfig(units=8, epochs=3, visible="sigmoid"),
    "kl_sparse": KLSparseConfig(units=8, epochs=3),
    "rbm": RBMConfig(units=8, epochs=3),
    "gaussian_rbm": GaussianRBMConfig(units=8, epochs=3),
    "pcd": RBMConfig(units=8, epochs=3, persistent=True, cd_steps=2),
    "dbn": DBNConfig(units=8, epochs=3),
    "random_k": RandomKConfig(units=8, k=2),
    "pca": PCAConfig(units=4),
}


@pytest.mark.parametrize("config", SMALL.values(), ids=SMALL)
def test_a_seed_decides_everything_and_weights_load_into_a_new_module(config: BaselineConfig) -> None:
    x = bars()
    first, history = config.fit(x, held_out=bars(50, 1), progress=False)
    again, same = config.fit(x, held_out=bars(50, 1), progress=False)
    assert history.drop(columns="seconds", errors="ignore").equals(same.drop(columns="seconds", errors="ignore"))
    loaded = config.build(16)
    loaded.load_state_dict(first.state_dict())
    codes = [m.encode(torch.from_numpy(x)).detach() for m in (first, again, loaded)]
    assert codes[0].shape == (200, config.units)
    assert torch.equal(codes[0], codes[1]) and torch.equal(codes[0], codes[2])
    if not isinstance(config, PCAConfig):
        other, _ = replace(config, seed=1).fit(x, progress=False)
        assert not torch.equal(other.encode(torch.from_numpy(x)), codes[0])


@pytest.mark.parametrize("config", SMALL.values(), ids=SMALL)
@pytest.mark.parametrize("x", [np.full((4, 16), np.nan, np.float32), np.zeros((0, 16), np.float32), np.zeros(16)])
def test_examples_that_cannot_be_trained_on_are_refused(config: BaselineConfig, x: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"Examples (hold NaN|have shape)"):
        config.fit(x)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (AutoencoderConfig, {"units": 0}, "units = 0"),
        (AutoencoderConfig, {"hidden_dropout": 1.0}, "hidden_dropout = 1.0"),
        (AutoencoderConfig, {"input_dropout": -0.1}, "input_dropout = -0.1"),
        (AutoencoderConfig, {"visible": "round"}, "visible = 'round'"),
        (AutoencoderConfig, {"learning_rate": 0}, "learning_rate = 0"),
        (AutoencoderConfig, {"momentum": 1}, "momentum = 1"),
        (KLSparseConfig, {"rho": 0}, "rho = 0"),
        (KLSparseConfig, {"beta": -1}, "beta = -1"),
        (RBMConfig, {"cd_steps": 0}, "cd_steps = 0"),
        (RBMConfig, {"weight_decay": -1}, "weight_decay = -1"),
        (RBMConfig, {"seed": -1}, "seed = -1"),
        (DBNConfig, {"layers": 0}, "layers = 0"),
        (RandomKConfig, {"k": 2000}, "k = 2000"),
    ],
)
def test_impossible_values_are_refused(kind: type[BaselineConfig], values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**values)


def test_every_method_is_registered_under_its_own_name() -> None:
    assert {name: kind().method for name, kind in METHODS.items()} == {name: name for name in METHODS}


def test_divergence_says_where() -> None:
    with pytest.raises(DivergenceError, match="autoencoder diverged: .* learning rate 1000"):
        AutoencoderConfig(units=8, epochs=5, learning_rate=1000.0, weight_std=1.0).fit(bars())


# Autoencoders


def test_the_squared_error_is_that_of_the_k_sparse_autoencoder_with_all_units_kept() -> None:
    model = AutoencoderConfig(units=8, weight_std=0.3).build(16)
    twin = KSparseAutoencoder(16, 8, 8, "relu")
    twin.load_state_dict({**model.state_dict(), "threshold": torch.tensor(0.0)})
    x = torch.from_numpy(bars())
    ours, theirs = model.loss(x, torch.Generator()), twin.loss(x)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    gradients = (
        torch.autograd.grad(ours, list(model.parameters())),
        torch.autograd.grad(theirs, list(twin.parameters())),
    )
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_a_step_is_the_printed_momentum_update() -> None:
    config = AutoencoderConfig(units=3, epochs=2, batch_size=50, weight_std=0.3, momentum=0.6)
    x = bars(50)
    trained, _ = config.fit(x)
    model = config.build(16)
    velocity = [torch.zeros_like(p) for p in model.parameters()]
    for _ in range(2):
        gradient = torch.autograd.grad(model.loss(torch.from_numpy(x), torch.Generator()), list(model.parameters()))
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
    def hide_all_inputs(x: Tensor, rate: float, noise: torch.Generator) -> Tensor:
        return x * (rate == 0)

    monkeypatch.setattr("replication.methods.autoencoder.drop", hide_all_inputs)
    model = AutoencoderConfig(units=8, weight_std=0.3, input_dropout=0.2).build(16)
    nn.init.constant_(model.bias, 0.5)
    x = torch.from_numpy(bars())
    blind = torch.full((16,), 0.0) + 0.5 * model.weight.sum(0)
    assert model.loss(x, torch.Generator()).item() == pytest.approx(((x - blind) ** 2).sum(-1).mean().item(), rel=1e-5)


def test_codes_are_of_the_clean_input_with_all_units() -> None:
    model = AutoencoderConfig(units=8, weight_std=0.3, hidden_dropout=0.5, input_dropout=0.5).build(16)
    x = torch.from_numpy(bars())
    assert torch.equal(model.encode(x), torch.relu(x @ model.weight.T))


def test_cross_entropy_by_hand() -> None:
    model = AutoencoderConfig(units=2, visible="sigmoid").build(3)
    nn.init.zeros_(model.weight)
    model.visible_bias.data = torch.tensor([0.0, 1.0, -2.0])
    x = torch.tensor([[1.0, 0.5, 0.0]])
    p = 1 / (1 + np.exp([-0.0, -1.0, 2.0]))
    expected = -(np.log(p[0]) + 0.5 * np.log(p[1]) + 0.5 * np.log(1 - p[1]) + np.log(1 - p[2]))
    assert model.loss(x, torch.Generator()).item() == pytest.approx(expected, rel=1e-6)


# KL-sparse


def test_kl_penalty_by_hand() -> None:
    assert kl_penalty(torch.tensor([0.2]), 0.2).item() == pytest.approx(0, abs=1e-7)
    by_hand = 0.05 * np.log(0.05 / 0.5) + 0.95 * np.log(0.95 / 0.5)
    assert kl_penalty(torch.tensor([0.5]), 0.05).item() == pytest.approx(by_hand, rel=1e-5)
    assert torch.isfinite(kl_penalty(torch.tensor([0.0, 1.0]), 0.05)).all()


def test_the_cost_by_hand_and_its_gradient_by_finite_differences() -> None:
    config = KLSparseConfig(units=4, beta=2.0, weight_decay=0.1, weight_std=0.5)
    model = config.build(16).double()
    x = torch.from_numpy(bars(10)).double()
    w, v = (p.detach().numpy() for p in (model.weight, model.decoder))
    h = 1 / (1 + np.exp(-x.numpy() @ w.T))
    out = 1 / (1 + np.exp(-h @ v))
    mean = h.mean(0)
    cost = 0.5 * ((x.numpy() - out) ** 2).sum() / 10 + 0.05 * ((w**2).sum() + (v**2).sum())
    cost += 2 * (0.05 * np.log(0.05 / mean) + 0.95 * np.log(0.95 / (1 - mean))).sum()
    assert model.loss(x).item() == pytest.approx(cost, rel=1e-10)
    gradient = torch.autograd.grad(model.loss(x), model.weight)[0]
    for unit, pixel in ((0, 0), (3, 7)):
        changed = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                model.weight[unit, pixel] += step
                changed.append(model.loss(x).item())
                model.weight[unit, pixel] -= step
        assert gradient[unit, pixel].item() == pytest.approx((changed[0] - changed[1]) / 2e-6, rel=1e-5)


def test_the_penalty_pulls_mean_activations_to_rho() -> None:
    config = KLSparseConfig(units=8, epochs=60, beta=3.0, rho=0.2, learning_rate=0.05)
    model, _ = config.fit(bars(500))
    mean = encode_all(model, bars(500)).mean(0)
    assert np.abs(mean - 0.2).max() < 0.05


# Restricted Boltzmann machines


def states(n: int) -> Tensor:
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=n)))


def small_rbm() -> RBM:
    rbm = RBMConfig(units=3, weight_std=0.8).build(4)
    rbm.bias.copy_(torch.tensor([0.3, -0.2, 0.1]))
    rbm.visible_bias.copy_(torch.tensor([-0.1, 0.4, 0.0, 0.2]))
    return rbm


def energies(rbm: RBM) -> Tensor:
    v, h = states(4), states(3)
    return -(v @ rbm.weight.T @ h.T) - (v @ rbm.visible_bias)[:, None] - (h @ rbm.bias)[None]


def test_free_energy_and_conditionals_agree_with_enumeration() -> None:
    rbm = small_rbm()
    joint = torch.exp(-energies(rbm))
    torch.testing.assert_close(rbm.free_energy(states(4)), -torch.log(joint.sum(1)))
    torch.testing.assert_close(rbm.encode(states(4)), joint @ states(3) / joint.sum(1, keepdim=True))
    torch.testing.assert_close(rbm.decode(states(3)), joint.T @ states(4) / joint.sum(0)[:, None])


@pytest.mark.parametrize("persistent", [False, True])
def test_long_chains_give_the_gradient_of_the_likelihood(persistent: bool) -> None:
    rbm = small_rbm()
    config = RBMConfig(units=3, cd_steps=30, persistent=persistent, momentum=0.0)
    v = states(4)[[1, 5, 6, 15]].repeat(5000, 1)
    joint = torch.exp(-energies(rbm))
    model_mean = torch.einsum("vh,vi,hj->ji", joint / joint.sum(), states(4), states(3))
    exact = rbm.encode(v).T @ v / len(v) - model_mean
    before = rbm.weight.clone()
    _Trainer(rbm, config).step(v, 1.0)
    torch.testing.assert_close(rbm.weight - before, exact, atol=0.015, rtol=0)


@pytest.mark.parametrize("changes", [{}, {"cd_steps": 3}, {"persistent": True}])
def test_training_raises_the_likelihood(changes: dict[str, Any]) -> None:
    config = RBMConfig(
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
    unseen = states(4)[[1, 2, 5, 6]]
    rbm, history = config.fit(x, held_out=unseen.numpy())
    partition = torch.logsumexp(-rbm.free_energy(states(4)), 0)
    log_likelihood = -rbm.free_energy(torch.from_numpy(x)).mean() - partition
    assert log_likelihood > np.log(1 / 16) + 0.5, "better than a coin for each pixel"
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]
    gap = rbm.free_energy(unseen).mean() - rbm.free_energy(torch.from_numpy(x[:4])).mean()
    assert history["free_energy_gap"].iloc[-1] == pytest.approx(float(gap))
    assert gap > 0.5, "what it never saw is less probable"


def test_persistent_chains_go_on_from_update_to_update() -> None:
    rbm = small_rbm()
    trainer = _Trainer(rbm, RBMConfig(units=3, persistent=True))
    trainer.step(states(4), 0.01)
    chains = trainer.chains
    assert chains is not None and chains.shape == (16, 3)
    trainer.step(states(4)[:5], 0.01)
    assert trainer.chains is not None and trainer.chains.shape == (16, 3) and trainer.chains is not chains


def test_inputs_that_are_no_probabilities_are_refused() -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        RBMConfig(units=3).fit(bars() * 2)


def test_a_deep_network_is_its_machines_trained_one_on_the_other() -> None:
    config = DBNConfig(units=6, epochs=2, seed=4)
    x = bars()
    dbn, history = config.fit(x)
    lower, _ = config.layer(0).fit(x)
    upper, _ = config.layer(1).fit(encode_all(lower, x))
    torch.testing.assert_close(dbn.encode(torch.from_numpy(x)), upper.encode(lower.encode(torch.from_numpy(x))))
    assert history["layer"].tolist() == [0, 0, 1, 1]
    assert config.layer(0).seed != config.layer(1).seed


# Sanity rows


def test_principal_components_keep_distances_and_order() -> None:
    x = np.random.default_rng(0).normal(size=(100, 6)).astype(np.float32) * [3, 1, 1, 1, 1, 0.1]
    pca, history = PCAConfig(units=6).fit(x.astype(np.float32))
    codes = encode_all(pca, x)
    assert np.allclose(
        np.linalg.norm(codes[:50] - codes[50:], axis=1), np.linalg.norm(x[:50] - x[50:], axis=1), atol=1e-3
    )
    assert (np.diff(history["explained_variance"]) <= 0).all()
    with pytest.raises(ValueError, match="units = 7 is more than the 6 components"):
        PCAConfig(units=7).fit(x)


def test_random_codes_come_from_a_centered_k_sparse_autoencoder_nobody_trained() -> None:
    model, history = RandomKConfig(units=8, k=2, weight_std=0.5).fit(bars())
    assert isinstance(model, KSparseAutoencoder) and history.empty
    assert not isinstance(model, Baseline)
    assert model.pre_activation(torch.from_numpy(bars().mean(0, keepdims=True))).abs().max() < 1e-5


def test_sgd_settings_are_shared() -> None:
    assert all(
        issubclass(METHODS[name], SGDConfig) for name in ("autoencoder", "dbn", "gaussian_rbm", "kl_sparse", "rbm")
    )


def small_gaussian_rbm() -> GaussianRBM:
    rbm = GaussianRBMConfig(units=3, weight_std=0.5).build(2)
    rbm.bias.copy_(torch.tensor([0.3, -0.2, 0.1]))
    rbm.visible_bias.copy_(torch.tensor([0.5, -1.0]))
    return rbm


def test_gaussian_rbm_has_the_conditionals_of_its_energy() -> None:
    rbm, v, h = small_gaussian_rbm(), torch.randn(5, 2, generator=torch.Generator().manual_seed(0)), states(3)
    square = 0.5 * ((v - rbm.visible_bias) ** 2).sum(-1)
    joint = torch.exp(-(square[:, None] - v @ rbm.weight.T @ h.T - (h @ rbm.bias)[None]))
    torch.testing.assert_close(rbm.free_energy(v), -torch.log(joint.sum(1)))
    torch.testing.assert_close(rbm.encode(v), joint @ h / joint.sum(1, keepdim=True))
    # exp(-E) is, in v, a normal density around the mean: the slope of log p(v | h) is mean - v.
    torch.testing.assert_close(rbm.decode(h), rbm.visible_bias + h @ rbm.weight)
    drawn = rbm.sample_visible(torch.zeros(20_000, 2), torch.Generator().manual_seed(0))
    torch.testing.assert_close(torch.cov(drawn.T), torch.eye(2), atol=0.05, rtol=0)


def test_gaussian_rbm_follows_the_exact_gradient_when_its_chains_are_long() -> None:
    rbm, h = small_gaussian_rbm(), states(3)
    config = GaussianRBMConfig(units=3, cd_steps=30, momentum=0.0, weight_decay=0.1)
    v = torch.randn(2, generator=torch.Generator().manual_seed(1)).repeat(40_000, 1)
    log_p = h @ rbm.bias + h @ rbm.weight @ rbm.visible_bias + 0.5 * ((h @ rbm.weight) ** 2).sum(-1)
    p = torch.softmax(log_p, 0)
    exact = rbm.encode(v).T @ v / len(v) - (h * p[:, None]).T @ rbm.decode(h) - 0.1 * rbm.weight
    before = rbm.weight.clone()
    _Trainer(rbm, config).step(v, 1.0)
    torch.testing.assert_close(rbm.weight - before, exact, atol=0.03, rtol=0)


def test_gaussian_rbm_takes_real_inputs_and_lowers_their_free_energy_below_others() -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(500, 6)) + 2 * rng.choice([-1.0, 1.0], (500, 1))).astype(np.float32)
    rbm, history = GaussianRBMConfig(units=20, epochs=30, learning_rate=0.01).fit(x, held_out=x[:50])
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]
    other = torch.from_numpy(rng.permuted(x, axis=1) * rng.choice([-1.0, 1.0], x.shape).astype(np.float32))
    assert rbm.free_energy(torch.from_numpy(x)).mean() < rbm.free_energy(other).mean()
