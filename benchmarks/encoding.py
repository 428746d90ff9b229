"""Images encoded per second: a k-sparse autoencoder beside sparse coding, on one core at equal sparsity (claim C13).

A k-sparse autoencoder of 1000 units is trained on MNIST first. Its encoder – one product with the dictionary and a
selection – then codes images that it was not trained on, leaving out the pixels that are zero, and with the product of
all pixels. Orthogonal matching pursuit (OMP) and LARS-lasso of scikit-learn code them in the same dictionary, its atoms
scaled to unit length, after the visible bias is taken off. OMP keeps exactly k atoms; the penalty of the lasso is the
one that keeps k on average, found by halving an interval. A dictionary that is sparse coding's own has 1000 atoms that
``MiniBatchDictionaryLearning`` learns from as many images as the time allows; OMP codes in it.

Beside each: the fraction of the variance of the same images that its codes leave unexplained. Sparse coding solves for
the values of a code and the encoder does not; the results also have the encoder's support with least-squares values.
The floor is the product of all pixels with the dictionary alone.
"""

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.decomposition import MiniBatchDictionaryLearning, SparseCoder

from benchmarks import common
from ksae_lib.codes import codes
from ksae_lib.metrics import fraction_of_variance_unexplained
from ksae_lib.model import CodeMode, KSparseAutoencoder
from ksae_lib.training import TrainConfig, train
from replication.data import load_data
from replication.data.base import DataConfig
from replication.methods.base import few_threads

OPTIONS = {"k": (25, "atoms of a code"), "epochs": (40, "of training"), "seconds": (60.0, "to learn a dictionary in")}
UNITS = 1000
_SPARSE_CODED, _PENALTY_FROM, _ROUNDS, _HALVINGS, _DICTIONARY_BATCH = 200, 20, 9, 8, 200


def measure(options: Any) -> dict[str, Any]:
    """Time the ``methods`` on one core."""
    data = load_data(DataConfig())
    config = TrainConfig(units=UNITS, k=options.k, epochs=options.epochs, bias_init="centered")
    model, _ = train(data.train_x, config)
    with few_threads(1), warnings.catch_warnings():
        # OMP and LARS say so where atoms are nearly the same; what they then find is kept.
        warnings.simplefilter("ignore")
        return _results(model, data.train_x, data.test_x, options.seconds)


def _results(model: KSparseAutoencoder, train_x: np.ndarray, x: np.ndarray, seconds: float) -> dict[str, Any]:
    k, weight, bias = model.k, model.weight.detach().numpy(), model.visible_bias.detach().numpy()
    # A unit that died can have no length.
    atoms = weight / np.maximum(np.linalg.norm(weight, axis=1, keepdims=True), 1e-12)
    few = x[:_SPARSE_CODED]
    penalty = _penalty(atoms, few[:_PENALTY_FROM] - bias, k)
    learned, learned_from = _learn(train_x - bias, seconds)

    def encoder(exact: bool) -> Callable[[], np.ndarray]:
        return lambda: sparse.csr_array(codes(model, x, CodeMode.K, exact=exact)[0]).toarray()

    def coder(dictionary: np.ndarray, how: str, **settings: Any) -> Callable[[], np.ndarray]:
        made = SparseCoder(dictionary, transform_algorithm=how, **settings)
        return lambda: made.transform(few - bias)

    methods = {
        "k-sparse encoder": (weight, encoder(exact=False)),
        "k-sparse encoder, all pixels": (weight, encoder(exact=True)),
        "OMP": (atoms, coder(atoms, "omp", transform_n_nonzero_coefs=k)),
        "LARS-lasso": (atoms, coder(atoms, "lasso_lars", transform_alpha=penalty)),
        "learned dictionary, OMP": (learned, coder(learned, "omp", transform_n_nonzero_coefs=k)),
    }
    found: dict[str, np.ndarray] = {}
    runs = {name: run for name, (_, run) in methods.items()} | {"floor": lambda: x @ weight.T}
    slices = {name: lambda _, name=name, run=run: found.update({name: run()}) for name, run in runs.items()}
    times = common.timed_rounds(slices, lambda: None, 0, at_least=_ROUNDS)
    speeds = {name: len(found[name]) / times[name] for name in runs}
    ours, rows = np.median(speeds["k-sparse encoder"]), {}
    for name, (dictionary, _) in methods.items():
        code = found[name][: len(few)]
        rows[name] = {
            "images_per_s": common.rounded(np.median(speeds[name])),
            "quartiles": common.quartiles(speeds[name]),
            "encoder_over_this": common.rounded(ours / np.median(speeds[name])),
            "l0": common.rounded(np.count_nonzero(code) / len(few)),
            "fvu": common.rounded(fraction_of_variance_unexplained(few, code @ dictionary + bias)),
        }
    solved = _least_squares(few - bias, found["k-sparse encoder"][: len(few)] != 0, weight) + bias
    return {
        "methods": rows,
        "support_with_least_squares_fvu": common.rounded(fraction_of_variance_unexplained(few, solved)),
        "dictionary_learned_from": learned_from,
        "floor_images_per_s": common.rounded(np.median(speeds["floor"])),
        "rounds": _ROUNDS,
        "task": {"inputs": x.shape[1], "units": UNITS, "k": k, "sparse_coded": len(few)},
        "hardware": common.hardware() | {"threads": 1},
    }


def _penalty(atoms: np.ndarray, x: np.ndarray, k: int) -> float:
    """The lasso's penalty at which a code has k atoms on average."""
    low, high = 0.0, float(np.abs(x @ atoms.T).max())
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        coder = SparseCoder(atoms, transform_algorithm="lasso_lars", transform_alpha=middle)
        is_too_low = np.count_nonzero(coder.transform(x)) / len(x) > k
        low, high = (middle, high) if is_too_low else (low, middle)
    return high


def _learn(x: np.ndarray, seconds: float) -> tuple[np.ndarray, int]:
    """Atoms learned from as many images as the time allows, and how many that were."""
    learner = MiniBatchDictionaryLearning(UNITS, batch_size=_DICTIONARY_BATCH, fit_algorithm="cd", random_state=0)
    started, seen = time.perf_counter(), UNITS
    # The first call needs one image for each atom.
    learner.partial_fit(x[:UNITS])
    while time.perf_counter() - started < seconds:
        begin = seen % (len(x) - _DICTIONARY_BATCH + 1)
        learner.partial_fit(x[begin : begin + _DICTIONARY_BATCH])
        seen += _DICTIONARY_BATCH
    return learner.components_, seen


def _least_squares(x: np.ndarray, support: np.ndarray, atoms: np.ndarray) -> np.ndarray:
    """Reconstructions by the best values on given supports."""
    pairs = zip(x, (atoms[kept] for kept in support), strict=True)
    return np.stack([np.linalg.lstsq(kept.T, row, rcond=None)[0] @ kept for row, kept in pairs])
