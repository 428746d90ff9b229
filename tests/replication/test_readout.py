from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from ksae_lib.metrics import fraction_of_variance_unexplained
from ksae_lib.model import KSparseAutoencoder
from replication.data.base import Dataset
from replication.judge.readout import ReadoutConfig, ReadoutResult, evaluate
from replication.methods import METHODS

K_SPARSE, PIXELS = METHODS["k_sparse"](units=20, k=3, k_start=None), METHODS["pixels"]()


def blobs(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    return (rng.normal(size=(n, 6)) + 1.5 * np.eye(3, 6)[y]).astype(np.float32), y.astype(np.int64)


def dataset() -> Dataset:
    (a, ya), (b, yb), (c, yc) = blobs(300, 0), blobs(100, 1), blobs(100, 2)
    return Dataset(a, ya, b, yb, c, yc, (2, 3), {}, "none")


@pytest.fixture
def model() -> KSparseAutoencoder:
    model = KSparseAutoencoder(6, 20, 3)
    model.initialize(1.0, torch.Generator().manual_seed(0))
    return model


def read_pixels(data: Dataset, config: ReadoutConfig) -> ReadoutResult:
    return evaluate(data, PIXELS, nn.Identity(), config, "cpu")


def test_validation_chooses_and_the_whole_grid_is_recorded(model: KSparseAutoencoder) -> None:
    config = ReadoutConfig(alphas=(1, 2), l2=(0.1, 0.001))
    result = evaluate(dataset(), K_SPARSE, model, config)
    assert [(row.alpha, row.l2) for row in result.trials.itertuples()] == [(1, 0.1), (1, 0.001), (2, 0.1), (2, 0.001)]
    best = result.trials.loc[result.trials["validation_error"].idxmin()]
    assert result.selected == {"alpha": best["alpha"], "l2": best["l2"]}
    assert (result.validation_error, result.test_error) == (best["validation_error"], best["test_error"])
    assert len(result.test_mistakes) == round(result.test_error)
    assert result.code_mode == "alpha_k"


def test_fvu_is_that_of_the_codes_that_are_read(model: KSparseAutoencoder) -> None:
    x = torch.from_numpy(dataset().validation_x)
    trials = evaluate(dataset(), K_SPARSE, model, ReadoutConfig(alphas=(1, 2), l2=(0.1,))).trials
    for alpha, fvu in zip(trials["alpha"], trials["fvu"], strict=True):
        image = model.decode(model.encode(x, "alpha_k", alpha)).detach().numpy()
        assert fvu == pytest.approx(fraction_of_variance_unexplained(x.numpy(), image), rel=1e-5)


def test_the_choice_does_not_look_at_test_labels(model: KSparseAutoencoder) -> None:
    honest = dataset()
    shuffled = Dataset(
        honest.train_x, honest.train_y, honest.validation_x, honest.validation_y,
        honest.test_x, (honest.test_y + 1) % 3, (2, 3), {}, "none",
    )  # fmt: skip
    config = ReadoutConfig(alphas=(1, 2, 3), l2=(0.1, 0.01, 0.001))
    assert evaluate(honest, K_SPARSE, model, config).selected == evaluate(shuffled, K_SPARSE, model, config).selected


def test_raw_pixels_equal_scikit_learn_on_dense_input() -> None:
    data = dataset()
    result = read_pixels(data, ReadoutConfig(l2=(0.01,), tolerance=1e-8))
    direct = LogisticRegression(C=1 / (0.01 * 300), tol=1e-8, max_iter=1000).fit(data.train_x, data.train_y)
    assert (result.selected, result.trials["fvu"].iloc[0]) == ({"l2": 0.01}, None)
    assert result.test_mistakes == np.flatnonzero(direct.predict(data.test_x) != data.test_y).tolist()


def test_l2_weighs_the_penalty_against_the_mean_cross_entropy() -> None:
    data = dataset()
    twice = Dataset(
        np.concatenate([data.train_x] * 2), np.concatenate([data.train_y] * 2), data.validation_x, data.validation_y,
        data.test_x, data.test_y, (2, 3), {}, "none",
    )  # fmt: skip
    config = ReadoutConfig(l2=(0.3,), tolerance=1e-8)
    assert read_pixels(data, config).test_mistakes == read_pixels(twice, config).test_mistakes


def test_dense_relu_codes_keep_every_positive_entry_and_have_no_alpha(model: KSparseAutoencoder) -> None:
    data = dataset()
    result = evaluate(data, K_SPARSE, model, ReadoutConfig(l2=(0.01,), tolerance=1e-8, dense_relu=True))
    weight, bias = model.weight.detach().numpy(), model.bias.detach().numpy()
    codes, test_codes = (np.maximum(x @ weight.T + bias, 0) for x in (data.train_x, data.test_x))
    direct = LogisticRegression(C=1 / (0.01 * 300), tol=1e-8, max_iter=2000).fit(codes, data.train_y)
    assert (result.selected, result.code_mode) == ({"l2": 0.01}, "dense_relu")
    assert result.test_mistakes == np.flatnonzero(direct.predict(test_codes) != data.test_y).tolist()


def test_refit_keeps_what_validation_chose_and_learns_from_validation_images_too(model: KSparseAutoencoder) -> None:
    data = dataset()
    once = evaluate(data, K_SPARSE, model, ReadoutConfig(alphas=(1, 2), l2=(0.1, 0.01), tolerance=1e-8))
    again = evaluate(data, K_SPARSE, model, ReadoutConfig(alphas=(1, 2), l2=(0.1, 0.01), tolerance=1e-8, refit=True))
    assert (again.selected, again.validation_error) == (once.selected, once.validation_error)
    x, y = np.concatenate([data.train_x, data.validation_x]), np.concatenate([data.train_y, data.validation_y])
    codes, test_codes = (
        model.encode(torch.from_numpy(part), "alpha_k", again.selected["alpha"]).numpy() for part in (x, data.test_x)
    )
    direct = LogisticRegression(C=1 / (again.selected["l2"] * len(y)), tol=1e-8, max_iter=2000).fit(codes, y)
    assert again.test_mistakes == np.flatnonzero(direct.predict(test_codes) != data.test_y).tolist()
    assert again.test_error == len(again.test_mistakes) / len(data.test_y) * 100


def test_few_iterations_stop_the_fit_early(model: KSparseAutoencoder) -> None:
    result = evaluate(dataset(), K_SPARSE, model, ReadoutConfig(alphas=(2,), l2=(0.0001,), max_iterations=2))
    assert (result.trials["iterations"].iloc[0], result.trials["converged"].iloc[0]) == (2, False)
    with pytest.raises(ValueError, match="at least 1"):
        ReadoutConfig(max_iterations=0)


@pytest.mark.parametrize("wrong", [{"alphas": ()}, {"alphas": (0.5,)}, {"l2": ()}, {"l2": (0.0,)}])
def test_impossible_grids_are_refused(wrong: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(ValueError, match="name at least one"):
        ReadoutConfig(**wrong)


def test_codes_are_transformed_as_asked(model: KSparseAutoencoder) -> None:
    data, grid = dataset(), {"alphas": (6.0,), "l2": (1.0,)}
    codes = {
        part: model.encode(torch.from_numpy(getattr(data, f"{part}_x")), "alpha_k", 6.0).numpy()
        for part in ("train", "validation", "test")
    }
    spread = codes["train"].std(0)
    by_hand = {
        "raw": codes,
        "relu": {part: np.maximum(code, 0) for part, code in codes.items()},
        "standardized": {part: code / np.where(spread == 0, 1, spread) for part, code in codes.items()},
    }
    missed = {}
    for how, parts in by_hand.items():
        found = evaluate(data, K_SPARSE, model, ReadoutConfig(**grid, transform=how), "cpu")
        shown = replace(data, **{f"{part}_x": code.astype(np.float32) for part, code in parts.items()})
        wanted = read_pixels(shown, ReadoutConfig(**grid))
        assert found.trials["train_error"].tolist() == wanted.trials["train_error"].tolist()
        assert found.test_mistakes == wanted.test_mistakes
        missed[how] = found.test_mistakes
    assert len({tuple(mistakes) for mistakes in missed.values()}) == 3
    with pytest.raises(ValueError, match="choose one of raw, relu, standardized"):
        ReadoutConfig(transform="whitened")
