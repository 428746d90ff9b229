"""Seconds per epoch of the engines, beside the floor this machine's arithmetic and memory set.

An epoch is MNIST's 50,000 images × 784 pixels with 1000 units, or NORB's 20,000 pairs × 2048 pixels (of its
stand-in, toy NORB) with 4000 units; batches of 100, float32. It is not run whole: every
round times the same short slice of an epoch for each engine in turn, so that a machine whose speed
drifts or is shared hurts all of them alike, and seconds are scaled up by steps. Figures are medians over
the rounds, the ratio and the floor being formed within a round first. Both engines go on from the same
state, reached by warm-up steps that also pay for compilation.

The floor is that of a *dense* encode product, at the rate of a large float32 product measured in the same
round, plus reading and writing weights and velocities once per step, at the rate of a numba kernel that
does this with arrays of their size (MNIST: 6 MB, so caches count; NORB: 66 MB): v ← m v, w ← w + v, all that
is left of an update without gradients. On MNIST the cpu engine leaves out the zero pixels, so it can go below
that; a second floor counts the others only.

Torch's threads (reference) and numba's (cpu) live in one process here. Threads that have just finished
can spin for a while in case more work comes, hence the pause before each slice. Alone in its process (2
cores of an AMD EPYC) the cpu engine took 1% less at k = 25 and 4% less at k = 100, no more than its rounds
here differ among themselves; the reference engine alone has not been compared on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numba as nb
import numpy as np
import torch
from replication.plan import DataConfig
from tqdm import tqdm

from ksae_lib.engines.base import Engine
from ksae_lib.io import write_text
from ksae_lib.training import TrainConfig, make_engine, new_model
from replication.execute import load_data

WARM_UP_STEPS = 200
PRODUCT_SIZE = 2048
PAUSE_SECONDS = 0.02
_CPUINFO = Path("/proc/cpuinfo")
_ENGINES: dict[str, dict[str, Any]] = {
    "reference": {"engine": "reference"},
    "cpu": {"engine": "cpu"},
    "cpu_bfloat16": {"engine": "cpu", "support_dtype": "bfloat16"},
}
Rounds = dict[str, list[float]]


class Task(NamedTuple):
    """What is trained: data, how many of them make an epoch, and the settings that k is added to."""

    data: DataConfig
    epoch: int
    train: TrainConfig
    ks: tuple[int, ...]


TASKS = {
    "mnist": Task(DataConfig(), 50_000, TrainConfig(), (25, 100)),
    "norb": Task(
        DataConfig(name="toy_norb", share=31, train_size=600, validation_size=100, test_size=100),
        20_000,
        TrainConfig(units=4000, learning_rate=0.0001),
        (75, 150, 200),
    ),
}


def benchmark(
    x: np.ndarray, ks: Sequence[int], seconds: float, steps: int, task: Task = TASKS["mnist"]
) -> dict[str, dict[str, Any]]:
    """Time the engines.

    Args:
        x: examples (shape: [examples, inputs]).
        ks: units kept, one row of results each.
        seconds: no round starts later than this after the first; there is at least one.
        steps: length of a timed slice.
        task: settings and length of an epoch.

    Returns:
        Results by k as a string, ``task`` and ``hardware``.
    """
    slices = [_Slices(x, k, steps, task) for k in ks]
    peaks: Rounds = {"flop_per_s": [], "bytes_per_s": []}
    update_s = _update_timer(task.train.units, x.shape[1])
    update_bytes = 4 * task.train.units * x.shape[1] * 4
    started = time.perf_counter()
    rounds = 0
    with tqdm(desc="Timing", unit=" rounds", disable=None, leave=False) as bar:
        while rounds == 0 or time.perf_counter() - started < seconds:
            for one in slices:
                one.round()
            peaks["flop_per_s"].append(product_rate(PRODUCT_SIZE))
            peaks["bytes_per_s"].append(update_bytes / update_s())
            rounds += 1
            bar.update()
    density = np.count_nonzero(x) / x.size
    results = {str(one.k): one.result(peaks, density) for one in slices}
    results["task"] = {
        "data": task.data.title, "examples": task.epoch, "inputs": x.shape[1], "units": task.train.units,
        "batch_size": task.train.batch_size,
    }  # fmt: skip
    results["hardware"] = hardware() | {
        "sgemm_gflop_per_s": rounded(median(peaks["flop_per_s"]) / 1e9),
        "update_gbyte_per_s": rounded(median(peaks["bytes_per_s"]) / 1e9),
        "nonzero_inputs": rounded(density),
    }
    return results


class _Slices:
    """The engines at one k, and how long their slices took."""

    def __init__(self, x: np.ndarray, k: int, steps: int, task: Task) -> None:
        self.k = k
        self.task = task
        self.steps = steps
        self.x = x
        self.rng = np.random.default_rng(0)
        self.engines = {
            name: self._engine(replace(task.train, k=k, k_start=None), **how) for name, how in _ENGINES.items()
        }
        self.seconds: Rounds = {name: [] for name in self.engines}
        self._warm_up()

    def _engine(self, config: TrainConfig, engine: str, **changes: Any) -> Engine:
        config = replace(config, **changes)
        return make_engine([new_model(config, self.x)], self.x, config, engine)

    def _warm_up(self) -> None:
        first = self.engines["cpu"]
        self._run(first, self._order(WARM_UP_STEPS))
        order = self._order(2)
        for engine in self.engines.values():
            if engine is not first:
                engine.models[0].load_state_dict(first.models[0].state_dict())
                for name, velocity in engine.velocity.items():
                    velocity.copy_(first.velocity[name])
        for engine in self.engines.values():
            self._run(engine, order)

    def _order(self, steps: int) -> np.ndarray:
        return self.rng.integers(len(self.x), size=steps * self.task.train.batch_size)

    def _run(self, engine: Engine, order: np.ndarray) -> None:
        engine.run_epoch(order[None], [self.k], [self.task.train.learning_rate], self.task.train.momentum)

    def round(self) -> None:
        """Time one slice of each engine, the same examples for all."""
        order = self._order(self.steps)
        for name, engine in self.engines.items():
            time.sleep(PAUSE_SECONDS)
            started = time.perf_counter()
            self._run(engine, order)
            self.seconds[name].append((time.perf_counter() - started) * self.task.epoch / len(order))

    def result(self, peaks: Rounds, density: float) -> dict[str, Any]:
        """Medians and quartiles, with the floors the ``peaks`` of the same rounds set."""
        train, epoch = self.task.train, self.task.epoch
        weights = train.units * self.x.shape[1]
        steps_per_epoch = epoch // train.batch_size
        encode_s = [2 * weights * epoch / rate for rate in peaks["flop_per_s"]]
        update_s = [4 * weights * 4 * steps_per_epoch / rate for rate in peaks["bytes_per_s"]]
        figures = {f"{name}_s_per_epoch": seconds for name, seconds in self.seconds.items()} | {
            "ratio": [r / c for r, c in zip(self.seconds["reference"], self.seconds["cpu"], strict=True)],
            "floor_s_per_epoch": [e + u for e, u in zip(encode_s, update_s, strict=True)],
            "sparse_floor_s_per_epoch": [e * density + u for e, u in zip(encode_s, update_s, strict=True)],
        }
        return {name: rounded(median(values)) for name, values in figures.items()} | {
            "quartiles": {
                name: [rounded(q) for q in np.percentile(values, [25, 75])] for name, values in figures.items()
            },
            "rounds": len(encode_s),
            "steps_per_slice": self.steps,
        }


def product_rate(size: int, device: str = "cpu") -> float:
    """Float32 operations a second in a product of two matrices of this size."""
    a = torch.ones(size, size, device=device)
    out = torch.empty_like(a)
    return 2 * size**3 / best_of(3, lambda: torch.mm(a, a, out=out), device)


def _update_timer(units: int, inputs: int) -> Callable[[], float]:
    weight, velocity = torch.zeros(2, units * inputs).numpy()
    momentum = np.float32(TrainConfig.momentum)
    _update_without_gradient(weight, velocity, momentum)
    return lambda: best_of(20, lambda: _update_without_gradient(weight, velocity, momentum))


@nb.njit(parallel=True, cache=True)
def _update_without_gradient(weight: np.ndarray, velocity: np.ndarray, momentum: np.float32) -> None:
    for i in nb.prange(weight.size):
        velocity[i] *= momentum
        weight[i] += velocity[i]


def best_of(times: int, work: Callable[[], object], device: str = "cpu") -> float:
    """Seconds the work takes on the device when nothing disturbs it."""
    best = float("inf")
    time.sleep(PAUSE_SECONDS)
    for _ in range(times):
        wait(device)
        started = time.perf_counter()
        work()
        wait(device)
        best = min(best, time.perf_counter() - started)
    return best


def wait(device: str) -> None:
    """Return when the device has done all it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def rounded(value: float) -> float:
    """Four digits of it."""
    return float(f"{value:.4g}")


