"""Seconds per epoch of the engines, beside the floor this machine's arithmetic and memory set.

An epoch is MNIST's 50,000 images × 784 pixels with 1000 units, or NORB's 20,000 pairs × 2048 pixels (of its
stand-in, toy NORB) with 4000 units; batches of 100, float32. Slices of a few steps are timed in rounds and scaled up;
the ratio, reference / cpu, and the floor are formed within a round. All engines go on from one state, reached by
warm-up steps that also pay for compilation.

The floor is that of a dense encode product, at the rate of a large float32 product measured in the same round, plus
reading and writing weights and velocities once per step, at the rate of a numba kernel that does this with arrays of
their size (MNIST: 6 MB, so caches count; NORB: 66 MB): v ← m v, w ← w + v, all that is left of an update without
gradients. On MNIST the cpu engine leaves out the zero pixels (bfloat16 support does not), so it can go below that; the
sparse floor counts the others only.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numba as nb
import numpy as np
import torch

from benchmarks import common
from ksae_lib.engines.base import Engine
from ksae_lib.training import TrainConfig, make_engine, new_model
from replication.data import load_data
from replication.data.base import DataConfig

OPTIONS = common.SLICES | {
    "task": ("mnist", "data and sizes, or norb"),
    "k": ("", "units kept, several with commas between; by default 25 and 100, of NORB 75, 150 and 200"),
}
WARM_UP_STEPS = 200
_TOY = DataConfig(name="toy_norb", share=31, train_size=600, validation_size=100, test_size=100)
TASKS = {
    "mnist": (DataConfig(), 50_000, TrainConfig(), "25,100"),
    "norb": (_TOY, 20_000, TrainConfig(units=4000, learning_rate=0.0001), "75,150,200"),
}
"""What is trained: data, how many of them make an epoch, the settings that k is added to, and each k."""
_ENGINES: dict[str, tuple[str, dict[str, Any]]] = {
    "reference": ("reference", {}),
    "cpu": ("cpu", {}),
    "cpu_bfloat16": ("cpu", {"support_dtype": "bfloat16"}),
}


def measure(options: Any) -> dict[str, Any]:
    """Time the engines at each k: results by k as a string, ``task`` and ``hardware``."""
    if options.task not in TASKS:
        raise ValueError(f"--task {options.task} is not possible: choose one of {', '.join(TASKS)}.")
    data, epoch, train, ks = TASKS[options.task]
    x, rng = load_data(data).train_x, np.random.default_rng(0)
    configs = [replace(train, k=int(k), k_start=None) for k in (options.k or ks).split(",")]
    slices = {
        (config.k, name): partial(run, engine, config)
        for config in configs
        for name, engine in warm_engines(x, config, rng).items()
    }
    in_slice, weights = options.steps * train.batch_size, train.units * x.shape[1]
    rates = {"flop": lambda: common.product_rate(common.PRODUCT_SIZE), "bytes": _update_rate(weights)}
    times = common.timed_rounds(slices, lambda: rng.integers(len(x), size=in_slice), options.seconds, rates=rates)
    density = np.count_nonzero(x) / x.size
    encode_s = 2 * weights * epoch / times["flop"]
    update_s = 4 * 4 * weights * (epoch // train.batch_size) / times["bytes"]
    floors = {"floor_s_per_epoch": encode_s + update_s, "sparse_floor_s_per_epoch": encode_s * density + update_s}
    rows = {}
    for config in configs:
        figures = {f"{name}_s_per_epoch": times[config.k, name] * epoch / in_slice for name in _ENGINES}
        figures["ratio"] = times[config.k, "reference"] / times[config.k, "cpu"]
        rows[str(config.k)] = common.summary(figures | floors) | {"steps_per_slice": options.steps}
    task = {"data": data.title, "examples": epoch, "inputs": x.shape[1], "units": train.units}
    hardware = common.hardware() | {
        "sgemm_gflop_per_s": common.rounded(np.median(times["flop"]) / 1e9),
        "update_gbyte_per_s": common.rounded(np.median(times["bytes"]) / 1e9),
        "nonzero_inputs": common.rounded(density),
    }
    return rows | {"task": task | {"batch_size": train.batch_size}, "hardware": hardware}


def warm_engines(x: np.ndarray, config: TrainConfig, rng: np.random.Generator) -> dict[str, Engine]:
    """Every engine, compiled, all in the state that warm-up steps lead to."""
    made = {
        name: make_engine([new_model(config, x)], x, replace(config, **changes), engine)
        for name, (engine, changes) in _ENGINES.items()
    }
    run(made["cpu"], config, rng.integers(len(x), size=WARM_UP_STEPS * config.batch_size))
    warm = {name: value.clone() for name, value in made["cpu"].state().items()}
    order = rng.integers(len(x), size=2 * config.batch_size)
    for engine in made.values():
        for name, value in engine.state().items():
            value.copy_(warm[name])
        run(engine, config, order)
    return made


def run(engine: Engine, config: TrainConfig, order: np.ndarray) -> None:
    """Train on the examples at these places."""
    engine.run_epoch(order[None], [config.k], [config.learning_rate], config.momentum)


def _update_rate(weights: int) -> Callable[[], float]:
    weight, velocity = torch.zeros(2, weights).numpy()
    work = partial(_update_without_gradient, weight, velocity, np.float32(TrainConfig.momentum))
    work()
    return lambda: 4 * 4 * weights / common.best_of(20, work)


@nb.njit(parallel=True, cache=True)
def _update_without_gradient(weight: np.ndarray, velocity: np.ndarray, momentum: np.float32) -> None:
    for i in nb.prange(weight.size):
        velocity[i] *= momentum
        weight[i] += velocity[i]
