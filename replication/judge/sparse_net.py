"""Fine-tuning of nets whose hidden layers are all k-sparse: work proportional to the kept units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
from torch import Tensor

from ksae_lib.engines import kernels
from ksae_lib.engines.cpu import SparseInputs
from replication.judge import net_kernels


class SparseNetEngine:
    """SGD with momentum on the mean cross-entropy, equal to autograd (section 4.5).

    Args:
        net: hidden ``layers`` with ``kept`` and ``unit``, and a ``softmax`` layer; trained in place.
        velocity: of each parameter of the net, in their order; kept up to date.
        x: examples (shape: [examples, inputs]).
        y: classes (shape: [examples]).
        batch_size: examples per update.
    """

    def __init__(self, net: Any, velocity: Sequence[Tensor], x: np.ndarray, y: np.ndarray, batch_size: int) -> None:
        self._inputs = SparseInputs(x)
        self._y = y
        self._batch_size = batch_size
        arrays = [v.numpy() for v in velocity]
        velocities = zip(arrays[0::2], arrays[1::2], strict=True)
        self._layers = [_SparseLayer(*pair, batch_size) for pair in zip(net.layers, velocities, strict=False)]
        self._softmax = [*(p.detach().numpy() for p in (net.softmax.weight, net.softmax.bias)), *arrays[-2:]]
        self._delta = np.empty((batch_size, len(self._softmax[1])), x.dtype)
        self._loss = np.empty(batch_size, x.dtype)

    def run_epoch(self, orders: np.ndarray, rate: float, momentum: float, fixed: int) -> list[float]:
        """One epoch of the one net, see ``AutogradEngine``; concurrent callers take turns."""
        with kernels.ONE_CALLER:
            total = 0.0
            for start in range(0, orders.shape[1], self._batch_size):
                total += self._step(orders[0, start : start + self._batch_size], rate, momentum, fixed)
        return [total / orders.shape[1]]

    def _step(self, rows: np.ndarray, rate: float, momentum: float, fixed: int) -> float:
        """Update on a batch; the sum of its cross-entropies."""
        n = len(rows)
        speed = self._loss.dtype.type(rate), self._loss.dtype.type(momentum)
        below: tuple[np.ndarray, ...] = (self._inputs.starts, self._inputs.pixels, self._inputs.values, rows)
        inputs = []
        for layer in self._layers:
            inputs.append(below)
            below = layer.forward(below)
        top, delta, loss = self._layers[-1], self._delta[:n], self._loss[:n]
        codes = top.support[:n], top.code[:n], top.kept
        net_kernels.softmax_forward_backward(
            *codes, top.relu, *self._softmax[:2], self._y[rows], delta, loss, top.code_grad
        )
        net_kernels.softmax_update(*codes, delta, *self._softmax, *speed)
        for number in reversed(range(fixed, len(self._layers))):
            layer, lower = self._layers[number], self._layers[number - 1]
            support = layer.support[:n]
            if number > fixed:
                net_kernels.code_gradient_below(
                    support, layer.code_grad, layer.kept, layer.weight,
                    lower.support, lower.code, lower.kept, lower.relu, lower.code_grad,
                )  # fmt: skip
            kernels.group_by_unit(support, layer.kept, layer.first, layer.pairs)
            net_kernels.update_encoder(
                *inputs[number], layer.first, layer.pairs, layer.kept, layer.code_grad,
                layer.weight, layer.bias, *layer.velocity, *speed,
            )  # fmt: skip
        return float(loss.sum(dtype=np.float64))


class _SparseLayer:
    """A k-sparse layer, its velocities and the codes of a batch in CSR form, rows filled up to whole groups."""

    def __init__(self, layer: Any, velocity: tuple[np.ndarray, np.ndarray], batch_size: int) -> None:
        self.kept: int = layer.kept
        self.relu = layer.unit == "relu"
        self.weight, self.bias = (p.detach().numpy() for p in (layer.weight, layer.bias))
        self.velocity = velocity
        units, dtype = len(self.weight), self.weight.dtype
        width = -(-self.kept // kernels.PIXEL_GROUP) * kernels.PIXEL_GROUP
        self.support = np.zeros((batch_size, width), np.int32)
        self.code = np.zeros((batch_size, width), dtype)
        self.code_grad = np.zeros((batch_size, self.kept), dtype)
        self.starts = np.arange(batch_size + 1) * width
        self._rows = np.arange(batch_size)
        self._z = np.empty((batch_size, units), dtype)
        self._columns = kernels.columns_for(self.weight, numba.config.NUMBA_NUM_THREADS)
        self.first = np.empty(units + 1, np.int32)
        self.pairs = np.empty(batch_size * self.kept, np.int32)

    def forward(self, inputs: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        """The batch's codes in CSR form, from its inputs in CSR form."""
        n = len(inputs[3])
        z = self._z[:n]
        kernels.encode_sparse(*inputs, self.weight, self.bias, self._columns, z)
        kernels.keep(z, self.kept, self.relu, self.support, self.code)
        return self.starts, self.support.reshape(-1).view(np.uint32), self.code.reshape(-1), self._rows[:n]
