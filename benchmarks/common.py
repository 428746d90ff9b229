"""What the benchmarks share: rounds of timed slices, and rates of the machine.

A round times the same short slice of work for each candidate in turn, so that a machine whose speed drifts or is
shared hurts all of them alike. Figures are medians over the rounds. Threads that have just finished can spin for a
while in case more work comes, hence a pause before each slice.
"""

import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import numba
import numpy as np
import torch

from replication.provenance import provenance

PAUSE_SECONDS = 0.02
PRODUCT_SIZE = 2048
SLICES: dict[str, Any] = {"seconds": (30.0, "time for the timed rounds"), "steps": (25, "steps in a timed slice")}
DEVICE = {"device": ("cpu", "torch device")}


def timed_rounds(
    slices: Mapping[Any, Callable[[Any], object]],
    following: Callable[[], Any],
    seconds: float,
    *,
    at_least: int = 1,
    device: str = "cpu",
    rates: Mapping[str, Callable[[], float]] = MappingProxyType({}),
) -> dict[Any, np.ndarray]:
    """Seconds of every slice, and rates of the machine, in every round (shape of each: [rounds]).

    Args:
        slices: by name.
        following: what all slices of the next round are given, say the order of the examples.
        seconds: no round starts later than this, after those that there are at least.
        at_least: rounds.
        device: what the slices work on; its work is waited for.
        rates: measured in each round, by name.
    """
    rounds: list[list[float]] = []
    started = time.perf_counter()
    while len(rounds) < at_least or time.perf_counter() - started < seconds:
        given = following()
        times = [best_of(1, partial(one, given), device) for one in slices.values()]
        rounds.append(times + [rate() for rate in rates.values()])
    return dict(zip([*slices, *rates], np.transpose(rounds), strict=True))


def best_of(times: int, work: Callable[[], object], device: str = "cpu") -> float:
    """Seconds until the device has done the work, when nothing disturbs it."""
    wait = torch.cuda.synchronize if torch.device(device).type == "cuda" else int
    best = float("inf")
    time.sleep(PAUSE_SECONDS)
    for _ in range(times):
        wait()
        started = time.perf_counter()
        work()
        wait()
        best = min(best, time.perf_counter() - started)
    return best


def product_rate(size: int, device: str = "cpu") -> float:
    """Float32 operations a second in a product of two matrices of this size."""
    a = torch.ones(size, size, device=device)
    out = torch.empty_like(a)
    return 2 * size**3 / best_of(3, lambda: torch.mm(a, a, out=out), device)


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
