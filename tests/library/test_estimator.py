from __future__ import annotations

import pickle
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits, load_iris, load_wine
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC
from sklearn.utils.estimator_checks import parametrize_with_checks

from ksae_lib import DivergenceError, KSparseCoder
from ksae_lib.estimator import _even
from ksae_lib.io import load_model, save_model
from ksae_lib.loop import columns
from ksae_lib.training import TrainConfig, train


@parametrize_with_checks([KSparseCoder(units=8, k=2, epochs=5), KSparseCoder(epochs=2)])
def test_scikit_learn_conventions(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    return (load_digits().data / 16).astype(np.float32)


def assert_same_history(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> None:
    assert list(first) == list(second) == ["epoch", "k", "learning_rate", "momentum", "loss", "live_units", "seconds"]
    for name in set(first) - {"seconds"}:
        assert first[name].dtype == second[name].dtype
        assert first[name].tolist() == second[name].tolist(), name


def coder(**changes: Any) -> KSparseCoder:
    return KSparseCoder(**{"units": 100, "k": 10, "epochs": 10, "random_state": 0, **changes})


def seen(fitted: KSparseCoder, x: np.ndarray) -> torch.Tensor:
    """What the model of an estimator that was fitted on ``x`` sees of it."""
    return torch.from_numpy(((x - np.mean(x, axis=0, dtype=np.float64)) * fitted.scale_).astype(np.float32))


@pytest.fixture(scope="module")
def fitted(digits: np.ndarray) -> KSparseCoder:
    return coder().fit(digits)


def test_codes_reconstruct_and_classify_in_a_pipeline(digits: np.ndarray) -> None:
    labels = load_digits().target
    train_x, test_x, train_y, test_y = train_test_split(digits, labels, random_state=0)
    pipeline = make_pipeline(coder(epochs=40, sparse_output=True, alpha=2), LogisticRegression(max_iter=500))
    assert pipeline.fit(train_x, train_y).score(test_x, test_y) > 0.93
    assert pipeline[0].score(test_x) > 0.8


def test_without_scaling_fit_is_a_training_run_with_the_schedule_from_a_third_of_the_units(digits: np.ndarray) -> None:
    unscaled = coder(scale=1.0, bias_init="zeros", weight_std=0.02, momentum=0.5, random_state=3).fit(digits)
    config = TrainConfig(
        units=100, k=10, k_start=33, epochs=10, bias_init="zeros", weight_std=0.02, momentum=0.5,
        seed=np.random.RandomState(3).randint(2**31),
    )  # fmt: skip
    model, history = train(digits, config)
    assert np.array_equal(unscaled.components_, model.weight.detach().numpy())
    assert_same_history(columns(history), unscaled.history_)
    assert unscaled.n_iter_ == 10


@pytest.mark.parametrize("alpha", [1, 2.5])
def test_transform_keeps_alpha_k_units_and_dense_keeps_all(
    fitted: KSparseCoder, digits: np.ndarray, alpha: float
) -> None:
    changed = pickle.loads(pickle.dumps(fitted)).set_params(alpha=alpha)
    codes = changed.transform(digits)
    assert codes.shape == (len(digits), 100)
    assert codes.dtype == np.float32
    assert ((codes != 0).sum(1) == round(alpha * 10)).all()
    dense = changed.set_params(code_mode="dense").transform(digits)
    assert (dense != 0).all()
    assert np.array_equal(np.where(codes != 0, dense, 0), codes)
    in_k_mode = changed.set_params(code_mode="k").transform(digits)
    assert ((in_k_mode != 0).sum(1) == 10).all()


def test_the_threshold_is_the_mean_alpha_k_th_value_of_all_training_examples(digits: np.ndarray) -> None:
    by_threshold = coder(code_mode="threshold", alpha=2).fit(digits)
    z = by_threshold.model_.pre_activation(seen(by_threshold, digits))
    threshold = torch.topk(z, 20).values[:, -1].mean().item()
    assert float(by_threshold.model_.threshold) == pytest.approx(threshold, rel=1e-5)
    kept = z.detach().numpy() > threshold
    assert np.mean((by_threshold.transform(digits) != 0) == kept) > 0.9999


def test_sparse_and_dense_output_are_the_same(fitted: KSparseCoder, digits: np.ndarray) -> None:
    dense = fitted.transform(digits)
    csr = pickle.loads(pickle.dumps(fitted)).set_params(sparse_output=True).transform(digits)
    assert sparse.issparse(csr)
    assert csr.nnz == 10 * len(digits)
    assert np.array_equal(csr.toarray(), dense)
    assert np.allclose(fitted.inverse_transform(csr), fitted.inverse_transform(dense), atol=1e-5)


def test_reconstructions_and_score_are_in_the_units_of_the_data_and_keep_k_units(digits: np.ndarray) -> None:
    x = digits * 256
    large = coder(alpha=3).fit(x)
    with torch.no_grad():
        model_output = large.model_(seen(large, x))[0].numpy() / large.scale_ + x.mean(axis=0)
    explained = 1 - ((x - model_output) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()
    assert large.score(x) == pytest.approx(explained, abs=1e-5)
    assert large.score(x) > 0.7
    codes = large.set_params(alpha=1).transform(x)
    assert np.allclose(large.inverse_transform(codes), model_output, atol=0.01)


def test_automatic_scale_makes_the_unit_of_the_data_irrelevant(fitted: KSparseCoder, digits: np.ndarray) -> None:
    large = coder().fit(digits * 256)
    assert large.scale_ == pytest.approx(fitted.scale_ / 256)
    assert np.array_equal(large.components_, fitted.components_)
    with pytest.raises(DivergenceError, match="Lower the learning rate"):
        coder(scale=1.0).fit(digits * 256)


@pytest.mark.parametrize(
    "kind", ["uncorrelated", "one direction nearly", "far from zero", "one feature", "all zero", "one example"]
)
def test_default_scale_is_stable_on_data_unlike_mnist(kind: str) -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(500, 64))
    x, floor = {
        "uncorrelated": (noise, 0.2),
        "one direction nearly": (rng.uniform(size=(500, 1)) + 0.1 * noise, 0.7),
        "far from zero": (noise + 100, 0.01),
        "one feature": (rng.uniform(1, 2, (500, 1)), 0.7),
        "all zero": (np.zeros((20, 5)), None),
        "one example": (noise[:1], None),
    }[kind]
    trained = coder(units=20, k=5, epochs=30).fit(x)
    assert np.isfinite(trained.transform(x)).all()
    if floor is not None:
        assert trained.score(x) > floor


def test_automatic_scale_brings_moment_or_norm_to_its_bound(digits: np.ndarray) -> None:
    uncorrelated = np.random.default_rng(0).normal(size=(500, 64))
    outliers = np.where(np.arange(500)[:, None] % 50, 1, 10) * uncorrelated
    one_direction = np.outer(uncorrelated[:, 0], np.ones(64)) + 0.1 * uncorrelated + 50
    for x, bound in ((digits, 1), (uncorrelated, 1), (outliers, 1), (one_direction, 0)):
        scaled = (x - x.mean(axis=0)) * coder(epochs=1).fit(x).scale_
        largest = np.linalg.eigvalsh(scaled.T @ scaled / len(x))[-1]
        norms = (scaled**2).sum(axis=1)
        shares = largest / 24, (norms**2).sum() / norms.sum() / 80
        assert shares[bound] == pytest.approx(1, rel=1e-4)
        assert shares[1 - bound] < 1


@pytest.mark.parametrize("size", [1, 5, 20])
@pytest.mark.parametrize("load", [load_digits, load_iris, load_wine])
def test_the_default_scale_is_stable_in_small_batches(size: int, load: Any) -> None:
    x = load().data[:: 3 if load is load_digits else 1]
    few = coder(units=60, k=5, epochs=10, batch_size=size).fit(x)
    assert few.score(x) > coder(units=60, k=5, epochs=10).fit(x).score(x) - 0.05
    assert few.scale_ < coder(epochs=1, batch_size=40).fit(x).scale_ == coder(epochs=1).fit(x).scale_


@pytest.mark.parametrize(
    ("examples", "size", "even"),
    [(102, 10, 8), (105, 10, 10), (101, 100, 101), (120, 100, 80), (3, 100, 100), (9, 1, 1)],
)
def test_the_last_batch_is_at_least_half_full(examples: int, size: int, even: int, digits: np.ndarray) -> None:
    assert _even(examples, size) == even
    x, seed = digits[:examples], np.random.RandomState(0).randint(2**31)
    _, rows = train(x, TrainConfig(units=30, k=3, k_start=10, epochs=3, batch_size=even, seed=seed))
    fitted = coder(units=30, k=3, epochs=3, batch_size=size, scale=1.0, bias_init="zeros")
    for given in (x, lambda: np.array_split(x, 3)):
        assert fitted.fit(given).history_["loss"].tolist() == [row["loss"] for row in rows]


def test_a_batch_size_beyond_the_examples_is_one_batch_of_all(digits: np.ndarray) -> None:
    all_at_once, more = (coder(units=30, k=3, epochs=2, batch_size=size).fit(digits) for size in (len(digits), 10**9))
    assert all_at_once.history_["loss"].tolist() == more.history_["loss"].tolist()


def test_one_example_more_does_not_undo_the_last_epoch(digits: np.ndarray) -> None:
    scores = {n: coder(units=60, k=5).fit(digits[:n]).score(digits[:n]) for n in (100, 101, 149, 1700, 1701)}
    assert scores[101] > scores[100] - 0.02 and scores[1701] > scores[1700] - 0.02 and scores[149] > scores[100]


@pytest.mark.parametrize("shift", [100.0, -3.7e5, 31.0 * np.arange(64) - 1000])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_constant_changes_codes_and_score_by_rounding_only(shift: Any, dtype: type) -> None:
    x = load_digits().data
    # Later, roundings have decided near-ties and the nets part.
    still, moved = (coder(units=64, k=5, epochs=2).fit(data) for data in (x, (x + shift).astype(dtype)))
    assert np.allclose(moved.mean_, still.mean_ + shift, rtol=1e-6)
    assert np.abs(moved.transform((x + shift).astype(dtype)) - still.transform(x)).max() < 1e-4
    assert moved.score((x + shift).astype(dtype)) == pytest.approx(still.score(x), abs=1e-6)
    there = moved.inverse_transform(still.transform(x)) - shift
    assert np.allclose(there, still.inverse_transform(still.transform(x)), atol=1e-7 * np.abs(shift).max() + 1e-3)
    with_zeros = coder(units=64, k=5, bias_init="zeros").fit(x)
    assert not with_zeros.mean_.any()


@pytest.mark.parametrize(
    ("gamma", "bias_init", "examples", "warned"),
    [(1.1, "zeros", 500, 1), (0.9, "zeros", 500, 0), (1.1, "centered", 500, 0), (1.1, "zeros", 5, 0)],
)
def test_fit_warns_where_zero_biases_meet_a_mean_above_the_spread(
    gamma: float, bias_init: str, examples: int, warned: int
) -> None:
    x = np.random.default_rng(0).normal(size=(examples, 16))
    x += gamma * np.sqrt(x.var(axis=0).sum() / 16) - x.mean(axis=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        coder(units=20, k=3, epochs=1, bias_init=bias_init).fit(x)
    assert ["bias_init='centered' takes it off" in str(one.message) for one in caught] == [True] * warned
    assert all(one.filename == __file__ for one in caught)


@pytest.mark.parametrize("spreads", [0, 1, 3, 30])
def test_the_atoms_of_a_known_dictionary_are_found_wherever_its_mean_is(spreads: float) -> None:
    rng = np.random.default_rng(0)
    atoms = rng.normal(size=(96, 64))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    x = (np.abs(rng.normal(size=(10_000, 96))) * (rng.random((10_000, 96)) < 3 / 96)) @ atoms
    x = (x + spreads * x.std() * rng.choice([-1, 1], 64)).astype(np.float32)
    found = KSparseCoder(96, k=3, random_state=0).fit(x)
    lengths = np.linalg.norm(found.components_, axis=1, keepdims=True)
    assert np.abs(atoms @ (found.components_ / lengths).T).max(axis=1).mean() > 0.98
    assert found.report(x)["live"].all()


@pytest.mark.parametrize("scale", ["auto", 1.0])
def test_numpy_torch_sparse_and_memory_mapped_arrays_give_the_same(
    digits: np.ndarray, tmp_path: Path, scale: float | str
) -> None:
    path = tmp_path / "x.npy"
    np.save(path, digits)
    expected = coder(scale=scale).fit(digits).transform(digits)
    for same in (
        torch.from_numpy(digits),
        torch.from_numpy(digits).double().requires_grad_(),
        torch.from_numpy(digits).bfloat16(),
        sparse.csr_array(digits),
        sparse.csr_matrix(digits, dtype=np.float64),
        (digits * 16).astype(np.uint8) if scale == "auto" else digits,
        np.load(path, mmap_mode="r"),
        np.asfortranarray(digits, np.float64),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert np.array_equal(coder(scale=scale).fit(same).transform(same), expected)


@pytest.mark.parametrize("changes", [{}, {"code_mode": "dense_relu"}, {"code_mode": "threshold"}])
def test_others_take_the_sparse_codes(digits: np.ndarray, changes: dict[str, Any]) -> None:
    labels = load_digits().target
    codes = coder(sparse_output=True, **changes).fit_transform(digits)
    assert codes.indices.dtype == codes.indptr.dtype == np.int32
    for other in (LinearSVC(), SGDClassifier(random_state=0), KMeans(10, n_init=1, random_state=0)):
        fitted = other.fit(codes, labels)
        assert isinstance(other, KMeans) or fitted.score(codes, labels) > 0.9


def test_sparse_examples_are_taken_by_every_method(digits: np.ndarray) -> None:
    x = sparse.csr_array(digits)
    assert coder().partial_fit(x).score(x) == coder().partial_fit(digits).score(digits)


def test_a_score_holds_a_block_of_a_large_array(fitted: KSparseCoder, tmp_path: Path) -> None:
    large = np.lib.format.open_memmap(tmp_path / "large.npy", "w+", np.float32, (400_000, 64))
    large[::1000] = 1
    tracemalloc.start()
    try:
        score, report = fitted.score(large), fitted.report(large)
        assert tracemalloc.get_traced_memory()[1] < 10e6 < large.nbytes
    finally:
        tracemalloc.stop()
    assert report["fvu"] == 1 - score


def test_the_report_is_of_the_k_largest_codes(fitted: KSparseCoder, digits: np.ndarray) -> None:
    more = pickle.loads(pickle.dumps(fitted)).set_params(alpha=3)
    report, codes = more.report(digits), fitted.transform(digits)
    assert report["frequency"] == pytest.approx((codes != 0).mean(axis=0))
    parts = (codes[:, :, None] * fitted.components_).astype(np.float64)
    assert report["energy"] == pytest.approx((parts**2).sum(axis=(0, 2)) / (parts**2).sum(), rel=1e-4)
    assert (report["live"] == (codes != 0).any(axis=0)).all()
    assert report["l0"] == 10
    assert report["fvu"] == pytest.approx(1 - fitted.score(digits))


def test_a_threshold_that_was_not_set_is_told(fitted: KSparseCoder, digits: np.ndarray) -> None:
    changed = pickle.loads(pickle.dumps(fitted)).set_params(code_mode="threshold")
    with pytest.raises(ValueError, match="There is no threshold: call fit or partial_fit with code_mode='threshold'"):
        changed.transform(digits)
    assert changed.partial_fit(digits).transform(digits).any()


def test_calls_of_partial_fit_are_the_epochs_of_fit_with_constant_k(digits: np.ndarray) -> None:
    whole = coder(k_start=None, epochs=4).fit(digits)
    stepwise = coder()
    for _ in range(4):
        stepwise.partial_fit(digits)
    assert np.array_equal(stepwise.components_, whole.components_)
    assert_same_history(stepwise.history_, whole.history_)
    assert stepwise.n_iter_ == 4


def test_partial_fit_goes_on_after_fit_with_new_examples_and_rates(digits: np.ndarray) -> None:
    first, second = digits[:900], digits[900:]
    model = coder().fit(first)
    before, scale = model.components_.copy(), model.scale_
    model.set_params(learning_rate=1e-12).partial_fit(second)
    assert np.allclose(model.components_, before, atol=1e-6)
    score = model.score(second)
    model.set_params(learning_rate=0.01)
    for _ in range(10):
        model.partial_fit(second)
    assert model.score(second) > score + 0.02
    assert model.scale_ == scale
    assert model.history_["epoch"].tolist() == list(range(21))
    with pytest.raises(ValueError, match="is expecting 64 features"):
        model.partial_fit(second[:, :60])


def test_small_calls_of_partial_fit_learn_at_a_smaller_rate(digits: np.ndarray) -> None:
    stream = coder(units=60, k=5).partial_fit(digits[:200])
    for start in range(200, 1200, 5):
        stream.partial_fit(digits[start : start + 5])
    assert stream.history_["learning_rate"][1:] == pytest.approx(0.01 * 5 / 100)
    assert stream.score(digits) > 0.5


def test_any_error_leaves_an_earlier_fit_as_it_was(digits: np.ndarray, tmp_path: Path) -> None:
    fitted = coder(checkpoint=tmp_path / "one").fit(digits)
    codes = fitted.transform(digits)
    for changes in ({}, {"learning_rate": 1e30, "checkpoint": None}):
        with pytest.raises((ValueError, DivergenceError)):
            fitted.set_params(**changes).fit(digits[:, :50])
        assert fitted.n_features_in_ == 64
        assert np.array_equal(fitted.transform(digits), codes)
    never = coder(learning_rate=1e30)
    with pytest.raises(DivergenceError):
        never.partial_fit(digits)
    assert vars(never) == vars(coder(learning_rate=1e30))


def test_a_fit_that_blew_up_warns(digits: np.ndarray) -> None:
    x, blown = digits[:300], coder(k=10, epochs=1, learning_rate=0.2)
    for fit, given in ((blown.fit, x), (blown.fit, lambda: [x]), (clone(blown).partial_fit, x)):
        with pytest.warns(UserWarning, match=r"The fit diverged: its loss is .*, that of no code at all .*") as told:
            fit(given)
        assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unlike = coder(epochs=1).fit(x)
        unlike.partial_fit(unlike.mean_ + 0.03 * (x - unlike.mean_))
        coder(epochs=1).fit(np.ones((50, 64)))


def test_one_epoch_is_trained_at_k_and_k_may_be_a_whole_float(digits: np.ndarray) -> None:
    assert coder(epochs=1).fit(digits).history_["k"].tolist() == [10]
    assert coder(epochs=2).fit(digits).history_["k"].tolist() == [33, 10]
    whole = coder(k=10.0, k_start=20.0).fit(digits)
    assert np.array_equal(whole.components_, coder(k=10, k_start=20).fit(digits).components_)


def test_divergence_leaves_the_state_before_it(digits: np.ndarray) -> None:
    unfitted = coder(scale=100.0)
    for method in (unfitted.fit, unfitted.partial_fit):
        with pytest.raises(DivergenceError, match="^Training diverged"):
            method(digits)
        with pytest.raises(NotFittedError):
            unfitted.transform(digits)
    stepwise = coder().partial_fit(digits)
    codes = stepwise.transform(digits)
    with pytest.raises(
        DivergenceError, match=r"Training diverged: .* in epoch 1 \(counted from 0\) at learning rate 10000"
    ):
        stepwise.set_params(learning_rate=1e4).partial_fit(digits)
    assert np.array_equal(stepwise.transform(digits), codes)
    assert stepwise.n_iter_ == 1


def test_fitted_estimators_survive_pickling_and_cloning(fitted: KSparseCoder, digits: np.ndarray) -> None:
    assert np.array_equal(pickle.loads(pickle.dumps(fitted)).transform(digits), fitted.transform(digits))
    assert np.array_equal(clone(fitted).fit(digits).components_, fitted.components_)
    stepwise = coder().partial_fit(digits)
    copy = pickle.loads(pickle.dumps(stepwise))
    assert np.array_equal(copy.partial_fit(digits).components_, stepwise.partial_fit(digits).components_)
    assert list(fitted.get_feature_names_out()) == [f"ksparsecoder{unit}" for unit in range(100)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 101}, "k = 101 is not possible with 100 hidden units"),
        ({"k_start": 101}, "k_start = 101 is not possible with 100 hidden units"),
        ({"alpha": 11}, r"alpha·k \(alpha = 11, k = 10\) = 110 is not possible with 100 hidden units"),
        ({"k": 0}, "k = 0 is not possible with 100 hidden units"),
        ({"units": "many"}, "units = many is not possible"),
        ({"alpha": 0.5}, "alpha = 0.5 is not possible"),
        ({"alpha": "two"}, "alpha = two is not possible"),
        ({"k_start": "all"}, "k_start = all is not possible with 100 hidden units"),
        ({"code_mode": "all"}, "code_mode = 'all' is unknown: choose one of k, alpha_k, dense, dense_relu, threshold"),
        ({"momentum": 1.0}, "momentum = 1.0 is not possible"),
        ({"scale": "large"}, "scale = 'large' is not possible: choose 'auto' or a positive number"),
        ({"scale": 0.0}, "scale = 0.0 is not possible"),
        ({"engine": "abacus"}, "engine = 'abacus' is unknown: choose one of auto, gpu, cpu, reference"),
    ],
)
def test_impossible_parameters_are_refused(digits: np.ndarray, changes: dict[str, Any], message: str) -> None:
    for method in ("fit", "partial_fit"):
        with pytest.raises(ValueError, match=message):
            getattr(coder(**changes), method)(digits)


def test_wrong_data_are_refused(fitted: KSparseCoder, digits: np.ndarray) -> None:
    broken = digits.copy()
    broken[3, 4] = np.nan
    for method in (coder().fit, coder().partial_fit, fitted.transform, fitted.score):
        with pytest.raises(ValueError, match="contains NaN"):
            method(broken)
        with pytest.raises(ValueError, match=r"reshape images with x\.reshape"):
            method(digits.reshape(-1, 8, 8))
    with pytest.raises(ValueError, match="is expecting 64 features"):
        fitted.transform(digits[:, :60])
    with pytest.raises(ValueError, match="Codes have 99 columns, but there are 100 units"):
        fitted.inverse_transform(fitted.transform(digits)[:, :99])
    with pytest.raises(ValueError, match="all examples are equal"):
        fitted.score(np.ones((5, 64)))


@pytest.mark.parametrize("changes", [{}, {"code_mode": "threshold", "alpha": 2.0, "sparse_output": True}])
def test_an_estimator_that_was_saved_is_the_same_when_loaded(
    digits: np.ndarray, tmp_path: Path, changes: dict[str, Any]
) -> None:
    path, ours = tmp_path / "model.safetensors", coder(**changes).fit(digits)
    ours.save(path)
    theirs = KSparseCoder.load(str(path))
    assert theirs.get_params() == ours.get_params()
    assert np.array_equal(theirs.mean_, ours.mean_) and theirs.mean_.dtype == np.float64
    assert (theirs.scale_, theirs.n_iter_, theirs.n_features_in_) == (ours.scale_, ours.n_iter_, 64)
    assert_same_history(ours.history_, theirs.history_)
    assert ours.history_["seconds"].tolist() == theirs.history_["seconds"].tolist()
    expected, found = ours.transform(digits), theirs.transform(digits)
    assert sparse.issparse(expected) == sparse.issparse(found) == bool(changes)
    assert (expected != found).sum() == 0
    assert np.array_equal(theirs.partial_fit(digits).components_, ours.partial_fit(digits).components_)
    with pytest.raises(ValueError, match="is expecting 64 features"):
        theirs.transform(digits[:, :60])
    assert np.array_equal(load_model(path).weight.detach(), KSparseCoder.load(path).components_)


def test_names_of_features_and_generators_survive_as_far_as_they_can(digits: np.ndarray, tmp_path: Path) -> None:
    path, named = tmp_path / "model.safetensors", coder(k=np.int64(10), random_state=np.random.RandomState(1))
    named.fit(digits)
    named.feature_names_in_ = np.array([f"pixel {number}" for number in range(64)], dtype=object)
    named.save(path)
    loaded = KSparseCoder.load(path)
    assert loaded.random_state is None
    assert loaded.feature_names_in_.tolist() == named.feature_names_in_.tolist()


def test_files_of_estimators_that_took_no_mean_off_are_read(digits: np.ndarray, tmp_path: Path) -> None:
    old = coder(bias_init="zeros").fit(digits)
    codes, mean = old.transform(digits), old.mean_
    del old.mean_
    old.save(tmp_path / "old.safetensors")
    new = KSparseCoder.load(tmp_path / "old.safetensors")
    assert np.array_equal(new.mean_, mean) and np.array_equal(new.transform(digits), codes)


def test_what_cannot_be_saved_or_loaded_is_refused(fitted: KSparseCoder, tmp_path: Path) -> None:
    with pytest.raises(NotFittedError):
        coder().save(tmp_path / "model.safetensors")
    save_model(fitted.model_, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"holds a model without its estimator: read it with ksae_lib\.io\.load_model"):
        KSparseCoder.load(tmp_path / "model.safetensors")
