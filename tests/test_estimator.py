from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from ksae_lib import DivergenceError, KSparseCoder
from ksae_lib.engines import TrainConfig, train


@parametrize_with_checks([KSparseCoder(units=8, k=2, epochs=5), KSparseCoder(epochs=2)])
def test_scikit_learn_conventions(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    return (load_digits().data / 16).astype(np.float32)


def coder(**changes: Any) -> KSparseCoder:
    return KSparseCoder(**{"units": 100, "k": 10, "epochs": 10, "random_state": 0, **changes})


def test_codes_reconstruct_and_classify_in_a_pipeline(digits: np.ndarray) -> None:
    labels = load_digits().target
    train_x, test_x, train_y, test_y = train_test_split(digits, labels, random_state=0)
    pipeline = make_pipeline(coder(epochs=40, sparse_output=True, alpha=2), LogisticRegression(max_iter=500))
    assert pipeline.fit(train_x, train_y).score(test_x, test_y) > 0.93
    assert pipeline[0].score(test_x) > 0.8


def test_without_scaling_fit_is_the_training_run_of_its_config(digits: np.ndarray) -> None:
    fitted = coder(scale=1.0).fit(digits)
    model, history = train(digits, fitted._config)
    assert isinstance(fitted._config, TrainConfig)
    assert torch.equal(model.weight, fitted.model_.weight)
    assert history["loss"].equals(fitted.history_["loss"])


@pytest.mark.parametrize("alpha", [1, 2.5])
def test_transform_keeps_alpha_k_units_and_dense_keeps_all(digits: np.ndarray, alpha: float) -> None:
    fitted = coder(alpha=alpha).fit(digits)
    codes = fitted.transform(digits)
    assert codes.shape == (len(digits), 100)
    assert ((codes != 0).sum(1) == round(alpha * 10)).all()
    dense = fitted.set_params(code_mode="dense").transform(digits)
    assert (dense != 0).all()
    assert np.array_equal(np.where(codes != 0, dense, 0), codes)


def test_sparse_and_dense_output_are_the_same(digits: np.ndarray) -> None:
    fitted = coder().fit(digits)
    dense = fitted.transform(digits)
    csr = fitted.set_params(sparse_output=True).transform(digits)
    assert sparse.issparse(csr)
    assert np.array_equal(csr.toarray(), dense)
    assert np.allclose(fitted.inverse_transform(csr), fitted.inverse_transform(dense), atol=1e-5)


def test_scale_is_undone_and_makes_the_unit_of_the_data_irrelevant(digits: np.ndarray) -> None:
    small, large = coder().fit(digits), coder().fit(digits * 256)
    assert large.scale_ == pytest.approx(small.scale_ / 256)
    assert large.score(digits * 256) == pytest.approx(small.score(digits), abs=1e-4)
    with pytest.raises(DivergenceError, match="Lower the learning rate"):
        coder(scale=1.0).fit(digits * 256)


def test_numpy_torch_and_memory_mapped_arrays_give_the_same(digits: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, digits)
    expected = coder().fit(digits).transform(digits)
    for same in (torch.from_numpy(digits), np.load(path, mmap_mode="r"), digits.astype(np.float64)):
        assert np.array_equal(coder().fit(same).transform(same), expected)


def test_partial_fit_goes_on_from_where_it_was(digits: np.ndarray) -> None:
    stepwise = coder()
    scores = [stepwise.partial_fit(digits).score(digits) for _ in range(6)]
    assert stepwise.n_iter_ == 6
    assert stepwise.history_["epoch"].tolist() == list(range(6))
    assert (stepwise.history_["k"] == 10).all()
    assert scores[-1] > scores[0] + 0.1
    one = coder(k_start=None, epochs=1)
    assert np.array_equal(one.fit(digits).components_, coder().partial_fit(digits).components_)


def test_fitted_estimators_survive_pickling_and_cloning(digits: np.ndarray) -> None:
    fitted = coder().fit(digits)
    assert np.array_equal(pickle.loads(pickle.dumps(fitted)).transform(digits), fitted.transform(digits))
    assert np.array_equal(clone(fitted).fit(digits).components_, fitted.components_)
    assert list(fitted.get_feature_names_out()[:2]) == ["ksparsecoder0", "ksparsecoder1"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 101}, "k = 101 is not possible with 100 hidden units"),
        ({"alpha": 11}, r"alpha·k \(alpha = 11, k = 10\) = 110 is not possible with 100 hidden units"),
        ({"k": 0}, "The 'k' parameter"),
        ({"code_mode": "all"}, "The 'code_mode' parameter"),
        ({"momentum": 1.0}, "The 'momentum' parameter"),
    ],
)
def test_impossible_parameters_are_refused(digits: np.ndarray, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        coder(**changes).fit(digits)


def test_nan_and_unflattened_images_are_refused(digits: np.ndarray) -> None:
    broken = digits.copy()
    broken[3, 4] = np.nan
    with pytest.raises(ValueError, match="contains NaN"):
        coder().fit(broken)
    with pytest.raises(ValueError, match=r"reshape images with x\.reshape"):
        coder().fit(digits.reshape(-1, 8, 8))
    with pytest.raises(ValueError, match="is expecting 64 features"):
        coder().fit(digits).transform(digits[:, :60])
