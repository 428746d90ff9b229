"""Seconds per step as sizes grow: hidden units, kept units, batch, examples, models at once.

One size is varied at a time around MNIST's (784 inputs, 1000 units, k = 25, batches of 100, 10,000 examples, one
model). A slice of a few steps is timed with the fastest engine of the device: cpu, or on a GPU the batched engine.
``slopes`` are exponents p of time ~ size^p between the two largest sizes. The ideal is 1, time that grows as the work
does, and of examples 0.
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
SIZES = {"units": 1000, "k": 25, "batch": 100, "examples": 10_000, "models": 1}
VARIED = {
    "units": (250, 1000, 4000, 16_000),
    "k": (5, 10, 25, 50, 100, 250, 500),
    "batch": (20, 100, 500, 2500),
    "examples": (2500, 10_000, 40_000, 160_000),
    "models": (1, 4, 16, 64),
}
_INPUTS, _STEPS, _ROUNDS = 784, 20, 9


def measure(options: Any) -> dict[str, Any]:
    """Time every size: ``points``, one a size, ``slopes`` and ``hardware``."""
    # Many models at once only on a GPU; elsewhere each has a process.
    varied = {name: sizes for name, sizes in VARIED.items() if name != "models" or options.device != "cpu"}
    points: list[dict[str, Any]] = []
    for name, sizes in varied.items():
        made = {value: _slice(options.device, **SIZES | {name: value}) for value in sizes}
        works = {value: work for value, (work, _) in made.items()}
        times = common.timed_rounds(works, lambda: None, 0, at_least=_ROUNDS, device=options.device)
        for value, (_, steps) in made.items():
            seconds = common.rounded(np.median(times[value]) / steps)
            points.append({"varied": name, "size": value, **SIZES | {name: value}, "s_per_step": seconds})
    slopes = {}
    for name in varied:
        (few, fast), (many, slow) = [(float(p["size"]), p["s_per_step"]) for p in points if p["varied"] == name][-2:]
        slopes[name] = common.rounded(np.log(slow / fast) / np.log(many / few))
    if options.plot:
        plot(points, slopes, Path(options.plot))
    return {"points": points, "slopes": slopes, "hardware": common.hardware(options.device)}


def _slice(device: str, units: int, k: int, batch: int, examples: int, models: int) -> tuple[Any, int]:
    """What trains so many steps, warm."""
    rng = np.random.default_rng(0)
    x = rng.random((max(examples, batch), _INPUTS), np.float32)
    # Four of five pixels of MNIST are zero.
    x[rng.random(x.shape, np.float32) < 0.8] = 0
    config = TrainConfig(units=units, k=k, k_start=None, batch_size=batch)
    on_gpu = torch.device(device).type == "cuda"
    made = [new_model(replace(config, seed=seed), x) for seed in range(models)]
    engine = make_engine(made, x, config, "gpu" if on_gpu else "cpu")
    # On a GPU an epoch is one graph of all examples.
    steps = len(x) // batch if on_gpu else _STEPS

    def train(_: None) -> None:
        order = rng.permutation(len(x)) if on_gpu else rng.integers(len(x), size=steps * batch)
        engine.run_epoch(np.stack([order] * models), [k] * models, [1e-4] * models, 0.9)

    train(None)
    return train, steps


def plot(points: list[dict[str, Any]], slopes: dict[str, float], file: Path) -> None:
    """Draw time per step over each size, beside the ideal through its largest size."""
    table = pd.DataFrame(points)
    grid = sns.FacetGrid(table, col="varied", height=3, sharex=False)
    grid.map(sns.lineplot, "size", "s_per_step", marker="o", label="measured")
    for (name, slope), axis in zip(slopes.items(), grid.axes.flat, strict=True):
        found = table[table["varied"] == name]
        last = found.iloc[-1]
        ideal = last["s_per_step"] * (found["size"] / last["size"]) ** (name != "examples")
        axis.plot(found["size"], ideal, ":", color="0.4", label="ideal")
        axis.set(title=f"{name}: slope {slope:.2f} at the end", xlabel=name)
    grid.set(xscale="log", yscale="log", ylabel="seconds per step")
    grid.axes.flat[0].legend()
    with atomic_path(file) as temporary:
        grid.savefig(temporary, dpi=120, format=file.suffix[1:] or "png")
