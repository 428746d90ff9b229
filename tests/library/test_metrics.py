from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import kurtosis

from ksae_lib import KSparseAutoencoder
from ksae_lib.metrics import (
    effective_area,
    fraction_of_variance_unexplained,
    live_units,
    mutual_coherence,
    neighbour_correlation,
    reconstruction_report,
    sparsity_measures,
    unit_report,
)


def test_fvu_is_one_for_the_mean_and_zero_for_a_perfect_reconstruction() -> None:
    x = np.random.default_rng(0).normal(size=(50, 4)) * [1, 2, 3, 4] + [0, 5, 0, -5]
    assert fraction_of_variance_unexplained(x, np.broadcast_to(x.mean(0), x.shape)) == pytest.approx(1)
    assert fraction_of_variance_unexplained(x, x) == 0


def test_fvu_by_hand_uses_the_per_dimension_mean_over_the_whole_set() -> None:
    x = np.array([[0.0, 10.0], [2.0, 10.0]])
    reconstruction = np.array([[0.0, 11.0], [2.0, 10.0]])
    assert fraction_of_variance_unexplained(x, reconstruction) == pytest.approx(1 / 2)


def test_fvu_of_equal_examples_is_refused() -> None:
    with pytest.raises(ValueError, match="all examples are equal"):
        fraction_of_variance_unexplained(np.ones((3, 2)), np.ones((3, 2)))


def test_effective_area_of_a_pixel_a_flat_filter_and_noise() -> None:
    filters = np.zeros((3, 400))
    filters[0, 7] = -3
    filters[1] = 0.5
    filters[2] = np.random.default_rng(0).normal(size=400)
    pixel, flat, noise = effective_area(filters)
    assert pixel == pytest.approx(1 / 400)
    assert flat == pytest.approx(1)
    assert noise == pytest.approx(1 / 3, abs=0.06)


def test_mutual_coherence_by_hand_ignores_sign_and_norm() -> None:
    weight = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 1.0]])
    largest, mean = mutual_coherence(weight)
    assert largest == pytest.approx(1 / np.sqrt(2))
    assert mean == pytest.approx((0 + 2 / np.sqrt(2)) / 3)


def test_live_units_and_report_count_the_k_largest_only() -> None:
    model = KSparseAutoencoder(2, 3, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]))
    x = np.array([[2.0, 1.0], [1.0, 3.0], [4.0, 0.0]], np.float32)
    assert live_units(model, x).tolist() == [True, True, False]
    assert live_units(model, x[:0]).tolist() == [False, False, False]
    report = reconstruction_report(model, x)
    assert report["live_units"] == 2
    assert report["l0"] == 1
    assert report["fvu"] == pytest.approx(2 / ((x - x.mean(0)) ** 2).sum())
    units = unit_report(model, x)
    assert units["frequency"] == pytest.approx([2 / 3, 1 / 3, 0])
    assert units["energy"] == pytest.approx([20 / 29, 9 / 29, 0])
    in_blocks = unit_report(model, iter([x[:2], x[2:]]))
    assert all(np.array_equal(units[name], in_blocks[name]) for name in units)


def test_the_report_does_not_depend_on_where_the_examples_are() -> None:
    x = np.random.default_rng(0).normal(size=(500, 4)) + 1e6
    model = KSparseAutoencoder(4, 3, 1).double()
    with torch.no_grad():
        reconstruction = model(torch.from_numpy(x))[0].numpy()
    expected = fraction_of_variance_unexplained(x, reconstruction)
    assert reconstruction_report(model, x)["fvu"] == pytest.approx(expected, rel=1e-9)
    with pytest.raises(ValueError, match="all examples are equal"):
        unit_report(model, np.full((3, 4), 0.1))


def test_sparsity_measures_of_known_activities() -> None:
    one, equal = np.eye(4)[:2] * 3, np.ones((5, 4))
    assert sparsity_measures(one)["l0"] == 1
    assert sparsity_measures(one)["hoyer"] == pytest.approx(1)
    varied = sparsity_measures(np.vstack([equal, np.zeros((1, 4))]))
    assert (varied["l0"], varied["hoyer"]) == (pytest.approx(20 / 6), pytest.approx(0))
    gauss = np.random.default_rng(0).normal(size=(1000, 50))
    assert sparsity_measures(gauss)["kurtosis"] == pytest.approx(0, abs=0.1)
    assert sparsity_measures(one)["kurtosis"] == pytest.approx(kurtosis(one.ravel()))
    with pytest.raises(ValueError, match="none is ever active"):
        sparsity_measures(np.zeros((3, 4)))


def test_neighbours_of_a_stripe_agree_along_it_and_those_of_noise_do_not() -> None:
    stripes = np.tile([1.0, -1.0], 32).reshape(8, 8)
    noise = np.random.default_rng(0).normal(size=(50, 28, 28))
    # Neighbours to the right are opposite, neighbours below equal.
    assert neighbour_correlation(stripes.reshape(1, -1), (8, 8)) == pytest.approx([0.0])
    assert neighbour_correlation(3 + np.outer(np.arange(8), np.ones(8)).reshape(1, -1), (8, 8))[0] > 0.7
    assert np.abs(neighbour_correlation(noise.reshape(50, -1), (28, 28))).max() < 0.15
