"""Numba kernels of the cpu engine: one training step whose only dense work is the encode product.

Every array element is written by one thread alone and sums run in a fixed order, so a result does not depend on the
number of threads. The kernels take float32 or float64; float64 serves the gradient tests.

Where it pays, they work on vectors of ``LANES`` numbers, which LLVM maps to what the processor has. All of it is in one
file, since numba's cache looks at the file of a kernel alone.
"""

import os
import threading
from types import FunctionType
from typing import Any, NamedTuple

import numba as nb
import numpy as np
import torch
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, models, register_model

# NaN and infinity keep their meaning: divergence shows as a loss that is not finite.
_FAST = {"reassoc", "contract", "nsz", "arcp"}
LANES = 16
BLOCK = 2 * LANES
"""Inputs that a step's threads take at a time: residuals and examples of a batch then stay in the nearest cache."""
GROUP = 8
"""Non-zero inputs that are added up at a time, each in a sum of its own."""
_TINY = 1e-30
# Coded at a time: with more rows, their inputs would not stay in cache from tile to tile.
_ROWS = 256
# Relative, and larger than they can be: of adding a product up twice, of rounding it to bfloat16, of adding the bias.
_SUM_ERROR, _RESULT_ERROR, _BIAS_ERROR = 1.02 * 2.0**-23, np.float32(1.02 * 2.0**-8), np.float32(2.0**-22)
# The threads of numba's parallel loops are shared: without this lock, calls from two Python threads can crash.
ONE_CALLER = threading.Lock()


class Vector(types.Type):
    """Numba's type of ``LANES`` numbers."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        super().__init__(name=f"Vector({dtype})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        super().__init__(manager, kind, ir.VectorType(manager.lookup(kind.dtype).get_value_type(), LANES))


def _pointer(context, builder, kind, array, place):
    return builder.gep(context.make_array(kind)(context, builder, array).data, [place])


def _vector_pointer(context, builder, kind, array, place):
    pointer = _pointer(context, builder, kind, array, place)
    return builder.bitcast(pointer, ir.VectorType(pointer.type.pointee, LANES).as_pointer())


def _shuffled(builder, a, b, places):
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(places)), places))


def _spread(builder, value):
    """A vector of one number; a vector as it is."""
    if isinstance(value.type, ir.VectorType):
        return value
    nothing = ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined)
    one = builder.insert_element(nothing, value, ir.Constant(ir.IntType(32), 0))
    return _shuffled(builder, one, one, [0] * LANES)


@intrinsic
def at(_, array, place):
    """An entry of a flat array, without a look at the sign of its place."""

    def generate(context, builder, signature, arguments):
        value = builder.load(_pointer(context, builder, signature.args[0], *arguments))
        return context.cast(builder, value, array.dtype, signature.return_type)

    kind = types.intp if isinstance(array.dtype, types.Integer) else array.dtype
    return kind(array, types.intp), generate


@intrinsic
def load(_, array, place):
    """The vector that begins at a place of a flat array."""

    def generate(context, builder, signature, arguments):
        pointer = _vector_pointer(context, builder, signature.args[0], *arguments)
        return builder.load(pointer, align=array.dtype.bitwidth // 8)

    return Vector(array.dtype)(array, types.intp), generate


@intrinsic
def store(_, array, place, vector):
    """Write a vector to a place of a flat array."""

    def generate(context, builder, signature, arguments):
        pointer = _vector_pointer(context, builder, signature.args[0], *arguments[:2])
        builder.store(arguments[2], pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), generate


@intrinsic
def spread(_, number):
    """A vector of one number."""
    return Vector(number)(number), lambda context, builder, _, arguments: _spread(builder, *arguments)


@intrinsic
def plus(_, a, b):
    """The sum of two vectors."""
    return a(a, a), lambda context, builder, _, arguments: builder.fadd(*arguments)


@intrinsic
def minus(_, a, b):
    """The difference of two vectors."""
    return a(a, a), lambda context, builder, _, arguments: builder.fsub(*arguments)


@intrinsic
def fma(_, a, b, c):
    """``a b + c`` of vectors, or of a number and two vectors."""

    def generate(context, builder, signature, arguments):
        product = builder.fmul(_spread(builder, arguments[0]), arguments[1], flags=("contract",))
        return builder.fadd(product, arguments[2], flags=("contract",))

    return c(a, c, c), generate


@intrinsic
def total(_, vector):
    """The sum of a vector's entries."""

    def generate(context, builder, signature, arguments):
        (rest,), width = arguments, LANES
        while width > 1:
            width //= 2
            halves = (_shuffled(builder, rest, rest, list(range(first, first + width))) for first in (0, width))
            rest = builder.fadd(*halves)
        return builder.extract_element(rest, ir.Constant(ir.IntType(32), 0))

    return vector.dtype(vector), generate


