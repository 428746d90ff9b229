"""Numba kernels that fine-tune k-sparse nets; as in ``ksae_lib.engines.kernels``, threads do not change results."""

from __future__ import annotations

import numba as nb
import numpy as np

_FAST = {"reassoc", "contract", "nsz", "arcp"}
_UNITS_PER_TASK = 16


@nb.njit(parallel=True, cache=True)
def softmax_forward_backward(support, code, k, relu, weight, bias, y, delta, loss, code_grad):
    """Cross-entropy of a softmax layer on sparse codes and its gradients.

    Args:
        support, code: kept units and their values (shape: [batch, at least k]).
        weight, bias: the layer (shapes: [classes, units], [classes]).
        y: classes (shape: [batch]).
        delta: dE/dlogits, of the batch's mean (shape: [batch, classes]).
        loss: cross-entropy of each example (shape: [batch]).
        code_grad: dE/dz of the kept units (shape: [batch, k]).
    """
    batch = support.shape[0]
    for e in nb.prange(batch):
        d = delta[e]
        for c in range(bias.size):
            total = bias[c]
            for j in range(k):
                total += weight[c, support[e, j]] * code[e, j]
            d[c] = total
        own, largest = d[y[e]], d.max()
        total = d[0] * 0
        for c in range(bias.size):
            d[c] = np.exp(d[c] - largest)
            total += d[c]
        loss[e] = np.log(total) + largest - own
        for c in range(bias.size):
            d[c] = (d[c] / total - d.dtype.type(c == y[e])) / d.dtype.type(batch)
        for j in range(k):
            total = d[0] * 0
            if not relu or code[e, j] > 0:
                for c in range(bias.size):
                    total += weight[c, support[e, j]] * d[c]
            code_grad[e, j] = total


@nb.njit(cache=True)
def softmax_update(support, code, k, delta, weight, bias, weight_velocity, bias_velocity, rate, momentum):
    """V ← m v - η ∇E and parameter ← parameter + v of the softmax layer."""
    for c in range(bias.size):
        gradient = np.zeros(weight.shape[1], weight.dtype)
        bias_gradient = bias[c] * 0
        for e in range(support.shape[0]):
            d = delta[e, c]
            bias_gradient += d
            for j in range(k):
                gradient[support[e, j]] += d * code[e, j]
        for u in range(gradient.size):
            weight_velocity[c, u] = momentum * weight_velocity[c, u] - rate * gradient[u]
            weight[c, u] += weight_velocity[c, u]
        bias_velocity[c] = momentum * bias_velocity[c] - rate * bias_gradient
        bias[c] += bias_velocity[c]


@nb.njit(parallel=True, cache=True)
def code_gradient_below(support, code_grad, k, weight, support_below, code_below, k_below, relu_below, code_grad_below):
    """dE/dz of the layer below's kept units, through the kept units of this layer alone.

    Args:
        support, code_grad: this layer's kept units (shape: [batch, at least k]) and their gradients.
        weight: this layer (shape: [units, units below]).
        support_below, code_below, code_grad_below: the layer below; the last is the result (shape: [batch, k_below]).
    """
    for e in nb.prange(support.shape[0]):
        grad = code_grad_below[e]
        grad[:] = 0
        for j in range(k):
            d, w = code_grad[e, j], weight[support[e, j]]
            for i in range(k_below):
                grad[i] += d * w[support_below[e, i]]
        if relu_below:
            for i in range(k_below):
                if not code_below[e, i] > 0:
                    grad[i] = 0


@nb.njit(parallel=True, fastmath=_FAST, cache=True)
def update_encoder(
    starts, pixels, values, rows, first, pairs, k, code_grad, weight, bias, velocity, bias_velocity, rate, momentum
):
    """V ← m v - η ∇E and parameter ← parameter + v of an encoder alone: no decoder path, inputs by non-zero entries.

    Arguments as in ``encode_sparse``, ``group_by_unit`` and ``update``.
    """
    units, inputs = weight.shape
    for task in nb.prange((units + _UNITS_PER_TASK - 1) // _UNITS_PER_TASK):
        gradient = np.empty(inputs, weight.dtype)
        for u in range(task * _UNITS_PER_TASK, min((task + 1) * _UNITS_PER_TASK, units)):
            w, v = weight[u], velocity[u]
            bias_gradient = bias[u] * 0
            for i in range(inputs):
                gradient[i] = 0
            for q in range(first[u], first[u + 1]):
                e = pairs[q] // k
                d = code_grad[e, pairs[q] - e * k]
                bias_gradient += d
                for p in range(starts[rows[e]], starts[rows[e] + 1]):
                    gradient[pixels[p]] += d * values[p]
            for i in range(inputs):
                v[i] = momentum * v[i] - rate * gradient[i]
                w[i] += v[i]
            bias_velocity[u] = momentum * bias_velocity[u] - rate * bias_gradient
            bias[u] += bias_velocity[u]
