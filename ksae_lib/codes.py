"""The way from examples to codes (section 2.2), on a processor and selected by the kernels of the cpu engine.

Threads are Python's, as many as torch uses, each in kernels of its own: unlike training, coding waits for no other
thread and works in forked processes.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from ksae_lib.engines import kernels
from ksae_lib.engines.cpu import mostly_zero, sparse_inputs
from ksae_lib.model import CodeMode, KSparseAutoencoder
from ksae_lib.selection import K_LARGEST, check_k

# Measured at MNIST's sizes: for fewer examples, transposing the dictionary costs more than leaving out zeros saves.
_SPARSE_FROM = 50
_BLOCK = 1_000


@torch.no_grad()
def codes(
    model: KSparseAutoencoder,
    x: np.ndarray,
    mode: CodeMode | str = CodeMode.ALPHA_K,
    alphas: Sequence[float] = (1.0,),
    *,
    exact: bool = True,
) -> tuple[sparse.csr_array | np.ndarray, ...]:
    """Codes of examples for each α, block by block; ``exact`` ones of one product with the dictionary.

    Args:
        model: encoder, on the processor.
        x: examples (shape: [examples, inputs]), finite, of the model's dtype.
        mode: which pre-activations are kept, see ``CodeMode``.
        alphas: the paper's α, used by ``alpha_k`` only.
        exact: codes are those of ``KSparseAutoencoder.encode`` to the bit. If not, the product leaves out inputs that
            are zero where most are, a third of the time at MNIST's sizes, and sums in another order: of pre-activations
            that tie but for rounding, another may be kept.

    Returns:
        For each α codes (shape: [examples, units]): CSR in the modes ``k`` and ``alpha_k``, else arrays.

    Raises:
        ValueError: wrong shape, non-finite values, αk > units, unknown mode, or ``threshold`` before
            ``calibrate_threshold``.
        TypeError: wrong dtype.
    """
    mode = CodeMode(mode)
    # Of nearly equal size, since a product of a few rows can sum in another order than one of many.
    rows = _BLOCK if exact else 5 * _BLOCK
    edges = np.linspace(0, len(x), max(1, math.ceil(len(x) / rows)) + 1).astype(int)
    blocks = [x[first:last] for first, last in pairwise(edges)]
    if mode not in (CodeMode.K, CodeMode.ALPHA_K):
        return (np.concatenate([model.encode(_examples(block), mode).numpy() for block in blocks]),) * len(alphas)
    ks = [model.k if mode is CodeMode.K else model.alpha_k(alpha) for alpha in alphas]
    made = []
    for block in blocks:
        examples = _examples(block)
        model.check_input(examples)
        if exact or len(block) < _SPARSE_FROM or model.selection not in K_LARGEST or not mostly_zero(block):
            z = model.pre_activation(examples)
            made.append([keep_largest(model, z, k) for k in ks])
        else:
            made.append([_code_without_zeros(model, examples, k) for k in ks])
    return tuple(sparse.csr_array(sparse.vstack(of_alpha)) for of_alpha in zip(*made, strict=True))


def _code_without_zeros(model: KSparseAutoencoder, x: Tensor, k: int) -> sparse.csr_array:
    """Codes by a product that leaves zero inputs out, a part of the examples in each thread."""
    inputs, tiles = sparse_inputs(x.numpy()), kernels.tiles_of(model.weight.detach().numpy())
    bias = torch.zeros(kernels.padded(model.units, kernels.LANES), dtype=model.bias.dtype)
    bias[: model.units] = model.bias.detach()
    how, order = (tiles, bias.numpy(), model.units, model.activation == "relu"), np.arange(len(x))
    return _in_threads(lambda rows, *kept: kernels.code_rows(*inputs, order[rows], *how, *kept), len(x), k, model)


def keep_largest(model: KSparseAutoencoder, z: Tensor, k: int) -> sparse.csr_array:
    """What ``KSparseAutoencoder.keep`` keeps of finite pre-activations; rows with others have codes of NaN.

    Args:
        model: its number of units and activation are used.
        z: pre-activations (shape: [examples, units]), on the processor and without gradient. A selection rule that
            looks at a batch takes them for one.
        k: units kept; a ``ValueError`` if it is out of range.
    """
    if model.selection not in K_LARGEST:
        return sparse.csr_array(model.keep(z, k).numpy())
    relu, values = model.activation == "relu", z.numpy()
    return _in_threads(lambda rows, *kept: kernels.keep_rows(values[rows], relu, *kept), len(z), k, model)


def _examples(x: np.ndarray) -> Tensor:
    # Torch warns of arrays that cannot be written to.
    return torch.from_numpy(np.require(x, requirements=["C", "W"]))


def _in_threads(
    work: Callable[[slice, np.ndarray, np.ndarray], None], examples: int, k: int, model: KSparseAutoencoder
) -> sparse.csr_array:
    """Codes whose supports and values the work writes, for a part of the examples in each thread."""
    k = check_k(k, model.units)
    support, code = np.empty((examples, k), np.int32), np.empty((examples, k), model.weight.detach().numpy().dtype)
    threads = torch.get_num_threads() if examples >= _SPARSE_FROM else 1
    edges = np.linspace(0, examples, threads + 1).astype(int)
    parts = [(rows, support[rows], code[rows]) for rows in map(slice, edges, edges[1:])]
    if threads == 1:
        work(*parts[0])
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, *zip(*parts, strict=True)))
    # 32 bits where they fit, as those who read the codes want them.
    starts = np.arange(examples + 1, dtype=np.int32 if code.size < 2**31 else np.int64) * k
    made = sparse.csr_array((code.ravel(), support.ravel(), starts), shape=(examples, model.units))
    made.eliminate_zeros()
    return made
