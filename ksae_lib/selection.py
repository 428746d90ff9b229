"""supp_k, the selection of the k largest pre-activations (paper, sections 2.1, 2.2 and 4.2.3).

The paper keeps the k *largest* values of ``z = W^T x + b``, not the k largest in magnitude. Both
ways of finding them that the paper names are here and give the same support, also under ties:
exactly k units are kept and, of equal values, those with the lower index.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

SelectionMethod = Literal["sort", "threshold"]


def check_k(k: int, units: int, name: str = "k") -> int:
    """Return ``k`` if it is a whole number in 1 … units.

    Raises:
        ValueError: if it is not; the sentence names ``name``, its value and the number of units.
    """
    if not 1 <= k <= units or int(k) != k:
        raise ValueError(
            f"{name} = {k} is not possible with {units} hidden units: choose a whole number from 1 to {units}."
        )
    return int(k)


def supp_k(z: Tensor, k: int, method: SelectionMethod = "sort") -> Tensor:
    """Support of the k largest entries of each row, ``supp_k(z)`` in the paper's algorithm box.

    Args:
        z: pre-activations (shape: [..., units]), finite.
        k: how many to keep, 1 … units.
        method: ``sort`` takes the k-th largest value from a partial sort (section 2.1); ``threshold``
            adapts one threshold per row by bisection until k values exceed it, the parallel way of
            sections 2.2 and 4.2.3.

    Returns:
        Boolean mask (shape: [..., units]) with exactly k true entries in each row. Of equal values at
        the boundary, those with the lower index are kept.

    Raises:
        ValueError: k out of range or an unknown method.
    """
    k = check_k(k, z.shape[-1])
    if method == "sort":
        kth = torch.topk(z, k, dim=-1, sorted=True).values[..., -1:]
    elif method == "threshold":
        kth = _kth_largest_by_bisection(z, k)
    else:
        raise ValueError(f"method = {method!r} is unknown: choose 'sort' or 'threshold'.")
    mask = z >= kth
    if int(mask.sum()) > k * (z.numel() // z.shape[-1]):
        above = z > kth
        tied = mask & ~above
        room = k - above.sum(-1, keepdim=True)
        mask = above | (tied & (tied.cumsum(-1) <= room))
    return mask


def _kth_largest_by_bisection(z: Tensor, k: int) -> Tensor:
    """The k-th largest value of each row (shape: [..., 1]), found without sorting.

    Invariant: at least k values are >= low, fewer than k are > high. The interval is halved until no
    floating-point number lies strictly inside it; then high is the value sought, or low is.
    """
    low, high = z.amin(-1, keepdim=True), z.amax(-1, keepdim=True)
    while True:
        middle = low / 2 + high / 2
        inside = (middle > low) & (middle < high)
        if not bool(inside.any()):
            break
        enough = (z >= middle).sum(-1, keepdim=True) >= k
        low = torch.where(inside & enough, middle, low)
        high = torch.where(inside & ~enough, middle, high)
    enough = (z >= high).sum(-1, keepdim=True) >= k
    return torch.where(enough, high, low)
