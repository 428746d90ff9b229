"""supp_k of every row in one Triton kernel, k read on the device."""

import torch
import triton
import triton.language as tl
from torch import Tensor

_BITS = tl.constexpr(32)
_WIDEST = 2**17


@triton.jit
def _largest(z, k, support, units, rows_per_model, width: tl.constexpr):  # noqa: ANN001, ANN202 - Triton reads them
    """Mark the k largest of one row a program, found bit by bit of the k-th largest, from the highest.

    A float32's bits, with its sign bit flipped or all of them if it is negative, are ordered as the numbers are.
    """
    row = tl.program_id(0).to(tl.int64)
    keep = tl.load(k + row // rows_per_model)
    column = tl.arange(0, width)
    inside = column < units
    value = tl.load(z + row * units + column, mask=inside, other=float("-inf"))
    bits = (value + 0.0).to(tl.uint32, bitcast=True)
    key = tl.where(bits >> 31 == 1, ~bits, bits | 0x80000000)
    key = tl.where(inside, key, 0)
    cut = tl.zeros((), tl.uint32)
    for step in range(_BITS):
        tried = cut | (tl.full((), 1, tl.uint32) << (31 - step))
        cut = tl.where(tl.sum((key >= tried).to(tl.int32)) >= keep, tried, cut)
    above = key > cut
    tied = (key == cut) & inside
    room = keep - tl.sum(above.to(tl.int32))
    kept = above | (tied & (tl.cumsum(tied.to(tl.int32)) <= room))
    tl.store(support + row * units + column, kept, mask=inside)


def warps(width: int) -> int:
    """Warps of a program: at most 64 values a thread up to 65,536 units."""
    return max(4, min(32, width // 256))


def largest_on_device(z: Tensor, k: Tensor) -> Tensor:
    """As ``selection.by_sorting``, for float32 rows: exact, 32 counts of each row, nothing leaves the device.

    Args:
        z: pre-activations (shape: [models, batch, units]), contiguous float32.
        k: units kept (shape: [models, 1, 1]).

    Returns:
        Boolean mask of z's shape.

    Raises:
        ValueError: more units than a program can hold.
    """
    models, batch, units = z.shape
    width = triton.next_power_of_2(units)
    if width > _WIDEST:
        raise ValueError(f"{units} units are more than the selection kernel takes: at most {_WIDEST}.")
    support = torch.empty(z.shape, dtype=torch.bool, device=z.device)
    _largest[(models * batch,)](z, k, support, units, batch, width, num_warps=warps(width))
    return support
