"""Schedules of the paper's training runs: pure functions of the epoch (section 4.2).

Epochs count from 0; every schedule is constant within an epoch.
"""

import numpy as np


def sparsity(epoch: int, epochs: int, k: int, k_start: int | None, ramp: float = 0.5) -> int:
    """Number of units kept in an epoch (section 4.2.1).

    k falls linearly from ``k_start`` in epoch 0 to ``k`` over the first ``ramp`` part of the epochs (the
    paper: one half) and stays there. Without ``k_start``, or with one that is not larger than ``k``, it
    is ``k`` throughout. The paper's example: from 100 to 15.

    Args:
        epoch: the epoch, 0 … epochs - 1.
        epochs: length of the run.
        k: the target.
        k_start: where k begins, or None.
        ramp: part of the run during which k falls, 0 … 1.

    Raises:
        ValueError: epoch or ramp out of range.
    """
    _check_epoch(epoch, epochs)
    if not 0 <= ramp <= 1:
        raise ValueError(f"ramp = {ramp} is not a part of the run: choose a number from 0 to 1.")
    if k_start is None or k_start <= k:
        return k
    return round(linear(min(epoch / max(ramp * epochs, 1), 1.0), k_start, k))


def linear(progress: float, start: float, end: float) -> float:
    """Value on the straight line from ``start`` (progress 0) to ``end`` (progress 1)."""
    return start + (end - start) * progress


def linear_by_epoch(epoch: int, epochs: int, start: float, end: float | None) -> float:
    """Learning rate or momentum in an epoch: from ``start`` in the first to ``end`` in the last (section 4.2.2).

    ``end`` None means constant, as in the paper's unsupervised runs.

    Raises:
        ValueError: epoch out of range.
    """
    _check_epoch(epoch, epochs)
    if end is None or epochs == 1:
        return start
    return linear(epoch / (epochs - 1), start, end)


def _check_epoch(epoch: int, epochs: int) -> None:
    if not 0 <= epoch < epochs:
        raise ValueError(f"epoch = {epoch} is not one of the {epochs} epochs, which count from 0.")


def order_of(seed: int, epoch: int, examples: int, block: int = 0) -> np.ndarray:
    """The order in which an epoch takes the examples of a block; seed, epoch and the block's number decide it."""
    return np.random.default_rng([seed, epoch, block] if block else [seed, epoch]).permutation(examples)
