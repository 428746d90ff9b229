"""Images encoded per second: a k-sparse autoencoder beside sparse coding, on one core at equal sparsity (claim C13).

A k-sparse autoencoder of 1000 units is trained on MNIST first. Its encoder – one product with the dictionary and a
selection – then codes images that it was not trained on, as ``ksae_lib.codes`` does it, leaving out the pixels that
are zero, and with the product of all pixels. Orthogonal matching pursuit (OMP) and LARS-lasso of scikit-learn code them
in the same dictionary, its atoms scaled to unit length, after the visible bias is taken off. OMP keeps exactly k atoms;
the penalty of the lasso is the one that keeps k on average, found by halving an interval.
As a dictionary that is sparse coding's own, scikit-learn's ``MiniBatchDictionaryLearning`` learns 1000 atoms from as
many images as the time allows, and codes by OMP.

Beside each: the fraction of the variance of the same images that its codes leave unexplained. Sparse coding solves for
the values of a code and the encoder does not; a row of its own gives the encoder's support the least-squares values.
The floor is the product of all pixels with the dictionary alone, at the rate of a large float32 product measured in
the same run.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np
import torch
from scipy import sparse
from sklearn.decomposition import MiniBatchDictionaryLearning, SparseCoder
from threadpoolctl import threadpool_limits

from benchmarks.engines import PAUSE_SECONDS, PRODUCT_SIZE, hardware, output_options, present, product_rate, rounded
from ksae_lib.codes import codes as codes_of
from ksae_lib.metrics import fraction_of_variance_unexplained
from ksae_lib.model import KSparseAutoencoder
from ksae_lib.training import TrainConfig, train
from replication.data import load_mnist

UNITS = 1000
_SPARSE_CODED = 200
_BLOCK = 1000
_PENALTY_FROM = 20
_ROUNDS = 9
_DICTIONARY_BATCH = 200
_HALVINGS = 8

Encode = Callable[[np.ndarray], np.ndarray]
"""Codes of images (shape: [images, pixels] → [images, atoms])."""


def benchmark(train_x: np.ndarray, x: np.ndarray, k: int, epochs: int, seconds: float) -> dict[str, Any]:
    """Time the encoders on one core.

    Args:
        train_x: images to learn from (shape: [images, pixels]).
        x: images to encode; sparse coding gets the first 200, of which is also the unexplained variance.
        k: atoms a code has.
        epochs: of the autoencoder.
        seconds: for learning the dictionary.

    Returns:
        ``methods`` by name, ``floor_images_per_s``, ``task`` and ``hardware``.
    """
    model, _ = train(train_x, TrainConfig(units=UNITS, k=k, epochs=epochs, bias_init="centered"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1), warnings.catch_warnings():
            # OMP and LARS say so where atoms are nearly the same; what they then find is kept.
            warnings.simplefilter("ignore")
            return _results(model, train_x, x, k, seconds)
    finally:
        torch.set_num_threads(threads)


def _results(model: KSparseAutoencoder, train_x: np.ndarray, x: np.ndarray, k: int, seconds: float) -> dict[str, Any]:
    weight, bias = model.weight.detach().numpy(), model.visible_bias.detach().numpy()
    # A unit that died can have no length.
    atoms = weight / np.maximum(np.linalg.norm(weight, axis=1, keepdims=True), 1e-12)
    few = x[:_SPARSE_CODED]
    penalty = _penalty(atoms, few[:_PENALTY_FROM] - bias, k)
    learned, learned_from = _learn(train_x - bias, seconds)

    def encoder(images: np.ndarray) -> np.ndarray:
        blocks = np.split(images, range(_BLOCK, len(images), _BLOCK))
        return np.concatenate(
            [sparse.csr_array(codes_of(model, block, "k", exact=False)[0]).toarray() for block in blocks]
        )

    def with_dense_product(images: np.ndarray) -> np.ndarray:
        blocks = np.split(images, range(_BLOCK, len(images), _BLOCK))
        return np.concatenate([sparse.csr_array(codes_of(model, block, "k")[0]).toarray() for block in blocks])

    methods: dict[str, tuple[np.ndarray, np.ndarray, Encode]] = {
        "k-sparse encoder": (x, weight, encoder),
        "k-sparse encoder, all pixels": (x, weight, with_dense_product),
        "OMP": (few, atoms, _coder(atoms, bias, transform_algorithm="omp", transform_n_nonzero_coefs=k)),
        "LARS-lasso": (few, atoms, _coder(atoms, bias, transform_algorithm="lasso_lars", transform_alpha=penalty)),
        "learned dictionary, OMP": (
            few, learned, _coder(learned, bias, transform_algorithm="omp", transform_n_nonzero_coefs=k)
        ),
    }  # fmt: skip
    times: dict[str, list[float]] = {name: [] for name in methods}
    codes, peak = {}, []
    for _ in range(_ROUNDS):
        peak.append(product_rate(PRODUCT_SIZE))
        for name, (images, _, run) in methods.items():
            time.sleep(PAUSE_SECONDS)
            started = time.perf_counter()
            codes[name] = run(images)[: len(few)]
            times[name].append((time.perf_counter() - started) / len(images))
    ours = median(times["k-sparse encoder"])
    rows: dict[str, dict[str, Any]] = {
        name: {
            "images_per_s": rounded(1 / median(times[name])),
            "quartiles": [rounded(1 / q) for q in np.percentile(times[name], [75, 25])],
            "encoder_over_this": rounded(median(times[name]) / ours),
            "l0": rounded(np.count_nonzero(codes[name]) / len(few)),
            "fvu": rounded(fraction_of_variance_unexplained(few, codes[name] @ dictionary + bias)),
        }
        for name, (_, dictionary, _) in methods.items()
    }
    support = codes["k-sparse encoder"] != 0
    return {
        "methods": rows,
        "support_with_least_squares_fvu": rounded(
            fraction_of_variance_unexplained(few, _least_squares(few - bias, support, weight) + bias)
        ),
        "dictionary_learned_from": learned_from,
        "floor_images_per_s": rounded(median(peak) / (2 * weight.size)),
        "rounds": _ROUNDS,
        "task": {"inputs": x.shape[1], "units": UNITS, "k": k, "sparse_coded": len(few)},
        "hardware": hardware() | {"threads": 1, "sgemm_gflop_per_s": rounded(median(peak) / 1e9)},
    }


def _coder(dictionary: np.ndarray, bias: np.ndarray, **settings: Any) -> Encode:
    coder = SparseCoder(dictionary, **settings)
    return lambda images: coder.transform(images - bias)


def _penalty(atoms: np.ndarray, x: np.ndarray, k: int) -> float:
    """The lasso's penalty at which a code has k atoms on average."""
    low, high = 0.0, float(np.abs(x @ atoms.T).max())
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        coder = SparseCoder(atoms, transform_algorithm="lasso_lars", transform_alpha=middle)
        if np.count_nonzero(coder.transform(x)) / len(x) > k:
            low = middle
        else:
            high = middle
    return high


