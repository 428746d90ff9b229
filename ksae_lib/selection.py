"""Selection rules: which pre-activations are kept (paper, sections 2.1, 2.2 and 4.2.3).

A rule is a function ``rule(z, k) -> mask``. The paper keeps the k *largest* values of ``z = W^T x + b``, not the k
largest in magnitude. Both ways of finding them that the paper names are here and give the same support, also under
ties: exactly k units are kept and, of equal values, those with the lower index. A new rule is a function and a line
in ``RULES``.
"""

from collections.abc import Callable
from numbers import Real

import torch
from torch import Tensor

Rule = Callable[[Tensor, int], Tensor]


def check_k(k: int, units: int, name: str = "k") -> int:
    """Return ``k`` if it is a whole number in 1 … units.

    Raises:
        ValueError: if it is not; the sentence names ``name``, its value and the number of units.
    """
    if isinstance(k, bool) or not isinstance(k, Real) or not 1 <= k <= units or int(k) != k:
        raise ValueError(
            f"{name} = {k} is not possible with {units} hidden units: choose a whole number from 1 to {units}."
        )
    return int(k)


def by_sorting(z: Tensor, k: int | Tensor) -> Tensor:
    """The k largest of each row, cut at the k-th value of a partial sort (section 2.1).

    Args:
        z: pre-activations (shape: [..., units]), finite.
        k: how many to keep, or a tensor of numbers that differ between rows and are read on z's device (shape: that of
            z but for last entries of 1).

    Returns:
        Boolean mask of z's shape; of equal values at the cut, those with the lower index are kept.
    """
    if isinstance(k, Tensor):
        kth = z.sort(dim=-1, descending=True).values.gather(-1, (k - 1).expand(*z.shape[:-1], 1))
    else:
        kth = torch.topk(z, k, dim=-1, sorted=True).values[..., -1:]
    return _down_to(kth, z, k)


def by_threshold(z: Tensor, k: int) -> Tensor:
    """The k largest of each row, by one threshold a row that is adapted until k values exceed it.

    The parallel way of sections 2.2 and 4.2.3; arguments and result as of ``by_sorting``.
    """
    # At least k values are >= low, fewer than k are > high. The interval is halved until no floating-point number lies
    # strictly inside it; then high is the k-th largest value, or low is.
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
    return _down_to(torch.where(enough, high, low), z, k)


def by_batch(z: Tensor, k: int) -> Tensor:
    """BatchTopK (Bussmann et al. 2024): the k·n largest of all n rows together, so that k are kept on average.

    What an example keeps depends on the others of its batch; ``CodeMode.THRESHOLD`` codes each by itself.
    Arguments and result as of ``by_sorting``.
    """
    return by_sorting(z.flatten(), k * (z.numel() // z.shape[-1])).view_as(z) if z.numel() else z > 0


def _down_to(kth: Tensor, z: Tensor, k: int | Tensor) -> Tensor:
    """Mask of the k largest of each row, given the k-th largest value of each (shape: [..., 1])."""
    mask = z >= kth
    if isinstance(k, int) and int(mask.sum()) <= k * (z.numel() // z.shape[-1]):
        return mask
    above = z > kth
    tied = mask & ~above
    return above | (tied & (tied.cumsum(-1) <= k - above.sum(-1, keepdim=True)))


RULES: dict[str, Rule] = {"sort": by_sorting, "threshold": by_threshold, "batch_topk": by_batch}
K_LARGEST = frozenset({"sort", "threshold"})
"""Rules with one and the same result, the k largest of each row: what the fast engines' kernels find."""


def rule_of(name: str) -> Rule:
    """The rule of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in RULES:
        raise ValueError(f"selection = {name!r} is unknown: choose one of {', '.join(RULES)}.")
    return RULES[name]


def supp_k(z: Tensor, k: int, method: str = "sort") -> Tensor:
    """Support of the k largest entries of each row, ``supp_k(z)`` in the paper's algorithm box.

    Args:
        z: pre-activations (shape: [..., units]), finite.
        k: how many to keep, 1 … units.
        method: a key of ``RULES``.

    Returns:
        Boolean mask (shape: [..., units]) with exactly k true entries in each row, of ``batch_topk`` k on average. Of
        equal values at the boundary, those with the lower index are kept.

    Raises:
        ValueError: k out of range or an unknown method.
    """
    return rule_of(method)(z, check_k(k, z.shape[-1]))
