"""Codes of many examples on a processor, selected by the kernels of the cpu engine (section 2.2).

Threads are Python's, as many as torch uses, each in kernels of its own: unlike training, coding waits for no other
thread and works in forked processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from ksae_lib.engines import kernels
from ksae_lib.engines.cpu import SparseInputs, mostly_zero
from ksae_lib.model import KSparseAutoencoder
from ksae_lib.selection import check_k

# Measured at MNIST's sizes: for fewer examples, transposing the dictionary costs more than leaving out zeros saves.
_SPARSE_FROM = 50


@torch.no_grad()
def encode(model: KSparseAutoencoder, x: np.ndarray, k: int) -> sparse.csr_array:
    """The k largest pre-activations of each example, as ``KSparseAutoencoder.code`` computes them but for rounding.

    Where most inputs are zero the product leaves them out and sums in another order: of pre-activations that tie but
    for rounding, another may be kept.

    Args:
        model: encoder, on the processor.
        x: examples (shape: [examples, inputs]), finite, of the model's dtype; their pre-activations must fit in memory.
        k: units kept.

    Returns:
        Codes (shape: [examples, units]).

    Raises:
        ValueError: wrong shape, non-finite values, or k out of range.
        TypeError: wrong dtype.
    """
    if len(x) < _SPARSE_FROM or not mostly_zero(x):
        return exact_codes(model, x, (k,))[0]
    _check(model, x)
    inputs, weight, bias = SparseInputs(x), model.weight.detach().numpy(), model.bias.detach().numpy()
    z = torch.empty(len(x), model.units, dtype=model.weight.dtype)

    def product(rows: slice) -> None:
        kernels.encode_rows(
            inputs.starts, inputs.pixels, inputs.values, np.arange(len(x))[rows],
            weight, bias, kernels.columns_for(weight, 1)[0], z.numpy()[rows],
        )  # fmt: skip

    _in_threads(product, len(x))
    return keep_largest(model, z, k)


@torch.no_grad()
def exact_codes(model: KSparseAutoencoder, x: np.ndarray, ks: Sequence[int]) -> tuple[sparse.csr_array, ...]:
    """What ``KSparseAutoencoder.code`` gives for each k, to the bit, of one product; arguments as in ``encode``."""
    z = model.pre_activation(_check(model, x))
    return tuple(keep_largest(model, z, k) for k in ks)


def keep_largest(model: KSparseAutoencoder, z: Tensor, k: int) -> sparse.csr_array:
    """What ``KSparseAutoencoder.keep`` keeps of finite pre-activations; rows with others have codes of NaN.

    Args:
        model: its number of units and activation are used.
        z: pre-activations (shape: [examples, units]), on the processor and without gradient.
        k: units kept.

    Raises:
        ValueError: k out of range.
    """
    k = check_k(k, model.units)
    support = np.empty((len(z), k), np.int32)
    code = np.empty((len(z), k), z.numpy().dtype)

    def keep(rows: slice) -> None:
        kernels.keep_rows(z.numpy()[rows], k, model.activation == "relu", support[rows], code[rows])

    _in_threads(keep, len(z))
    starts = np.arange(len(z) + 1) * k
    codes = sparse.csr_array((code.ravel(), support.ravel(), starts), shape=(len(z), model.units))
    codes.eliminate_zeros()
    return codes


def _check(model: KSparseAutoencoder, x: np.ndarray) -> Tensor:
    # Torch warns of arrays that cannot be written to.
    examples = torch.from_numpy(np.require(x, requirements="W"))
    model.check_input(examples)
    return examples


def _in_threads(work: Callable[[slice], None], examples: int) -> None:
    """Do the work of all examples, a part in each thread."""
    threads = torch.get_num_threads() if examples >= _SPARSE_FROM else 1
    edges = np.linspace(0, examples, threads + 1).astype(int)
    parts = [slice(first, last) for first, last in pairwise(edges)]
    if threads == 1:
        work(parts[0])
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, parts))
