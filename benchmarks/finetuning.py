"""Seconds per MNIST epoch of fine-tuning: k-sparse nets by sparse kernels beside dense nets, in one run.

Slices of an epoch are timed in rounds, see ``benchmarks.common``. All nets have layers of 1000 units and go on from
random encoders; the k-sparse ones keep αk = 75. A k-sparse net by autograd shows what the kernels save.
"""

from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks import common
from replication.data import load_data
from replication.data.base import DataConfig
from replication.judge.finetune import AutogradEngine, FinetuneConfig, new_net
from replication.judge.sparse_net import SparseNetEngine
from replication.methods.layer import Layer

OPTIONS = common.SLICES
_KEPT, _UNITS, _CLASSES, _EPOCH, _BATCH = 75, 1000, 10, 50_000, 100
_NETS: dict[str, tuple[int, int | None, bool]] = {
    "dense": (1, None, False),
    "k_sparse": (1, _KEPT, True),
    "k_sparse_autograd": (1, _KEPT, False),
    "deep_dense": (2, None, False),
    "deep_k_sparse": (2, _KEPT, True),
}
"""Layers, units kept (None: all, ReLU), and whether sparse kernels train the net."""


def _engine(x: np.ndarray, y: np.ndarray, depth: int, kept: int | None, by_kernels: bool) -> Any:
    noise = torch.Generator().manual_seed(0)
    weights = [torch.empty(_UNITS, n).normal_(0, 0.05, generator=noise) for n in (x.shape[1], _UNITS)[:depth]]
    layers = [Layer(w, torch.zeros(_UNITS), "relu" if kept is None else "linear", kept) for w in weights]
    net = new_net(layers, x.shape[1], _CLASSES, FinetuneConfig())
    velocity = [torch.zeros_like(p) for p in net.parameters()]
    if by_kernels:
        return SparseNetEngine(net, velocity, x, y, _BATCH)
    return AutogradEngine(net, velocity, torch.from_numpy(x), torch.from_numpy(y), _BATCH, noise)


def measure(options: Any) -> dict[str, Any]:
    """Time the nets: seconds per epoch by net, ratios to the dense nets, ``hardware``."""
    data, rng, in_slice = load_data(DataConfig()), np.random.default_rng(0), options.steps * _BATCH
    slices = {
        name: partial(_engine(data.train_x, data.train_y, *how).run_epoch, rate=0.1, momentum=0.25, fixed=0)
        for name, how in _NETS.items()
    }
    for one in slices.values():
        one(rng.integers(len(data.train_x), size=(1, 2 * _BATCH)))
    times = common.timed_rounds(slices, lambda: rng.integers(len(data.train_x), size=(1, in_slice)), options.seconds)
    figures = {f"{name}_s_per_epoch": values * _EPOCH / in_slice for name, values in times.items()}
    for dense, k_sparse in (("dense", "k_sparse"), ("deep_dense", "deep_k_sparse")):
        figures[f"{dense}_over_{k_sparse}"] = times[dense] / times[k_sparse]
    return common.summary(figures) | {"steps_per_slice": options.steps, "hardware": common.hardware()}
