"""Numba kernels of the cpu engine: one training step whose only dense work is the encode product.

Every array element is written by one thread alone (an example's row, a unit's row or a block of units)
and sums run in a fixed order, so a result does not depend on the number of threads. The kernels take
float32 or float64; float64 serves the gradient tests.
"""

from __future__ import annotations

import os
import threading
from types import FunctionType

import numba as nb
import numpy as np
import torch

# NaN and infinity keep their meaning: divergence shows as a loss that is not finite.
_FAST = {"reassoc", "contract", "nsz", "arcp"}
UNIT_BLOCK = 256
PIXEL_GROUP = 8
_TILE = 16
_UNITS_PER_TASK = 16
# The threads of numba's parallel loops are shared: without this lock, calls from two Python threads can crash.
ONE_CALLER = threading.Lock()


@nb.njit(fastmath=_FAST)
def _dot(a, b):
    total = a[0] * b[0]
    for i in range(1, a.size):
        total += a[i] * b[i]
    return total


@nb.njit(fastmath=_FAST)
def _zero_or_nan(z):
    total = z[0] * 0
    for i in range(z.size):
        total += z[i] * 0
    return total


# Without fast-math, which would turn low / 2 + high / 2 into a sum that overflows.
@nb.njit(fastmath=False)
def select(z, k, support):
    """Write the indices of the k largest values of ``z`` to ``support``, ascending; of equal values the first.

    The threshold is found by bisection (paper, sections 2.2 and 4.2.3). Invariant: at least k values
    are >= low and fewer than k are > high, so when no number lies between them the cut is at high or low.
    """
    low = z[0]
    high = z[0]
    for i in range(z.size):
        low = min(low, z[i])
        high = max(high, z[i])
    cut = low
    above = np.int32(0)
    while True:
        middle = low / 2 + high / 2
        if not (low < middle < high):
            at_least_high = np.int32(0)
            for i in range(z.size):
                at_least_high += np.int32(z[i] >= high)
            cut = high if at_least_high >= k else low
            above = np.int32(0)
            for i in range(z.size):
                above += np.int32(z[i] > cut)
            break
        above = np.int32(0)
        for i in range(z.size):
            above += np.int32(z[i] > middle)
        if above == k:
            cut = middle
            break
        if above > k:
            low = middle
        else:
            high = middle
    room_at_cut = k - above
    kept = 0
    for i in range(z.size):
        take = z[i] > cut
        if not take and room_at_cut > 0 and z[i] == cut:
            room_at_cut -= 1
            take = True
        if take and kept < k:
            support[kept] = i
            kept += 1
    # Only a row with NaN leaves places: fill them with a valid index, the loss tells.
    for place in range(kept, k):
        support[place] = z.size - 1


@nb.njit(cache=True)
def list_nonzero(x, starts, pixels, values):
    """Write the non-zero entries of row e and their places from ``starts[e]`` on."""
    for e in range(x.shape[0]):
        q = starts[e]
        for p in range(x.shape[1]):
            if x[e, p] != 0:
                pixels[q] = p
                values[q] = x[e, p]
                q += 1


def columns_for(weight: np.ndarray, threads: int) -> np.ndarray:
    """Workspace of ``encode_sparse`` and ``encode_rows`` for these weights (shape: [threads, inputs, UNIT_BLOCK])."""
    # Torch's memory begins at a cache line, NumPy's need not: that costs a tenth of the product's time.
    dtype = torch.from_numpy(weight).dtype
    return torch.empty(threads, weight.shape[1], UNIT_BLOCK, dtype=dtype).numpy()


