"""Seconds and memory per step as sizes grow: hidden units, kept units, batch, models at once; beside the roofline.

One size is varied at a time around MNIST's (784 inputs, 1000 units, k = 25, batches of 100, one model). A slice of a
few steps is timed with the fastest engine of the device: cpu, or on a GPU the batched engine. The roofline of a step
adds the time of its products – encode, decode, and the gradients by code and by weights, each dense – at the rate of a
large product measured in the same run, to that of reading and writing weights and velocities once, at the bandwidth
of a large copy. The cpu engine leaves out products with zeros and goes below it.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
import torch

from benchmarks import common
from ksae_lib.io import atomic_path
from ksae_lib.training import TrainConfig, make_engine, new_model

OPTIONS = common.DEVICE | {"plot": ("", "also write the figure to this file")}
SIZES = {"units": 1000, "k": 25, "batch": 100, "models": 1}
VARIED = {
    "units": (250, 1000, 4096, 16384, 65536),
    "k": (10, 25, 50, 100, 200, 400),
    "batch": (100, 400, 1600, 8192),
    "models": (1, 4, 16, 64),
}
_INPUTS, _STEPS, _ROUNDS, _PRODUCT_SIZE, _COPIED_BYTES = 784, 4, 5, 4096, 2**28


def measure(options: Any) -> dict[str, Any]:
    """Time every size: ``points``, one a size, ``peaks`` of the roofline and ``hardware``."""
    device = options.device
    source, target = torch.zeros(2, _COPIED_BYTES // 4, device=device)
    copy_s = common.best_of(5, lambda: target.copy_(source), device)
    rates = {"flop_per_s": common.product_rate(_PRODUCT_SIZE, device), "bytes_per_s": 2 * _COPIED_BYTES / copy_s}
    peaks = {name: common.rounded(rate) for name, rate in rates.items()}
    # Many models at once only on a GPU; elsewhere each has a process.
    pairs = [(name, value) for name in VARIED for value in VARIED[name] if name != "models" or device != "cpu"]
    points = []
    for varied, value in pairs:
        size = SIZES | {varied: value}
        weights = size["models"] * size["units"] * _INPUTS
        roofline_s = 5 * 2 * size["batch"] * weights / peaks["flop_per_s"] + 4 * 4 * weights / peaks["bytes_per_s"]
        figures = _measure(device, **size) | {"roofline_s_per_step": roofline_s}
        points.append({"varied": varied, **size, **{name: common.rounded(figures[name]) for name in figures}})
    if options.plot:
        plot(points, Path(options.plot))
    return {"points": points, "peaks": peaks, "hardware": common.hardware(device)}


def _measure(device: str, units: int, k: int, batch: int, models: int) -> dict[str, float]:
    """Seconds per step, and MiB of what training keeps: on a GPU all that was allocated, else parameters and state."""
    x = np.random.default_rng(0).random((_STEPS * batch, _INPUTS), np.float32)
    # Four of five pixels of MNIST are zero.
    x[np.random.default_rng(1).random(x.shape) < 0.8] = 0
    config = TrainConfig(units=units, k=k, k_start=None, batch_size=batch)
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    made = [new_model(replace(config, seed=seed), x) for seed in range(models)]
    engine = make_engine(made, x, config, "gpu" if on_gpu else "cpu")
    order = np.tile(np.arange(len(x)), (models, 1))
    slices = {"epoch": lambda given: engine.run_epoch(given, [k] * models, [1e-4] * models, 0.9)}
    slices["epoch"](order)
    times = common.timed_rounds(slices, lambda: order, 0, at_least=_ROUNDS, device=device)
    kept = torch.cuda.max_memory_allocated() if on_gpu else sum(v.nbytes for v in engine.state().values())
    return {"s_per_step": float(np.median(times["epoch"])) / _STEPS, "state_mib": kept / 2**20}


def plot(points: list[dict[str, Any]], file: Path) -> None:
    """Draw time per step over each size, with the roofline."""
    shown = pd.DataFrame(points).assign(size=[point[point["varied"]] for point in points])
    shown = shown.rename(columns={"s_per_step": "measured", "roofline_s_per_step": "roofline, dense"})
    shown = shown.melt(["varied", "size"], ["measured", "roofline, dense"], "time", "seconds per step")
    how: dict[str, Any] = {"kind": "line", "markers": True, "height": 3, "facet_kws": {"sharex": False}}
    grid = sns.relplot(shown, x="size", y="seconds per step", style="time", col="varied", **how)
    grid.set(xscale="log", yscale="log")
    with atomic_path(file) as temporary:
        grid.savefig(temporary, dpi=120, format=file.suffix[1:] or "png")
