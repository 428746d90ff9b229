"""Seconds and memory per step as sizes grow: hidden units, kept units, batch, models at once; beside the roofline.

One size is varied at a time around MNIST's (784 inputs, 1000 units, k = 25, batches of 100, one model). A slice of a
few steps is timed with the fastest engine of the device: cpu, or on a GPU the batched engine. The roofline of a step
adds the time of its products – encode, decode, and the gradients by code and by weights, each dense – at the rate of a
large product measured in the same run, to that of reading and writing weights and velocities once, at the bandwidth
of a large copy. The cpu engine leaves out products with zeros and goes below it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from tqdm import tqdm

from benchmarks.engines import best_of, hardware, output_options, present, product_rate, rounded
from ksae_lib.engines.gpu import GpuEngine
from ksae_lib.io import atomic_path
from ksae_lib.training import TrainConfig, make_engine, new_model

_INPUTS = 784
_STEPS = 4
_ROUNDS = 5
_PRODUCT_SIZE = 4096
_COPIED_BYTES = 2**28
_RATE, _MOMENTUM = 1e-4, 0.9


@dataclass(frozen=True)
class Size:
    """Sizes of one point."""

    units: int = 1000
    k: int = 25
    batch: int = 100
    models: int = 1


VARIED = {
    "units": (250, 1000, 4096, 16384, 65536),
    "k": (10, 25, 50, 100, 200, 400),
    "batch": (100, 400, 1600, 8192),
    "models": (1, 4, 16, 64),
}


def sizes(device: str) -> Iterator[tuple[str, Size]]:
    """What is varied, and each point; many models at once only on a GPU, elsewhere each has a process."""
    for name, values in VARIED.items():
        if name != "models" or device != "cpu":
            yield from ((name, replace(Size(), **{name: value})) for value in values)


def benchmark(device: str) -> dict[str, Any]:
    """Time every size.

    Args:
        device: torch device.

    Returns:
        ``points``, one a size, ``peaks`` of the roofline, and ``hardware``.
    """
    peaks = {"flop_per_s": rounded(product_rate(_PRODUCT_SIZE, device)), "bytes_per_s": rounded(_copy_rate(device))}
    points = []
    for varied, size in tqdm(list(sizes(device)), unit="size", disable=None, leave=False):
        seconds, mebibytes = _measure(size, device)
        points.append(
            {
                "varied": varied, **asdict(size), "s_per_step": rounded(seconds), "state_mib": rounded(mebibytes),
                "roofline_s_per_step": rounded(roofline(size, peaks)),
            }
        )  # fmt: skip
    return {"points": points, "peaks": peaks, "hardware": hardware(device)}


def roofline(size: Size, peaks: dict[str, float]) -> float:
    """Seconds of a step's dense products and of one pass over weights and velocities."""
    weights = size.models * size.units * _INPUTS
    flop = 5 * 2 * size.batch * weights
    return flop / peaks["flop_per_s"] + 4 * 4 * weights / peaks["bytes_per_s"]


def _measure(size: Size, device: str) -> tuple[float, float]:
    """Seconds per step, and MiB of what training keeps: on a GPU all that was allocated, else parameters and state."""
    x = np.random.default_rng(0).random((_STEPS * size.batch, _INPUTS), np.float32)
    # Four of five pixels of MNIST are zero.
    x[np.random.default_rng(1).random(x.shape) < 0.8] = 0
    config = TrainConfig(units=size.units, k=size.k, k_start=None, batch_size=size.batch)
    order = np.arange(len(x))
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        models = [new_model(replace(config, seed=seed), x) for seed in range(size.models)]
        batched = GpuEngine(models, x, size.batch, device)
        orders, ks, rates = np.tile(order, (size.models, 1)), [size.k] * size.models, [_RATE] * size.models
        seconds = _median_time(lambda: batched.run_epoch(orders, ks, rates, _MOMENTUM))
        return seconds, torch.cuda.max_memory_allocated() / 2**20
    engine = make_engine([new_model(config, x)], x, config, "cpu")
    seconds = _median_time(lambda: engine.run_epoch(order[None], [size.k], [_RATE], _MOMENTUM))
    kept = sum(value.nbytes for value in engine.state().values())
    return seconds, kept / 2**20


def _median_time(epoch: Callable[[], object]) -> float:
    epoch()
    times = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        epoch()
        times.append((time.perf_counter() - started) / _STEPS)
    return median(times)


def _copy_rate(device: str) -> float:
    source = torch.zeros(_COPIED_BYTES // 4, device=device)
    target = torch.zeros_like(source)
    return 2 * _COPIED_BYTES / best_of(5, lambda: target.copy_(source), device)


def plot(results: dict[str, Any]) -> Figure:
    """Time per step over each size, with the roofline."""
    names = list(dict.fromkeys(point["varied"] for point in results["points"]))
    figure, axes = plt.subplots(1, len(names), figsize=(3.2 * len(names), 3), layout="constrained", squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        points = [point for point in results["points"] if point["varied"] == name]
        at = [point[name] for point in points]
        axis.loglog(at, [1e3 * point["s_per_step"] for point in points], "o-", label="measured")
        axis.loglog(at, [1e3 * point["roofline_s_per_step"] for point in points], "--", label="roofline, dense")
        axis.set_xlabel(name)
    axes[0][0].set_ylabel("ms per step")
    axes[0][0].legend()
    return figure


def table(results: dict[str, Any]) -> str:
    """Lay the results out as aligned text."""
    lines = [f"{'units':>8}{'k':>6}{'batch':>8}{'models':>8}{'ms / step':>12}{'roofline':>12}{'state MiB':>12}"]
    for p in results["points"]:
        lines.append(
            f"{p['units']:>8}{p['k']:>6}{p['batch']:>8}{p['models']:>8}{1e3 * p['s_per_step']:>12.2f}"
            f"{1e3 * p['roofline_s_per_step']:>12.2f}{p['state_mib']:>12.1f}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling", description="Seconds and memory per step as sizes grow."
    )
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    parser.add_argument("--plot", type=Path, help="also write the figure to this file")
    parser.add_argument("--from", dest="stored", type=Path, help="measure nothing, show this file's results")
    output_options(parser)
    options = parser.parse_args(arguments)
    results = json.loads(options.stored.read_text()) if options.stored else benchmark(options.device)
    if options.plot is not None:
        with atomic_path(options.plot) as temporary:
            plot(results).savefig(temporary, dpi=120, format=options.plot.suffix[1:] or "png")
    present(results, table, options)


if __name__ == "__main__":
    main()