@intrinsic
def transpose(_, source, first, step, target, place):
    """Write vector r, at ``first + r step`` of the source, to entries ``place + r + i LANES``."""

    def generate(context, builder, signature, arguments):
        origin, start, stride, goal, end = arguments
        of_source, of_target, bytes_ = signature.args[0], signature.args[3], source.dtype.bitwidth // 8
        rows = []
        for number in range(LANES):
            here = builder.add(start, builder.mul(stride, ir.Constant(stride.type, number)))
            rows.append(builder.load(_vector_pointer(context, builder, of_source, origin, here), align=bytes_))
        half = LANES // 2
        # Interleaving the two halves of the rows log2(LANES) times swaps rows and columns.
        ways = [[x for p in range(s, s + half) for x in (p, LANES + p)] for s in (0, half)]
        for _ in range(LANES.bit_length() - 1):
            pairs = zip(rows[:half], rows[half:], strict=True)
            rows = [_shuffled(builder, a, b, way) for a, b in pairs for way in ways]
        for number, row in enumerate(rows):
            here = builder.add(end, ir.Constant(end.type, number * LANES))
            builder.store(row, _vector_pointer(context, builder, of_target, goal, here), align=bytes_)
        return context.get_dummy_value()

    return types.void(source, types.intp, types.intp, target, types.intp), generate


