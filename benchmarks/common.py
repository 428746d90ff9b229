"""What the benchmarks share: rounds of timed slices.

A round times the same short slice of work for each candidate in turn, so that a machine whose speed drifts or is
shared hurts all of them alike. Figures are medians over the rounds. Threads that have just finished can spin for a
while in case more work comes, hence a pause before each slice.
"""

import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numba
import numpy as np
import torch

from replication.provenance import provenance

PAUSE_SECONDS = 0.02
DEVICE: dict[str, Any] = {"device": ("cpu", "torch device")}


def timed_rounds(
    slices: Mapping[Any, Callable[[Any], object]],
    following: Callable[[], Any],
    seconds: float,
    *,
    at_least: int = 1,
    device: str = "cpu",
) -> dict[Any, np.ndarray]:
    """Seconds of every slice in every round (shape of each: [rounds]).

    Args:
        slices: by name.
        following: what all slices of the next round are given, say the order of the examples.
        seconds: no round starts later than this, after those that there are at least.
        at_least: rounds.
        device: what the slices work on; its work is waited for.
    """
    rounds: list[list[float]] = []
    started = time.perf_counter()
    while len(rounds) < at_least or time.perf_counter() - started < seconds:
        given = following()
        rounds.append([_seconds(partial(one, given), device) for one in slices.values()])
    return dict(zip(slices, np.transpose(rounds), strict=True))


def _seconds(work: Callable[[], object], device: str) -> float:
    """Until the device has done the work."""
    wait = torch.cuda.synchronize if torch.device(device).type == "cuda" else int
    time.sleep(PAUSE_SECONDS)
    wait()
    started = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - started


def summary(figures: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Median of each figure, ``quartiles`` of all, and how many ``rounds`` they are of."""
    return {name: rounded(np.median(values)) for name, values in figures.items()} | {
        "quartiles": {name: quartiles(values) for name, values in figures.items()},
        "rounds": len(next(iter(figures.values()))),
    }


def quartiles(values: np.ndarray) -> list[float]:
    """The first and the third."""
    return [rounded(q) for q in np.percentile(values, [25, 75])]


def rounded(value: Any) -> float:
    """Four digits of it."""
    return float(f"{value:.4g}")


def hardware(device: str = "cpu") -> dict[str, Any]:
    """What was measured on."""
    return {
        "cpu": provenance()["hardware"]["processor"],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "numba": numba.__version__,
        "numba_threads": numba.get_num_threads(),
        **({"gpu": torch.cuda.get_device_name()} if torch.device(device).type == "cuda" else {}),
    }
