"""Seconds per MNIST epoch of fine-tuning: k-sparse nets by sparse kernels beside dense nets, in one run.

As in ``benchmarks.engines``, every round times the same short slice of an epoch for each net in turn. All nets have
layers of 1000 units and go on from random encoders; the k-sparse ones keep αk = 75. A k-sparse net by autograd shows
what the kernels save.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.engines import PAUSE_SECONDS, TASKS, hardware, output_options, present, rounded
from ksae_lib import KSparseAutoencoder
from replication.data import load_mnist
from replication.judge.finetune import FinetuneConfig, NetEngine, make_engine, new_net
from replication.methods import AutoencoderConfig
from replication.methods.autoencoder import Autoencoder

_K, _UNITS, _CLASSES = 25, 1000, 10
_RATE, _MOMENTUM = 0.1, 0.25


def _engines(x: np.ndarray, y: np.ndarray) -> dict[str, NetEngine]:
    inputs, config = x.shape[1], FinetuneConfig()
    noise = torch.Generator().manual_seed(0)

    def k_sparse(size: int) -> KSparseAutoencoder:
        model = KSparseAutoencoder(size, _UNITS, _K)
        model.initialize(0.05, noise)
        return model

    def dense(size: int) -> Autoencoder:
        return AutoencoderConfig(weight_std=0.05).build(size)

    encoders: dict[str, list[KSparseAutoencoder | Autoencoder]] = {
        "dense": [dense(inputs)],
        "k_sparse": [k_sparse(inputs)],
        "k_sparse_autograd": [k_sparse(inputs)],
        "deep_dense": [dense(inputs), dense(_UNITS)],
        "deep_k_sparse": [k_sparse(inputs), k_sparse(_UNITS)],
    }
    made = {}
    for name, stack in encoders.items():
        chosen = replace(config, engine="reference" if name.endswith("autograd") else "auto")
        made[name] = make_engine(new_net(stack, inputs, _CLASSES, chosen), x, y, chosen, 0, noise)
    return made


def benchmark(x: np.ndarray, y: np.ndarray, seconds: float, steps: int) -> dict[str, Any]:
    """Time the nets.

    Args:
        x: examples (shape: [examples, inputs]).
        y: classes (shape: [examples]).
        seconds: no round starts later than this after the first; there is at least one.
        steps: length of a timed slice.

    Returns:
        Median seconds per epoch by net with quartiles, ratios to the dense nets, and ``hardware``.
    """
    engines = _engines(x, y)
    rng = np.random.default_rng(0)
    size = steps * FinetuneConfig.batch_size
    times: dict[str, list[float]] = {name: [] for name in engines}
    for engine in engines.values():
        engine.run_epoch(rng.integers(len(x), size=2 * FinetuneConfig.batch_size), _RATE, _MOMENTUM)
    started = time.perf_counter()
    while not times["dense"] or time.perf_counter() - started < seconds:
        order = rng.integers(len(x), size=size)
        for name, engine in engines.items():
            time.sleep(PAUSE_SECONDS)
            begun = time.perf_counter()
            engine.run_epoch(order, _RATE, _MOMENTUM)
            times[name].append((time.perf_counter() - begun) * TASKS["mnist"].epoch / size)
    ratios = {
        "dense_over_k_sparse": [d / k for d, k in zip(times["dense"], times["k_sparse"], strict=True)],
        "deep_dense_over_deep_k_sparse": [
            d / k for d, k in zip(times["deep_dense"], times["deep_k_sparse"], strict=True)
        ],
    }
    figures = {f"{name}_s_per_epoch": values for name, values in times.items()} | ratios
    return {name: rounded(median(values)) for name, values in figures.items()} | {
        "quartiles": {name: [rounded(q) for q in np.percentile(v, [25, 75])] for name, v in figures.items()},
        "rounds": len(times["dense"]),
        "steps_per_slice": steps,
        "hardware": hardware(),
    }


def table(results: dict[str, Any]) -> str:
    """Lay the results out as aligned text."""
    lines = [
        f"{name:34}{results[name]:8.3f}   {low:.3f}–{high:.3f}" for name, (low, high) in results["quartiles"].items()
    ]
    machine = results["hardware"]
    title = (
        f"Fine-tuning, {machine['cpu']}, {machine['cores']} cores: median and quartiles of {results['rounds']} rounds"
    )
    return "\n".join([title, *lines])


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.finetuning", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=30.0, help="time for the timed rounds (default: 30)")
    parser.add_argument("--steps", type=int, default=25, help="steps in a timed slice (default: 25)")
    output_options(parser)
    options = parser.parse_args(arguments)
    if options.steps < 1:
        parser.error(f"--steps {options.steps} is not possible: it must be at least 1.")
    data = load_mnist()
    results = benchmark(data.train_x, data.train_y, options.seconds, options.steps)
    present(results, table, options)


if __name__ == "__main__":
    main()
