"""Fine-tuning of nets whose hidden layers are all k-sparse: work proportional to the kept units."""

from __future__ import annotations

from collections.abc import Iterable

import numba
import numpy as np
from torch import nn

from ksae_lib.engines import kernels
from ksae_lib.engines.cpu import SparseInputs


class SparseNetEngine:
    """SGD with momentum on the mean cross-entropy, equal to autograd (section 4.5).

    Args:
        layers: hidden layers from the input upwards, with ``weight``, ``bias``, ``kept``, ``unit``; trained in place.
        softmax: the output layer; trained in place.
        x: examples (shape: [examples, inputs]).
        y: classes (shape: [examples]).
        batch_size: examples per update.
        fixed: so many of the lowest layers stay as they are.
    """

    def __init__(
        self,
        layers: Iterable[nn.Module],
        softmax: nn.Linear,
        x: np.ndarray,
        y: np.ndarray,
        batch_size: int,
        fixed: int = 0,
    ) -> None:
        self._inputs = SparseInputs(x)
        self._y = y
        self._batch_size = batch_size
        self._layers = [_SparseLayer(layer, batch_size, train=n >= fixed) for n, layer in enumerate(layers)]
        self._softmax = [p.detach().numpy() for p in (softmax.weight, softmax.bias)]
        self._softmax_velocity = [np.zeros_like(p) for p in self._softmax]
        self._delta = np.empty((batch_size, len(self._softmax[1])), x.dtype)
        self._loss = np.empty(batch_size, x.dtype)

    def run_epoch(self, order: np.ndarray, rate: float, momentum: float) -> float:
        """Mean cross-entropy of the examples in ``order``, each measured just before its batch's update."""
        with kernels.ONE_CALLER:
            return self._run_epoch(order, rate, momentum)

    def _run_epoch(self, order: np.ndarray, rate: float, momentum: float) -> float:
        total = 0.0
        scalar = self._loss.dtype.type
        speed = scalar(rate), scalar(momentum)
        for start in range(0, len(order), self._batch_size):
            rows = order[start : start + self._batch_size]
            n = len(rows)
            below: tuple[np.ndarray, ...] = (self._inputs.starts, self._inputs.pixels, self._inputs.values, rows)
            inputs = []
            for layer in self._layers:
                inputs.append(below)
                below = layer.forward(below)
            top = self._layers[-1]
            delta, loss = self._delta[:n], self._loss[:n]
            kernels.softmax_forward_backward(
                top.support[:n],
                top.code[:n],
                top.kept,
                top.relu,
                *self._softmax,
                self._y[rows],
                delta,
                loss,
                top.code_grad,
            )
            kernels.softmax_update(
                top.support[:n], top.code[:n], top.kept, delta, *self._softmax, *self._softmax_velocity, *speed
            )
            for number in reversed(range(len(self._layers))):
                layer = self._layers[number]
                if not layer.train:
                    break
                if number and self._layers[number - 1].train:
                    layer.backward(self._layers[number - 1], n)
                layer.update(inputs[number], n, *speed)
            total += float(loss.sum(dtype=np.float64))
        return total / len(order)


class _SparseLayer:
    """A k-sparse layer, its velocities and the codes of a batch in CSR form, rows filled up to whole groups."""

    def __init__(self, layer: nn.Module, batch_size: int, train: bool) -> None:
        assert isinstance(layer.kept, int)
        self.train = train
        self.kept = layer.kept
        self.relu = layer.unit == "relu"
        self.weight, self.bias = (p.detach().numpy() for p in (layer.weight, layer.bias))  # type: ignore[operator]
        self.velocity, self.bias_velocity = np.zeros_like(self.weight), np.zeros_like(self.bias)
        units = len(self.weight)
        dtype = self.weight.dtype
        width = -(-self.kept // kernels.PIXEL_GROUP) * kernels.PIXEL_GROUP
        self.support = np.zeros((batch_size, width), np.int32)
        self.code = np.zeros((batch_size, width), dtype)
        self.code_grad = np.zeros((batch_size, self.kept), dtype)
        self.starts = np.arange(batch_size + 1) * width
        self._rows = np.arange(batch_size)
        self._z = np.empty((batch_size, units), dtype)
        self._columns = kernels.columns_for(self.weight, numba.config.NUMBA_NUM_THREADS)
        self._first = np.empty(units + 1, np.int32)
        self._pairs = np.empty(batch_size * self.kept, np.int32)

    def forward(self, inputs: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        """The batch's codes in CSR form, from its inputs in CSR form."""
        n = len(inputs[3])
        z = self._z[:n]
        kernels.encode_sparse(*inputs, self.weight, self.bias, self._columns, z)
        kernels.keep(z, self.kept, self.relu, self.support, self.code)
        return self.starts, self.support.reshape(-1).view(np.uint32), self.code.reshape(-1), self._rows[:n]

    def backward(self, below: _SparseLayer, n: int) -> None:
        """Gradient of the kept codes of the layer below."""
        kernels.code_gradient_below(
            self.support[:n], self.code_grad, self.kept, self.weight, below.support, below.code, below.kept, below.relu,
            below.code_grad,
        )  # fmt: skip

    def update(self, inputs: tuple[np.ndarray, ...], n: int, rate: np.floating, momentum: np.floating) -> None:
        """Momentum step on weights and biases."""
        kernels.group_by_unit(self.support[:n], self.kept, self._first, self._pairs)
        kernels.update_encoder(
            *inputs, self._first, self._pairs, self.kept, self.code_grad,
            self.weight, self.bias, self.velocity, self.bias_velocity, rate, momentum,
        )  # fmt: skip