@nb.njit(parallel=True, fastmath=_FAST, cache=True)
def encode_sparse(starts, pixels, values, rows, weight, bias, columns, z):
    """``z = W^T x + b`` for inputs given by their non-zero entries, a product with a fifth of the work on MNIST.

    Args:
        starts, pixels, values: the inputs in CSR form, each row padded with zeros to whole groups of 8.
        rows: the batch (shape: [batch]).
        weight: shape [units, inputs].
        columns: workspace, of ``columns_for``.
        z: result (shape: [batch, units]).
    """
    for block in nb.prange((z.shape[1] + UNIT_BLOCK - 1) // UNIT_BLOCK):
        _encode_block(starts, pixels, values, rows, weight, bias, block, columns[nb.get_thread_id()], z)


@nb.njit(fastmath=_FAST, nogil=True, cache=True)
def encode_rows(starts, pixels, values, rows, weight, bias, column, z):
    """``encode_sparse`` in the calling thread alone."""
    for block in range((z.shape[1] + UNIT_BLOCK - 1) // UNIT_BLOCK):
        _encode_block(starts, pixels, values, rows, weight, bias, block, column, z)


@nb.njit(fastmath=_FAST)
def _encode_block(starts, pixels, values, rows, weight, bias, block, column, z):
    units, inputs = weight.shape
    first = block * UNIT_BLOCK
    width = min(UNIT_BLOCK, units - first)
    # Transposed, so that an input's weights to neighbouring units are contiguous.
    tiled = inputs - inputs % _TILE
    for p0 in range(0, tiled, _TILE):
        for u in range(width):
            w = weight[first + u]
            for p in range(p0, p0 + _TILE):
                column[p, u] = w[p]
    for p in range(tiled, inputs):
        for u in range(width):
            column[p, u] = weight[first + u, p]
    for e in range(rows.size):
        out = z[e, first : first + width]
        for u in range(width):
            out[u] = bias[first + u]
        for q in range(starts[rows[e]], starts[rows[e] + 1], PIXEL_GROUP):
            x0, x1, x2, x3 = values[q], values[q + 1], values[q + 2], values[q + 3]
            x4, x5, x6, x7 = values[q + 4], values[q + 5], values[q + 6], values[q + 7]
            c0, c1 = column[pixels[q]], column[pixels[q + 1]]
            c2, c3 = column[pixels[q + 2]], column[pixels[q + 3]]
            c4, c5 = column[pixels[q + 4]], column[pixels[q + 5]]
            c6, c7 = column[pixels[q + 6]], column[pixels[q + 7]]
            for u in range(width):
                out[u] += ((x0 * c0[u] + x1 * c1[u]) + (x2 * c2[u] + x3 * c3[u])) + (
                    (x4 * c4[u] + x5 * c5[u]) + (x6 * c6[u] + x7 * c7[u])
                )


@nb.njit(parallel=True, fastmath=_FAST, cache=True)
def forward_backward(
    x, rows, weight, bias, visible_bias, z, k, relu, recompute, support, code, residual, code_grad, error
):
    """Support, code, reconstruction and their gradients, one example at a time while its k rows are in cache.

    Args:
        z: pre-activations (shape: [batch, units]).
        recompute: take the kept values from exact dot products, not from ``z``.
        support, code: kept units and their values (shape: [batch, k]).
        residual: dE/dx̂ = 2 (x̂ - x) / batch (shape: [batch, inputs]).
        code_grad: dE/dz of the kept units (shape: [batch, k]).
        error: ‖x - x̂‖² of each example (shape: [batch]).
    """
    inputs = weight.shape[1]
    scale = z.dtype.type(2) / z.dtype.type(rows.size)
    for e in nb.prange(rows.size):
        xe = x[rows[e]]
        kept = support[e]
        r = residual[e]
        select(z[e], k, kept)
        for j in range(k):
            c = z[e, kept[j]]
            if recompute:
                c = bias[kept[j]] + _dot(weight[kept[j]], xe)
            if relu and c < 0:
                c = c * 0
            code[e, j] = c
        for i in range(inputs):
            r[i] = visible_bias[i] - xe[i]
        whole = k - k % 4
        for j in range(0, whole, 4):
            c0, c1, c2, c3 = code[e, j], code[e, j + 1], code[e, j + 2], code[e, j + 3]
            w0, w1 = weight[kept[j]], weight[kept[j + 1]]
            w2, w3 = weight[kept[j + 2]], weight[kept[j + 3]]
            for i in range(inputs):
                r[i] += (c0 * w0[i] + c1 * w1[i]) + (c2 * w2[i] + c3 * w3[i])
        for j in range(whole, k):
            c0, w0 = code[e, j], weight[kept[j]]
            for i in range(inputs):
                r[i] += c0 * w0[i]
        # A unit of NaN is never kept, so the residual alone would not show it.
        error[e] = _dot(r, r) + _zero_or_nan(z[e])
        for i in range(inputs):
            r[i] *= scale
        for j in range(k):
            if relu and not code[e, j] > 0:
                code_grad[e, j] = 0
            else:
                code_grad[e, j] = _dot(weight[kept[j]], r)


@nb.njit(cache=True)
def group_by_unit(support, k, first, pairs):
    """Counting sort of the pairs (example, kept place) by unit.

    ``pairs[first[u]:first[u + 1]]`` lists unit u's pairs as ``example * k + place``, examples ascending.
    """
    units = first.size - 1
    batch = support.shape[0]
    first[:] = 0
    for e in range(batch):
        for j in range(k):
            first[support[e, j]] += 1
    for u in range(1, units + 1):
        first[u] += first[u - 1]
    for pair in range(batch * k - 1, -1, -1):
        unit = support[pair // k, pair % k]
        first[unit] -= 1
        pairs[first[unit]] = pair


@nb.njit(parallel=True, fastmath=_FAST, cache=True)
def update(
    x, rows, first, pairs, k, code, code_grad, residual, weight, bias, visible_bias,
    weight_velocity, bias_velocity, visible_velocity, rate, momentum, uses,
):  # fmt: skip
    """V ← m v - η ∇E and parameter ← parameter + v, unit by unit with no gradient of W in memory (section 4.2.2).

    A unit's gradient is Σ over its pairs of code · residual (decoder path) + code_grad · x (encoder path).
    ``uses`` counts how often each unit had a code that is not zero.
    """
    units, inputs = weight.shape
    for task in nb.prange((units + _UNITS_PER_TASK - 1) // _UNITS_PER_TASK):
        gradient = np.empty(inputs, weight.dtype)
        for u in range(task * _UNITS_PER_TASK, min((task + 1) * _UNITS_PER_TASK, units)):
            w, v = weight[u], weight_velocity[u]
            bias_gradient = bias[u] * 0
            if first[u] == first[u + 1]:
                for i in range(inputs):
                    v[i] = momentum * v[i]
                    w[i] += v[i]
            else:
                for i in range(inputs):
                    gradient[i] = 0
                for q in range(first[u], first[u + 1]):
                    e = pairs[q] // k
                    j = pairs[q] - e * k
                    c, d = code[e, j], code_grad[e, j]
                    r, xe = residual[e], x[rows[e]]
                    bias_gradient += d
                    uses[u] += c != 0
                    for i in range(inputs):
                        gradient[i] += c * r[i] + d * xe[i]
                for i in range(inputs):
                    v[i] = momentum * v[i] - rate * gradient[i]
                    w[i] += v[i]
            bias_velocity[u] = momentum * bias_velocity[u] - rate * bias_gradient
            bias[u] += bias_velocity[u]
    visible_gradient = np.zeros(inputs, weight.dtype)
    for e in range(rows.size):
        r = residual[e]
        for i in range(inputs):
            visible_gradient[i] += r[i]
    for i in range(inputs):
        visible_velocity[i] = momentum * visible_velocity[i] - rate * visible_gradient[i]
        visible_bias[i] += visible_velocity[i]


@nb.njit(nogil=True, cache=True)
def keep_rows(z, k, relu, support, code):
    """Indices and values of the k largest of each row of ``z``, in the calling thread alone."""
    for e in range(z.shape[0]):
        select(z[e], k, support[e])
        # A row that is not finite has a support all the same: its code must tell.
        nothing = _zero_or_nan(z[e])
        for j in range(k):
            c = z[e, support[e, j]]
            if relu and c < 0:
                c = c * 0
            code[e, j] = c + nothing


def _work_alone() -> None:
    """Do without the threads of torch and numba: a forked process lacks them, and hangs or dies where it uses them."""
    global ONE_CALLER
    ONE_CALLER = threading.Lock()
    torch.set_num_threads(1)
    for name, kernel in list(globals().items()):
        options = getattr(kernel, "targetoptions", {})
        if options.get("parallel"):
            alone = FunctionType(kernel.py_func.__code__, globals(), name)
            # Numba's cache tells kernels apart by this name, not by their options.
            alone.__qualname__ = f"{name}_alone"
            globals()[name] = nb.njit(fastmath=options["fastmath"], cache=True)(alone)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_work_alone)
