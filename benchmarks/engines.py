"""Seconds per epoch of the cpu engine, beside plain autograd and beside the dense encode products alone.

An epoch is MNIST's 50,000 images × 784 pixels with 1000 units, or NORB's 20,000 pairs × 2048 pixels (of its
stand-in, toy NORB) with 4000 units; float32, centered start. Slices of some steps are timed in rounds and scaled up;
ratios are formed within a round. Both engines go on from one state, reached by warm-up steps that also pay for
compilation.

The floor is the time of the epoch's dense encode products alone (``torch.addmm``), in batches of the same size with the
same threads: no way of training that encodes by a dense float32 product goes below it. On MNIST the cpu engine leaves
out the zero pixels, and can.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks import common
from ksae_lib.engines.base import Engine
from ksae_lib.training import TrainConfig, make_engine, new_model
from replication.data import load_data
from replication.data.base import DataConfig

OPTIONS = {
    "seconds": (60.0, "time for the timed rounds"),
    "examples": (5000, "examples in a timed slice"),
    "task": ("mnist", "data and sizes, or norb"),
    "k": ("", "units kept, several with commas between; by default 25 and 100, of NORB 75, 150 and 200"),
}
WARM_UP_EXAMPLES = 20_000
_TOY = DataConfig(name="toy_norb", share=31, train_size=600, validation_size=100, test_size=100)
_START: dict[str, Any] = {"k_start": None, "bias_init": "centered"}
TASKS = {
    "mnist": (DataConfig(), 50_000, TrainConfig(**_START), "25,100", 20),
    "norb": (_TOY, 20_000, TrainConfig(**_START, units=4000, learning_rate=0.0001), "75,150,200", None),
}
"""What is trained: data, how many make an epoch, settings that k is added to, each k, and a smaller batch."""


def measure(options: Any) -> dict[str, Any]:
    """Time the engines for each net: ``nets`` by name, ``task`` and ``hardware``."""
    if options.task not in TASKS:
        raise ValueError(f"--task {options.task} is not possible: choose one of {', '.join(TASKS)}.")
    data, epoch, train, ks, small = TASKS[options.task]
    x, rng = load_data(data).train_x, np.random.default_rng(0)
    configs = {f"k = {k}": replace(train, k=int(k)) for k in (options.k or ks).split(",")}
    if small:
        # Half the rate: smaller batches diverge earlier.
        net, config = next(iter(configs.items()))
        half = config.learning_rate / 2
        configs[f"{net}, batches of {small}"] = replace(config, batch_size=small, learning_rate=half)
    slices: dict[tuple[str, str], Any] = {}
    for net, config in configs.items():
        slices |= {(net, name): partial(run, engine, config) for name, engine in warm_engines(x, config, rng).items()}
        batches = torch.from_numpy(np.resize(x, (options.examples, x.shape[1]))).split(config.batch_size)
        slices[net, "floor"] = partial(_multiply, batches, torch.full((config.units, x.shape[1]), 0.01))
    times = common.timed_rounds(slices, lambda: rng.integers(len(x), size=options.examples), options.seconds)
    rows = {}
    for net in configs:
        seconds = {name: times[net, name] * epoch / options.examples for name in ("cpu", "reference", "floor")}
        figures = {
            "reference_over_cpu": seconds["reference"] / seconds["cpu"],
            "cpu_over_floor": seconds["cpu"] / seconds["floor"],
            "cpu_over_first": times[net, "cpu"] / times[next(iter(configs)), "cpu"],
        }
        rows[net] = common.summary(figures | {f"{name}_s_per_epoch": value for name, value in seconds.items()})
    task = {"data": data.title, "examples": epoch, "inputs": x.shape[1], "units": train.units}
    nonzero = common.rounded(np.count_nonzero(x) / x.size)
    return {
        "nets": rows,
        "task": task | {"batches of": train.batch_size, "in a slice": options.examples},
        "hardware": common.hardware() | {"nonzero_inputs": nonzero},
    }


def warm_engines(x: np.ndarray, config: TrainConfig, rng: np.random.Generator) -> dict[str, Engine]:
    """Both engines, compiled, in the state that warm-up steps lead to."""
    made = {name: make_engine([new_model(config, x)], x, config, name) for name in ("cpu", "reference")}
    run(made["cpu"], config, rng.integers(len(x), size=WARM_UP_EXAMPLES))
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


def _multiply(batches: tuple[torch.Tensor, ...], weight: torch.Tensor, _: np.ndarray) -> None:
    out, bias = torch.empty(len(batches[0]), len(weight)), torch.zeros(len(weight))
    for rows in batches:
        torch.addmm(bias, rows, weight.T, out=out[: len(rows)])