def _learn(x: np.ndarray, seconds: float) -> tuple[np.ndarray, int]:
    """Atoms learned from as many images as the time allows, and how many that were."""
    learner = MiniBatchDictionaryLearning(UNITS, batch_size=_DICTIONARY_BATCH, fit_algorithm="cd", random_state=0)
    started, seen = time.perf_counter(), 0
    while seen == 0 or time.perf_counter() - started < seconds:
        begin = seen % (len(x) - _DICTIONARY_BATCH + 1)
        # The first call needs one image for each atom.
        batch = x[begin : begin + (_DICTIONARY_BATCH if seen else UNITS)]
        learner.partial_fit(batch)
        seen += len(batch)
    return learner.components_, seen


def _least_squares(x: np.ndarray, support: np.ndarray, atoms: np.ndarray) -> np.ndarray:
    """Reconstructions by the best values on given supports."""
    made = np.empty_like(x)
    for row, kept, out in zip(x, support, made, strict=True):
        values, *_ = np.linalg.lstsq(atoms[kept].T, row, rcond=None)
        out[:] = values @ atoms[kept]
    return made


def table(results: dict[str, Any]) -> str:
    """Lay the results out as aligned text."""
    task, machine = results["task"], results["hardware"]
    lines = [
        f"Images encoded per second on one core ({task['inputs']} pixels, {task['units']} atoms, k = {task['k']}), "
        f"median of {results['rounds']} rounds",
        "",
        f"{'':30}{'images/s':>12}{'encoder / this':>16}{'L0':>8}{'FVU':>8}",
    ]
    for name, row in results["methods"].items():
        lines.append(
            f"{name:30}{row['images_per_s']:>12,.0f}{row['encoder_over_this']:>16,.0f}{row['l0']:>8.1f}{row['fvu']:>8.3f}"
        )
    lines += [
        f"{'floor: product of all pixels':30}{results['floor_images_per_s']:>12,.0f}",
        f"The encoder's support with least-squares values: FVU {results['support_with_least_squares_fvu']:.3f}.",
        f"Dictionary learned from {results['dictionary_learned_from']:,} images. Machine: {machine['cpu']}, product at "
        f"{machine['sgemm_gflop_per_s']} GFLOP/s.",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.encoding",
        description="Images encoded per second by a k-sparse autoencoder and by sparse coding, on one core.",
    )
    parser.add_argument("--k", type=int, default=25, help="atoms of a code (default: 25)")
    parser.add_argument("--epochs", type=int, default=40, help="of the autoencoder (default: 40)")
    parser.add_argument("--seconds", type=float, default=60.0, help="for learning the dictionary (default: 60)")
    output_options(parser)
    options = parser.parse_args(arguments)
    if not 1 <= options.k <= UNITS or options.epochs < 1:
        parser.error(f"--k must be from 1 to {UNITS} and --epochs at least 1.")
    data = load_mnist()
    present(benchmark(data.train_x, data.test_x, options.k, options.epochs, options.seconds), table, options)


if __name__ == "__main__":
    main()
