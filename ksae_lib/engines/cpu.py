"""The fast engine for processors: sparse kernels around one dense product."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numba
import numpy as np
import torch

from ksae_lib.engines import kernels
from ksae_lib.engines.base import Engine, EpochResult
from ksae_lib.model import KSparseAutoencoder

SupportDtype = Literal["float32", "bfloat16"]
# Measured on MNIST-sized batches: below this share of non-zero inputs the sparse product is the faster one.
_SPARSE_BELOW = 0.3


class CpuEngine(Engine):
    """Same training as the reference engine, with work proportional to the kept units.

    Only the encode product is dense, and for inputs that are mostly zero (MNIST: 81%) not even that.

    Args:
        support_dtype: ``bfloat16`` finds the support from a bfloat16 product and then computes the kept
            values in full precision: faster on dense inputs, and the support can differ where values nearly tie.
    """

    name = "cpu"

    def __init__(
        self,
        models: Sequence[KSparseAutoencoder],
        x: np.ndarray,
        batch_size: int,
        support_dtype: SupportDtype = "float32",
    ) -> None:
        super().__init__(models, x, batch_size)
        (model,) = self.models
        self._bfloat16 = support_dtype == "bfloat16"
        dtype = model.weight.dtype
        inputs, units = model.inputs, model.units
        self._relu = model.activation == "relu"
        self._arrays = {name: p.numpy() for name, p in self.parameters.items()}
        self._velocities = {name: v.numpy() for name, v in self.velocity.items()}
        self._z = torch.empty(batch_size, units, dtype=dtype)
        self._residual = torch.empty(batch_size, inputs, dtype=dtype).numpy()
        self._error = np.empty(batch_size, self._residual.dtype)
        self._first = np.empty(units + 1, np.int32)
        self._sparse = SparseInputs(self.x) if not self._bfloat16 and mostly_zero(self.x) else None
        if self._sparse is not None:
            self._columns = kernels.columns_for(self._arrays["weight"], numba.config.NUMBA_NUM_THREADS)

    def run_epoch(
        self, orders: np.ndarray, ks: Sequence[int], rates: Sequence[float], momentum: float
    ) -> list[EpochResult]:
        """Train one epoch through the kernels; concurrent callers take turns, the kernels' threads are shared."""
        (order,), (k,), (rate,) = orders, ks, rates
        with kernels.ONE_CALLER:
            loss, uses = self._run_epoch(order, k, rate, momentum)
        return [EpochResult(loss, uses, self._finite())]

    def _run_epoch(self, order: np.ndarray, k: int, rate: float, momentum: float) -> tuple[float, np.ndarray]:
        weight, bias, visible_bias = (self._arrays[n] for n in ("weight", "bias", "visible_bias"))
        velocities = [self._velocities[n] for n in ("weight", "bias", "visible_bias")]
        scalar = weight.dtype.type
        support = np.empty((self.batch_size, k), np.int32)
        code = np.empty((self.batch_size, k), weight.dtype)
        code_grad = np.empty_like(code)
        pairs = np.empty(self.batch_size * k, np.int32)
        uses = np.zeros(len(bias), np.int64)
        total = 0.0
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            n = len(rows)
            z = self._encode(rows)
            kept, error = support[:n], self._error[:n]
            kernels.forward_backward(
                self.x, rows, weight, bias, visible_bias, z, k, self._relu, self._bfloat16,
                kept, code, self._residual, code_grad, error,
            )  # fmt: skip
            kernels.group_by_unit(kept, k, self._first, pairs)
            kernels.update(
                self.x, rows, self._first, pairs, k, code, code_grad, self._residual,
                weight, bias, visible_bias, *velocities, scalar(rate), scalar(momentum), uses,
            )  # fmt: skip
            total += float(error.sum(dtype=np.float64))
        return total / len(order), uses

    def _encode(self, rows: np.ndarray) -> np.ndarray:
        z = self._z[: len(rows)]
        if self._sparse is not None:
            s = self._sparse
            kernels.encode_sparse(
                s.starts, s.pixels, s.values, rows,
                self._arrays["weight"], self._arrays["bias"], self._columns, z.numpy(),
            )  # fmt: skip
            return z.numpy()
        x, weight, bias = torch.from_numpy(self.x[rows]), self.parameters["weight"], self.parameters["bias"]
        if self._bfloat16:
            z.copy_(x.bfloat16() @ weight.bfloat16().T)
            z += bias
        else:
            torch.addmm(bias, x, weight.T, out=z)
        return z.numpy()


def mostly_zero(x: np.ndarray) -> bool:
    """Whether sparse products pay for these examples (shape: [examples, inputs]), judged by a thousand of them."""
    sample = x[:: max(1, len(x) // 1000)]
    return bool(np.count_nonzero(sample) <= _SPARSE_BELOW * sample.size)


class SparseInputs:
    """Non-zero entries of the rows of ``x`` (CSR), each row filled up with zeros to whole groups of ``PIXEL_GROUP``."""

    def __init__(self, x: np.ndarray) -> None:
        group = kernels.PIXEL_GROUP
        self.starts = np.zeros(len(x) + 1, np.int64)
        np.cumsum((np.count_nonzero(x, axis=1) + group - 1) // group * group, out=self.starts[1:])
        self.pixels = np.zeros(self.starts[-1], np.uint32)
        self.values = np.zeros(self.starts[-1], x.dtype)
        kernels.list_nonzero(x, self.starts, self.pixels, self.values)