def hardware(device: str = "cpu") -> dict[str, Any]:
    """What was measured on."""
    names = [
        line.partition(":")[2].strip()
        for line in (_CPUINFO.read_text().splitlines() if _CPUINFO.exists() else [])
        if line.startswith("model name")
    ]
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "numba": nb.__version__,
        "numba_threads": nb.get_num_threads(),
        **({"gpu": torch.cuda.get_device_name()} if torch.device(device).type == "cuda" else {}),
    }


def table(results: dict[str, dict[str, Any]]) -> str:
    """Lay the results out as aligned text."""
    columns = {
        "reference": "reference_s_per_epoch",
        "cpu": "cpu_s_per_epoch",
        "cpu bfloat16": "cpu_bfloat16_s_per_epoch",
        "ratio": "ratio",
        "floor": "floor_s_per_epoch",
        "sparse floor": "sparse_floor_s_per_epoch",
    }
    rows = {k: row for k, row in results.items() if k.isdigit()}
    first = next(iter(rows.values()))
    task, machine = results["task"], results["hardware"]
    cells = [["k", *columns]]
    for k, row in rows.items():
        cells.append([k, *(f"{row[name]:.3f}" for name in columns.values())])
        cells.append(["", *("{:.3f}–{:.3f}".format(*row["quartiles"][name]) for name in columns.values())])
    lines = ["".join(f"{cell:>15}" if i else f"{cell:>4}" for i, cell in enumerate(line)) for line in cells]
    return "\n".join(
        [
            f"Seconds per epoch ({task['data']}: {task['examples']:,} × {task['inputs']}, {task['units']} units, "
            f"batches of {task['batch_size']}, float32) and ratio = reference / cpu",
            "",
            *lines,
            "",
            f"Median and quartiles of {first['rounds']} rounds, each a slice of {first['steps_per_slice']} steps, "
            "scaled to an epoch.",
            f"Floor: dense encode product at {machine['sgemm_gflop_per_s']} GFLOP/s, plus weights and velocities "
            f"read and written once per step at {machine['update_gbyte_per_s']} GB/s.",
            f"Sparse floor: the same with only the {machine['nonzero_inputs']:.1%} of the inputs that are not zero. "
            "The cpu engine leaves out zeros, cpu bfloat16 does not.",
            f"Machine: {machine['cpu']}, {machine['cores']} cores; torch {machine['torch']}, numba {machine['numba']}.",
        ]
    )


