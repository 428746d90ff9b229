"""Codes of many examples on a processor, by the kernels of the cpu engine and without a dense code (section 2.2)."""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse

from ksae_lib.engines import kernels
from ksae_lib.engines.cpu import SparseInputs, mostly_zero
from ksae_lib.model import KSparseAutoencoder


@torch.no_grad()
def encode(model: KSparseAutoencoder, x: np.ndarray, k: int) -> sparse.csr_array:
    """The k largest pre-activations of each example, as ``KSparseAutoencoder.code`` computes them but for rounding.

    Where most inputs are zero the product leaves them out and sums in another order: of pre-activations that nearly
    tie another one can be kept.

    Args:
        model: encoder.
        x: examples (shape: [examples, inputs]), finite, of the model's dtype; their pre-activations must fit in memory.
        k: units kept.

    Returns:
        Codes (shape: [examples, units]).

    Raises:
        ValueError: wrong shape or non-finite values.
        TypeError: wrong dtype.
    """
    examples = torch.from_numpy(x)
    model.check_input(examples)
    if not mostly_zero(x):
        return keep_largest(model, model.pre_activation(examples), k)
    inputs, weight = SparseInputs(x), model.weight.detach().numpy()
    z = torch.empty(len(x), model.units, dtype=model.weight.dtype)
    with kernels.ONE_CALLER:
        kernels.encode_sparse(
            inputs.starts, inputs.pixels, inputs.values, np.arange(len(x)),
            weight, model.bias.detach().numpy(), kernels.columns_for(weight), z.numpy(),
        )  # fmt: skip
    return keep_largest(model, z, k)


def keep_largest(model: KSparseAutoencoder, z: torch.Tensor, k: int) -> sparse.csr_array:
    """What ``KSparseAutoencoder.keep`` keeps of pre-activations z, exactly (shape: [examples, units])."""
    support = np.empty((len(z), k), np.int32)
    code = np.empty((len(z), k), z.numpy().dtype)
    with kernels.ONE_CALLER:
        kernels.keep(z.numpy(), k, model.activation == "relu", support, code)
    starts = np.arange(len(z) + 1) * k
    codes = sparse.csr_array((code.ravel(), support.ravel(), starts), shape=(len(z), model.units))
    codes.eliminate_zeros()
    return codes
