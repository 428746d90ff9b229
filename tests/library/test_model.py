from __future__ import annotations

import numpy as np
import pytest
import torch

from ksae_lib import CodeMode, KSparseAutoencoder, supp_k


def by_hand(k: int = 1, activation: str = "linear", selection: str = "sort") -> KSparseAutoencoder:
    model = KSparseAutoencoder(2, 3, k, activation, selection)  # type: ignore[arg-type]
    with torch.no_grad():
        model.W.copy_(torch.tensor([[1.0, 0.0, 2.0], [0.0, -1.0, 1.0]]))
        model.bias.copy_(torch.tensor([0.5, 0.0, -6.0]))
        model.visible_bias.copy_(torch.tensor([0.25, -0.5]))
    return model


def random_model(inputs: int = 12, units: int = 30, k: int = 4, activation: str = "linear") -> KSparseAutoencoder:
    model = KSparseAutoencoder(inputs, units, k, activation)  # type: ignore[arg-type]
    rng = torch.Generator().manual_seed(0)
    model.initialize(0.5, rng)
    with torch.no_grad():
        model.bias.normal_(0, 0.5, generator=rng)
        model.visible_bias.normal_(0, 0.5, generator=rng)
    return model


def examples(n: int = 50, inputs: int = 12) -> torch.Tensor:
    return torch.randn(n, inputs, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("selection", ["sort", "threshold"])
def test_the_algorithm_box_on_a_hand_computed_example(selection: str) -> None:
    model = by_hand(selection=selection)
    x = torch.tensor([[1.0, 2.0], [2.0, -3.0]])
    # z = Wᵀx + b: (1.5, -2, -2) and (2.5, 3, -5)
    assert model.pre_activation(x).tolist() == [[1.5, -2.0, -2.0], [2.5, 3.0, -5.0]]
    reconstruction, code = model(x)
    assert code.tolist() == [[1.5, 0.0, 0.0], [0.0, 3.0, 0.0]]
    # x̂ = W z + b′
    assert reconstruction.tolist() == [[1.75, -0.5], [0.25, -3.5]]
    # E = ((0.75² + 2.5²) + (1.75² + 0.5²)) / 2: summed over dimensions, averaged over the batch, no factor 1/2
    assert model.loss(x).item() == pytest.approx((0.5625 + 6.25 + 3.0625 + 0.25) / 2)


def test_k_of_a_call_overrides_the_models() -> None:
    model = by_hand()
    _, code = model(torch.tensor([[2.0, -3.0]]), k=2)
    assert code.tolist() == [[2.5, 3.0, 0.0]]
    assert model.k == 1


def test_kept_values_are_the_raw_pre_activations_negative_ones_too() -> None:
    model = random_model(k=30)
    x = examples()
    assert torch.equal(model(x)[1], model.pre_activation(x))
    assert (model.pre_activation(x) < 0).any()


def test_relu_turns_kept_negative_values_into_zeros() -> None:
    model = by_hand(k=2, activation="relu")
    # z = (1.5, -2, -2): the second largest, -2 with the lower index, is kept and then becomes 0
    assert model(torch.tensor([[1.0, 2.0]]))[1].tolist() == [[1.5, 0.0, 0.0]]
    linear, relu = random_model(k=20), random_model(k=20, activation="relu")
    assert torch.equal(relu.code(examples()), linear.code(examples()).clamp(min=0))


def test_tied_weights_are_one_parameter() -> None:
    model = random_model()
    assert sorted(name for name, _ in model.named_parameters()) == ["bias", "visible_bias", "weight"]
    assert model.W.shape == (12, 30) and (model.inputs, model.units) == (12, 30)
    x = examples()
    before = model.pre_activation(x), model.decode(torch.ones(1, 30))
    with torch.no_grad():
        model.W.mul_(2)
    assert not torch.equal(model.pre_activation(x), before[0])
    assert not torch.equal(model.decode(torch.ones(1, 30)), before[1])


@pytest.mark.parametrize("activation", ["linear", "relu"])
def test_the_gradient_of_the_weights_sums_encoder_and_decoder(activation: str) -> None:
    model = random_model(activation=activation).double()
    x = examples().double()
    model.loss(x).backward()
    encoder, decoder = (model.W.detach().clone().requires_grad_() for _ in range(2))
    z = x @ encoder + model.bias.detach()
    code = z * supp_k(z.detach(), model.k)
    code = code.relu() if activation == "relu" else code
    error = ((x - code @ decoder.T - model.visible_bias.detach()) ** 2).sum(1).mean()
    paths = torch.autograd.grad(error, [encoder, decoder])
    assert all(path.abs().max() > 0.1 for path in paths)
    assert model.weight.grad is not None
    torch.testing.assert_close(model.weight.grad.T, paths[0] + paths[1])


def test_units_that_are_not_kept_get_no_gradient() -> None:
    model = by_hand(k=1)
    model.loss(torch.tensor([[1.0, 2.0]])).backward()
    assert model.weight.grad is not None and model.bias.grad is not None
    assert (model.weight.grad[0] != 0).any() and model.bias.grad[0] != 0
    assert not model.weight.grad[1:].any() and not model.bias.grad[1:].any()


@pytest.mark.parametrize("activation", ["linear", "relu"])
def test_each_code_mode_keeps_what_it_says(activation: str) -> None:
    model, x = random_model(activation=activation), examples()
    z = model.pre_activation(x).detach()
    activate = torch.relu if activation == "relu" else torch.clone
    assert torch.equal(model.encode(x, "k"), activate(z * supp_k(z, 4)))
    assert torch.equal(model.encode(x, "alpha_k", alpha=3), activate(z * supp_k(z, 12)))
    assert torch.equal(model.encode(x, CodeMode.DENSE), activate(z))
    assert torch.equal(model.encode(x, CodeMode.DENSE_RELU), z.clamp(min=0))
    threshold = model.calibrate_threshold(x)
    assert torch.equal(model.encode(x, CodeMode.THRESHOLD), activate(torch.where(z > threshold, z, 0.0)))


def test_encode_is_sparse_unless_asked_and_carries_no_gradient() -> None:
    model, x = random_model(), examples()
    code = model.encode(x)
    assert ((code != 0).sum(1) == model.k).all()
    assert not code.requires_grad


@pytest.mark.parametrize(
    ("k", "alpha", "expected"), [(4, 1, 4), (4, 3, 12), (4, 1.2, 5), (4, 1.1, 4), (25, 1.01, 25), (10, 3.0, 30)]
)
def test_alpha_k_is_rounded_to_a_whole_number(k: int, alpha: float, expected: int) -> None:
    model = random_model(k=k)
    assert model.alpha_k(alpha) == expected
    assert ((model.encode(examples(), "alpha_k", alpha) != 0).sum(1) == expected).all()


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_the_calibrated_threshold_keeps_about_alpha_k_on_average(alpha: float) -> None:
    model = random_model(inputs=64, units=200, k=20)
    threshold = model.calibrate_threshold(examples(500, 64), alpha)
    assert threshold == model.threshold.item()
    unseen = torch.randn(500, 64, generator=torch.Generator().manual_seed(2))
    counts = (model.encode(unseen, "threshold") != 0).sum(1).float()
    assert counts.mean().item() == pytest.approx(alpha * 20, rel=0.1)
    assert counts.std() > 0


def test_weights_are_drawn_from_the_given_generator_and_biases_are_zero() -> None:
    model, same, other = (KSparseAutoencoder(100, 200, 5) for _ in range(3))
    for m, seed in ((model, 0), (same, 0), (other, 1)):
        m.initialize(0.01, torch.Generator().manual_seed(seed))
    assert torch.equal(model.weight, same.weight) and not torch.equal(model.weight, other.weight)
    assert model.weight.std().item() == pytest.approx(0.01, rel=0.03)
    assert abs(model.weight.mean().item()) < 3e-4
    assert not model.bias.any() and not model.visible_bias.any()


def test_centered_start_gives_pre_activations_of_mean_zero() -> None:
    model = KSparseAutoencoder(12, 30, 4)
    x = examples().abs()
    model.initialize(0.5, torch.Generator().manual_seed(0), "centered", x.mean(0))
    torch.testing.assert_close(model.visible_bias.detach(), x.mean(0))
    torch.testing.assert_close(model.bias.detach(), -(model.weight.detach() @ x.mean(0)))
    torch.testing.assert_close(model.pre_activation(x).mean(0), torch.zeros(30), atol=1e-5, rtol=0)


def test_a_mean_does_not_center_unless_asked() -> None:
    model = KSparseAutoencoder(12, 30, 4)
    model.initialize(bias_init="zeros", mean=torch.ones(12))
    assert not model.bias.any() and not model.visible_bias.any()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"inputs": 0}, "inputs = 0"),
        ({"units": 0}, "units = 0"),
        ({"k": 0}, "k = 0 is not possible with 5 hidden units"),
        ({"k": 6}, "k = 6 is not possible with 5 hidden units"),
        ({"activation": "sigmoid"}, "'sigmoid' is unknown: choose 'linear' or 'relu'"),
        ({"selection": "kthvalue"}, "'kthvalue' is unknown: choose one of sort, threshold"),
    ],
)
def test_impossible_models_are_refused(arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        KSparseAutoencoder(**({"inputs": 4, "units": 5, "k": 2} | arguments))  # type: ignore[arg-type]


def test_impossible_starts_are_refused() -> None:
    model = random_model()
    with pytest.raises(ValueError, match="'ones' is unknown: choose one of zeros, gaussian, centered"):
        model.initialize(bias_init="ones")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs the mean"):
        model.initialize(bias_init="centered")


@pytest.mark.parametrize(
    ("x", "error", "sentence"),
    [
        (torch.zeros(3, 11), ValueError, r"shape \(3, 11\), but the model takes \[examples, 12\]"),
        (torch.zeros(12), ValueError, r"shape \(12,\)"),
        (torch.zeros(3, 12, dtype=torch.float64), TypeError, "torch.float64, but the model is torch.float32"),
        (torch.zeros(3, 12, dtype=torch.uint8), TypeError, "torch.uint8"),
        (torch.full((3, 12), np.nan), ValueError, "NaN or infinite"),
        (torch.full((3, 12), np.inf), ValueError, "NaN or infinite"),
    ],
)
def test_examples_the_model_cannot_take_are_refused(x: torch.Tensor, error: type[Exception], sentence: str) -> None:
    model = random_model()
    with pytest.raises(error, match=sentence):
        model.encode(x)
    with pytest.raises(error, match=sentence):
        model.calibrate_threshold(x)


def test_impossible_ways_to_encode_are_refused() -> None:
    model, x = random_model(), examples()
    with pytest.raises(ValueError, match=r"alpha·k \(alpha = 8, k = 4\) = 32 is not possible with 30 hidden units"):
        model.encode(x, "alpha_k", alpha=8)
    with pytest.raises(ValueError, match="call calibrate_threshold"):
        model.encode(x, "threshold")
    with pytest.raises(ValueError, match="topk"):
        model.encode(x, "topk")


@pytest.mark.parametrize("alpha", [0.5, 0, -1, float("nan"), float("inf")])
def test_impossible_alpha_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha"):
        random_model().encode(examples(), "alpha_k", alpha)
    with pytest.raises(ValueError, match="alpha"):
        random_model().calibrate_threshold(examples(), alpha)


@pytest.mark.parametrize("mode", ["k", "alpha_k", "dense", "dense_relu"])
def test_no_examples_give_no_codes(mode: str) -> None:
    assert random_model().encode(torch.empty(0, 12), mode).shape == (0, 30)


def test_a_gaussian_start_draws_biases_like_weights_and_the_weights_of_any_start() -> None:
    zeros, gaussian = KSparseAutoencoder(300, 400, 3), KSparseAutoencoder(300, 400, 3)
    for model, start in ((zeros, "zeros"), (gaussian, "gaussian")):
        model.initialize(0.01, torch.Generator().manual_seed(1), start)  # type: ignore[arg-type]
    assert torch.equal(zeros.weight, gaussian.weight)
    assert not zeros.bias.any() and not zeros.visible_bias.any()
    for bias in (gaussian.bias, gaussian.visible_bias):
        assert float(bias.detach().std()) == pytest.approx(0.01, rel=0.2)