def output_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every benchmark has: in what form its results come, and where to."""
    parser.add_argument("--json", action="store_true", help="print one JSON object in place of the table")
    parser.add_argument("--output", type=Path, help="also write the JSON to this file")


def present(results: dict[str, Any], table: Callable[[dict[str, Any]], str], options: argparse.Namespace) -> None:
    """Print results, and write them, as ``output_options`` ask for."""
    text = json.dumps(results, indent=2)
    if options.output is not None:
        write_text(options.output, text + "\n")
    print(text if options.json else table(results))


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engines",
        description="Seconds per epoch of the engines, extrapolated from slices of an epoch.",
    )
    parser.add_argument("--task", choices=TASKS, default="mnist", help="data and sizes (default: mnist)")
    parser.add_argument("--k", type=int, nargs="+", help="units kept (default: 25 100; norb: 75 150 200)")
    parser.add_argument("--seconds", type=float, default=30.0, help="time for the timed rounds (default: 30)")
    parser.add_argument("--steps", type=int, default=25, help="steps in a timed slice (default: 25)")
    output_options(parser)
    options = parser.parse_args(arguments)
    if options.steps < 1:
        parser.error(f"--steps {options.steps} is not possible: it must be at least 1.")
    task = TASKS[options.task]
    ks = options.k or task.ks
    for k in ks:
        if not 1 <= k <= task.train.units:
            parser.error(f"--k {k} is not possible: choose numbers from 1 to {task.train.units}.")
    results = benchmark(load_data(task.data).train_x, ks, options.seconds, options.steps, task)
    present(results, table, options)


if __name__ == "__main__":
    main()