def padded(size: Any, to: int) -> Any:
    """The next multiple, of one size or of an array of them."""
    return -(-size // to) * to


def tiles_of(weight: np.ndarray) -> np.ndarray:
    """Weights as ``encode`` reads them: of ``LANES`` neighbouring units all to one input, then to the next (flat).

    Shape: [units, inputs]; what fills the last tile and its last vectors is zero.
    """
    height, width = padded(weight.shape[0], LANES), padded(weight.shape[1], LANES)
    tiles, whole = torch.zeros(2, height * width, dtype=torch.from_numpy(weight).dtype).numpy()
    whole.reshape(height, width)[: weight.shape[0], : weight.shape[1]] = weight
    _fill_tiles(whole, width, tiles)
    return tiles


@nb.njit(nogil=True, cache=True)
def _fill_tiles(weight, width, tiles):
    for first in range(0, weight.size, LANES * width):
        for p in range(0, width, LANES):
            transpose(weight, first + p, width, tiles, first + p * LANES)


@nb.njit(cache=True)
def count_nonzero(x, counts):
    """How many entries of each row are not zero."""
    for e in range(x.shape[0]):
        for p in range(x.shape[1]):
            counts[e] += x[e, p] != 0


@nb.njit(cache=True)
def list_nonzero(x, starts, places, values):
    """Write the non-zero entries of row e and their inputs, times ``LANES``, from ``starts[e]`` on."""
    for e in range(x.shape[0]):
        q = starts[e]
        for p in range(x.shape[1]):
            # Without a branch: what follows overwrites a zero, or it fills the group up.
            places[q], values[q] = p * LANES, x[e, p]
            q += x[e, p] != 0


@nb.njit
def _encode_tile(starts, places, values, rows, tiles, first, bias, unit, z):
    """Pre-activations of one tile of units: sums stay in registers, and the tile in the nearest cache."""
    for e in range(rows.size):
        s0, s1 = load(bias, unit), spread(bias.dtype.type(0))
        s2, s3, s4, s5, s6, s7 = s1, s1, s1, s1, s1, s1
        for q in range(starts[rows[e]], starts[rows[e] + 1], GROUP):
            s0 = fma(at(values, q), load(tiles, first + at(places, q)), s0)
            s1 = fma(at(values, q + 1), load(tiles, first + at(places, q + 1)), s1)
            s2 = fma(at(values, q + 2), load(tiles, first + at(places, q + 2)), s2)
            s3 = fma(at(values, q + 3), load(tiles, first + at(places, q + 3)), s3)
            s4 = fma(at(values, q + 4), load(tiles, first + at(places, q + 4)), s4)
            s5 = fma(at(values, q + 5), load(tiles, first + at(places, q + 5)), s5)
            s6 = fma(at(values, q + 6), load(tiles, first + at(places, q + 6)), s6)
            s7 = fma(at(values, q + 7), load(tiles, first + at(places, q + 7)), s7)
        store(z, e * bias.size + unit, plus(plus(plus(s0, s1), plus(s2, s3)), plus(plus(s4, s5), plus(s6, s7))))


@nb.njit(parallel=True, cache=True)
def encode(starts, places, values, rows, tiles, bias, z):
    """``z = Wᵀx + b`` for inputs given by their non-zero entries, a product with a fifth of the work on MNIST.

    Args:
        starts, places, values: of ``SparseInputs``.
        rows: the batch (shape: [batch]).
        tiles: of ``tiles_of``.
        bias: filled up with zeros to whole tiles (shape: [height]).
        z: result (flat, shape: [batch, height]).
    """
    size = tiles.size // bias.size * LANES
    for tile in nb.prange(bias.size // LANES):
        _encode_tile(starts, places, values, rows, tiles, tile * size, bias, tile * LANES, z)


class SparseInputs(NamedTuple):
    """Non-zero entries of examples (CSR), each row filled up with zeros to whole groups."""

    starts: np.ndarray
    """Where each row begins, and where the last ends (shape: [examples + 1])."""
    places: np.ndarray
    """Inputs, times ``LANES``: where tiles have the weights to them."""
    values: np.ndarray


class Rounded(NamedTuple):
    """Rows rounded to bfloat16, and how far that moves them."""

    bits: np.ndarray
    """The upper halves of the rounded numbers (int16, shape: [rows, width])."""
    norm: np.ndarray
    """Of each row before rounding."""
    slip: np.ndarray
    """Norm of what rounding adds."""


def new_rounded(rows: int, width: int) -> Rounded:
    """Room for so many rows."""
    norms = torch.zeros(2, rows).numpy()
    return Rounded(torch.zeros(rows, width, dtype=torch.int16).numpy(), *norms)


@nb.njit(parallel=True, cache=True)
def round_rows(rows, rounded):
    """Round rows of float32, given as their bits (uint32, shape: [rows, width]), to the nearest, ties to even."""
    for r in nb.prange(len(rows)):
        _round_row(rows[r], rounded.bits[r], rounded.norm[r : r + 1], rounded.slip[r : r + 1])


@nb.njit(fastmath=_FAST)
def _round_row(row, bits, norm, slip):
    whole = np.empty(row.size, np.uint32)
    for i in range(row.size):
        upper = (row[i] + np.uint32(0x7FFF) + ((row[i] >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        bits[i] = upper
        whole[i] = upper << np.uint32(16)
    before, change = row.view(np.float32), whole.view(np.float32)
    # More than what squares too small for float32 come to.
    norm[0] = np.sqrt(_dot(before, before)) + np.float32(_TINY**0.5)
    for i in range(row.size):
        change[i] -= before[i]
    slip[0] = np.sqrt(_dot(change, change)) + np.float32(_TINY**0.5)


@nb.njit(fastmath=_FAST)
def _dot(a, b):
    total = a.dtype.type(0)
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@nb.njit(parallel=True, cache=True)
def screen(products, examples, weights, k, x, weight, bias, units, z):
    """Pre-activations of which the k largest of each example are exact to float32, from products in bfloat16.

    The products err by no more than ‖x − x̃‖‖w‖ + ‖x̃‖‖w − w̃‖, where x̃ and w̃ are rounded, and the rounding of sums and
    of the result. Whatever may be among the k largest within that margin is computed in float32.

    Args:
        products: x̃ᵀw̃ as upper halves (int16, shape: [examples, height]).
        examples, weights: what was multiplied (``Rounded``).
        k: units kept.
        x: examples (shape: [examples, width]).
        weight: shape [height, width].
        bias: shape [height].
        units: without those that only fill the last tile.
        z: result (shape: [examples, height]); other entries are as the products give them.
    """
    n = len(products)
    counts, listed = np.zeros(n, np.int64), np.empty((n, units), np.int32)
    sums = np.float32(x.shape[1] * _SUM_ERROR)
    # For the rounding of norms and of the margin itself.
    slack = np.float32(1.001) + sums
    for e in nb.prange(n):
        near, support, bits = np.empty((2, units), np.float32), np.empty(k, np.int32), np.empty(units, np.uint32)
        for u in range(units):
            bits[u] = np.uint32(np.uint16(products[e, u])) << np.uint32(16)
        product, norm, slip = bits.view(np.float32), examples.norm[e], examples.slip[e]
        for u in range(units):
            of_weight = weights.norm[u]
            margin = (slip + sums * norm) * of_weight + (norm + slip) * weights.slip[u]
            margin = slack * (margin + _RESULT_ERROR * abs(product[u]) + _BIAS_ERROR * abs(bias[u]))
            z[e, u] = product[u] + bias[u]
            near[0, u], near[1, u] = z[e, u] - margin, z[e, u] + margin
        select(near[0], k, support)
        least = near[0, support[0]]
        for j in range(k):
            least = min(least, near[0, support[j]])
        for u in range(units):
            listed[e, counts[e]] = u
            counts[e] += near[1, u] >= least
    # Unit by unit, so that each row of weights is read once.
    first, pairs = np.zeros(units + 1, np.int64), np.empty(counts.sum(), np.int32)
    for e in range(n):
        for j in range(counts[e]):
            first[listed[e, j]] += 1
    for u in range(1, units + 1):
        first[u] += first[u - 1]
    for e in range(n):
        for j in range(counts[e]):
            u = listed[e, j]
            first[u] -= 1
            pairs[first[u]] = e
    for u in nb.prange(units):
        for q in range(first[u], first[u + 1]):
            z[pairs[q], u] = _dot(weight[u], x[pairs[q]]) + bias[u]


class Net(NamedTuple):
    """Parameters or velocities, filled up with zeros to whole tiles and blocks (each flat)."""

    weight: np.ndarray
    """Shape [height, width]."""
    bias: np.ndarray
    """Shape [height]."""
    visible_bias: np.ndarray
    """Shape [width]."""


class Batch(NamedTuple):
    """What a step works with, for batches of one size at one k."""

    x: np.ndarray
    """Examples (flat, shape: [batch, width])."""
    z: np.ndarray
    """Pre-activations (flat, shape: [batch, height])."""
    support: np.ndarray
    """Kept units (shape: [batch, k])."""
    code: np.ndarray
    """Their values."""
    residual: np.ndarray
    """dE/dx̂ = 2 (x̂ - x) / batch (flat, shape: [batch, width])."""
    code_grads: np.ndarray
    """What each block of inputs adds to dE/dz of the kept units (shape: [blocks, batch · k])."""
    errors: np.ndarray
    """What each block of inputs adds to ‖x - x̂‖² of each example (shape: [blocks, batch])."""
    first: np.ndarray
    """Of the pairs of example and kept unit, sorted by unit, unit u's are from ``first[u]`` to ``first[u + 1]``."""
    example: np.ndarray
    """Of each pair (shape: [batch · k])."""
    codes: np.ndarray
    """The same of each pair."""
    gradients: np.ndarray
    """dE/dz of each pair."""
    bias_grad: np.ndarray
    """dE/db (shape: [height])."""


def new_batch(size: int, k: int, height: int, width: int, dtype: torch.dtype) -> Batch:
    """Room for a batch."""

    def room(*shape: int, kind: torch.dtype = dtype) -> np.ndarray:
        # Torch's memory begins at a cache line, NumPy's need not.
        made: np.ndarray = torch.zeros(shape, dtype=kind).numpy()
        return made

    blocks, integer = width // BLOCK, torch.int32
    return Batch(
        room(size * width), room(size * height), room(size, k, kind=integer), room(size, k), room(size * width),
        room(blocks, size * k), room(blocks, size), room(height + 1, kind=integer), room(size * k, kind=integer),
        room(size * k), room(size * k), room(height),
    )  # fmt: skip


@nb.njit(nogil=True, cache=True)
def sparse_epoch(starts, places, values, order, size, units, relu, net, velocity, tiles, batch, rate, momentum, uses):
    """Train on examples given by their non-zero entries, in this order; the sum of their errors.

    Args:
        starts, places, values: of ``SparseInputs``.
        size: examples in a batch.
        units: without those that only fill the last tile.
        tiles: of ``tiles_of``; unless empty, they follow the weights.
        uses: is raised by how often each unit had a code that is not zero (shape: [height]).
    """
    error = 0.0
    for start in range(0, order.size, size):
        rows = order[start : start + size]
        encode(starts, places, values, rows, tiles, net.bias, batch.z)
        _densify(starts, places, values, rows, batch.x, net.visible_bias.size)
        error += step(rows.size, units, relu, net, velocity, tiles, batch, rate, momentum, uses)
    return error


@nb.njit(nogil=True, cache=True)
def step(examples, units, relu, net, velocity, tiles, batch, rate, momentum, uses):
    """The rest of a step, whose examples and pre-activations are in ``batch``; arguments as of ``sparse_epoch``.

    V ← m V - η ∇E, parameter ← parameter + V (section 4.2.2). Returns the sum of ‖x - x̂‖², or NaN where a
    pre-activation is.
    """
    error = _choose(batch.z, examples, units, relu, batch.support, batch.code, batch.bias_grad.size)
    _reconstruct(examples, batch.x, net.weight, net.visible_bias, batch.support, batch.code, batch.residual,
                 batch.code_grads, batch.errors)  # fmt: skip
    error += _group_by_unit(examples, relu, batch, uses)
    _update(examples, batch, net, velocity, tiles, rate, momentum)
    return error


@nb.njit(parallel=True, cache=True)
def _densify(starts, places, values, rows, x, width):
    for e in nb.prange(rows.size):
        x[e * width : (e + 1) * width] = 0
        for q in range(starts[rows[e]], starts[rows[e] + 1]):
            x[e * width + places[q] // LANES] += values[q]


@nb.njit(parallel=True, cache=True)
def _choose(z, examples, units, relu, support, code, height):
    """Support and code of each example; zero, or NaN where a pre-activation is."""
    nothing = np.zeros(examples, z.dtype)
    for e in nb.prange(examples):
        # A unit of NaN is never kept, so the residual alone would not show it.
        nothing[e] = _keep(z[e * height : e * height + units], relu, support[e], code[e])
    return float(nothing.sum())


@nb.njit(parallel=True, cache=True)
def _reconstruct(examples, x, weight, visible_bias, support, code, residual, code_grads, errors):
    """Residuals, and block of inputs by block of inputs what each adds to errors and gradients of codes."""
    kept, codes, k, width = support.ravel(), code.ravel(), support.shape[1], visible_bias.size
    scale = x.dtype.type(2) / x.dtype.type(examples)
    for block in nb.prange(width // BLOCK):
        p = block * BLOCK
        none, gradients = spread(x.dtype.type(0)), code_grads[block]
        for e in range(examples):
            here = e * width + p
            r0, r1 = load(visible_bias, p), load(visible_bias, p + LANES)
            for j in range(e * k, (e + 1) * k):
                w = at(kept, j) * width + p
                r0 = fma(at(codes, j), load(weight, w), r0)
                r1 = fma(at(codes, j), load(weight, w + LANES), r1)
            r0, r1 = minus(r0, load(x, here)), minus(r1, load(x, here + LANES))
            errors[block, e] = total(fma(r0, r0, fma(r1, r1, none)))
            r0, r1 = fma(scale, r0, none), fma(scale, r1, none)
            store(residual, here, r0)
            store(residual, here + LANES, r1)
            for j in range(e * k, (e + 1) * k):
                w = at(kept, j) * width + p
                gradients[j] = total(fma(r0, load(weight, w), fma(r1, load(weight, w + LANES), none)))


@nb.njit(fastmath=_FAST, cache=True)
def _group_by_unit(examples, relu, batch, uses):
    """Add up the blocks' parts, and sort the pairs of example and kept unit by unit, examples ascending."""
    support, code, first, k = batch.support, batch.code, batch.first, batch.support.shape[1]
    sums = batch.code_grads[0]
    for block in range(1, len(batch.code_grads)):
        for j in range(examples * k):
            sums[j] += batch.code_grads[block, j]
    first[:] = 0
    batch.bias_grad[:] = 0
    for e in range(examples):
        for j in range(k):
            first[support[e, j]] += 1
    for u in range(1, first.size):
        first[u] += first[u - 1]
    for e in range(examples - 1, -1, -1):
        for j in range(k):
            u, c = support[e, j], code[e, j]
            first[u] -= 1
            q = first[u]
            batch.example[q], batch.codes[q] = e, c
            batch.gradients[q] = 0 if relu and not c > 0 else sums[e * k + j]
            batch.bias_grad[u] += batch.gradients[q]
            uses[u] += c != 0
    error = 0.0
    for block in range(len(batch.errors)):
        for e in range(examples):
            error += batch.errors[block, e]
    return error


@nb.njit
def _descend(parameter, velocity, place, gradient, rate, momentum):
    v = fma(momentum, load(velocity, place), fma(-rate, gradient, spread(velocity.dtype.type(0))))
    # The velocity of a dead unit would stay at numbers so small that many processors take a hundred times as long.
    tiny = spread(velocity.dtype.type(_TINY))
    v = minus(plus(v, tiny), tiny)
    store(velocity, place, v)
    store(parameter, place, plus(load(parameter, place), v))


@nb.njit(parallel=True, cache=True)
def _update(examples, batch, net, velocity, tiles, rate, momentum):
    """Every parameter, with no gradient of W in memory.

    A unit's gradient is Σ over its pairs of code · residual (decoder path) + code gradient · x (encoder path).
    """
    x, residual, first, example = batch.x, batch.residual, batch.first, batch.example
    codes, gradients, weight, visible_bias = batch.codes, batch.gradients, net.weight, net.visible_bias
    weight_velocity, visible_velocity, width = velocity.weight, velocity.visible_bias, net.visible_bias.size
    for block in nb.prange(width // BLOCK):
        p, none = block * BLOCK, spread(x.dtype.type(0))
        for tile in range(net.bias.size // LANES):
            for u in range(tile * LANES, (tile + 1) * LANES):
                g0, g1, h0, h1 = none, none, none, none
                for q in range(at(first, u), at(first, u + 1)):
                    here = at(example, q) * width + p
                    g0 = fma(at(codes, q), load(residual, here), g0)
                    g1 = fma(at(codes, q), load(residual, here + LANES), g1)
                    h0 = fma(at(gradients, q), load(x, here), h0)
                    h1 = fma(at(gradients, q), load(x, here + LANES), h1)
                _descend(weight, weight_velocity, u * width + p, plus(g0, h0), rate, momentum)
                _descend(weight, weight_velocity, u * width + p + LANES, plus(g1, h1), rate, momentum)
            if tiles.size:
                begin, end = tile * LANES * width + p, (tile * width + p) * LANES
                transpose(weight, begin, width, tiles, end)
                transpose(weight, begin + LANES, width, tiles, end + LANES * LANES)
        g0, g1 = none, none
        for e in range(examples):
            g0, g1 = plus(g0, load(residual, e * width + p)), plus(g1, load(residual, e * width + p + LANES))
        _descend(visible_bias, visible_velocity, p, g0, rate, momentum)
        _descend(visible_bias, visible_velocity, p + LANES, g1, rate, momentum)
    for u in range(0, net.bias.size, LANES):
        _descend(net.bias, velocity.bias, u, load(batch.bias_grad, u), rate, momentum)


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


@nb.njit(nogil=True, cache=True)
def code_rows(starts, places, values, rows, tiles, bias, units, relu, support, code):
    """``encode`` and ``keep_rows`` in the calling thread alone, so few rows at a time that they stay in cache."""
    size = tiles.size // bias.size * LANES
    z = np.empty((_ROWS, bias.size), bias.dtype)
    for first in range(0, rows.size, _ROWS):
        some = rows[first : first + _ROWS]
        for tile in range(bias.size // LANES):
            _encode_tile(starts, places, values, some, tiles, tile * size, bias, tile * LANES, z.ravel())
        for e in range(some.size):
            _keep_row(z[e, :units], relu, support[first + e], code[first + e])


@nb.njit(nogil=True, cache=True)
def keep_rows(z, relu, support, code):
    """Indices and values of the k largest of each row of ``z``, in the calling thread alone."""
    for e in range(z.shape[0]):
        _keep_row(z[e], relu, support[e], code[e])


@nb.njit
def _keep_row(z, relu, support, code):
    # A row that is not finite has a support all the same: its code must tell.
    code += _keep(z, relu, support, code)


@nb.njit
def _keep(z, relu, support, code):
    """Support and code of one example; zero, or NaN where a pre-activation is."""
    select(z, support.size, support)
    for j in range(support.size):
        c = z[support[j]]
        code[j] = c * 0 if relu and c < 0 else c
    return _zero_or_nan(z)


def _work_alone() -> None:
    """Do without the threads of torch and numba: a forked process lacks them, and hangs or dies where it uses them."""
    global ONE_CALLER
    ONE_CALLER = threading.Lock()
    torch.set_num_threads(1)
    for name, kernel in list(globals().items()):
        # All of them anew, since those with threads are compiled into those that call them.
        if hasattr(kernel, "py_func"):
            alone = FunctionType(kernel.py_func.__code__, globals(), name)
            # Numba's cache tells kernels apart by this name, not by their options.
            alone.__qualname__ = f"{name}_alone"
            options = {key: kernel.targetoptions.get(key, False) for key in ("fastmath", "nogil")}
            globals()[name] = nb.njit(**options, cache=True)(alone)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_work_alone)
