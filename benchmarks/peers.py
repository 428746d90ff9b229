"""Seconds per MNIST epoch of this library and of those that train TopK autoencoders, in one run.

All train 1000 units on MNIST's 50,000 training images in batches of 100, float32, k = 25, by SGD with momentum 0.9
where the peer lets the user choose, each on the same batches (the gpu engine: on as many). Slices of an epoch are timed
in rounds, see ``benchmarks.common``. A peer that is not installed is left out and named; ``peers.txt`` says how to
install them. Ours and the plain loop have tied weights and no ReLU, as the paper, and both losses are in the results;
the peers have an encoder and a decoder, hence twice the parameters.
"""

import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from functools import lru_cache, partial
from importlib.metadata import version
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import common
from ksae_lib.engines.gpu import GpuEngine, Precision
from ksae_lib.training import TrainConfig, make_engine, new_model
from replication.data import load_data
from replication.data.base import DataConfig

OPTIONS = {"seconds": (120.0, "time for the timed rounds"), "steps": (50, "steps in a timed slice")}
OPTIONS |= {"k": (25, "units kept")} | common.DEVICE
UNITS, BATCH, MOMENTUM, _RATE, _AT_ONCE = 1000, 100, 0.9, 0.001, 20
Slice = Callable[[np.ndarray], float | None]
"""Trains on the examples at these places; returns their mean squared error, where that is the model's loss."""


class Peer(NamedTuple):
    """One way to train."""

    make: Callable[[Tensor, int], Slice]
    """From the examples, on the device, and k."""
    package: str | None = None
    """Whose version is recorded; None: this library."""
    model: str = "untied"
    optimizer: str = "SGD, momentum 0.9"
    models: int = 1
    """Trained at once: seconds are per model."""


def _ours(x: Tensor, k: int, engine: str) -> Slice:
    config, images = _config(k), x.cpu().numpy()
    made = make_engine([new_model(config, images)], images, config, engine)
    return lambda order: made.run_epoch(order[None], [k], [_RATE], MOMENTUM)[0].loss


def _batched(x: Tensor, k: int, models: int = 1, precision: Precision = "float32") -> Slice:
    images = x.cpu().numpy()
    made = [new_model(replace(_config(k), seed=seed), images) for seed in range(models)]

    # The engine's epoch is as long as its examples: a slice is an epoch of fewer.
    @lru_cache
    def engine(length: int) -> GpuEngine:
        return GpuEngine(made, images[:length], BATCH, x.device, precision)

    def train(order: np.ndarray) -> float:
        orders = np.tile(np.argsort(order), (models, 1))
        return engine(len(order)).run_epoch(orders, [k] * models, [_RATE] * models, MOMENTUM)[0].loss

    return train


def _config(k: int) -> TrainConfig:
    return TrainConfig(units=UNITS, k=k, k_start=None, batch_size=BATCH, learning_rate=_RATE)


def _loop(x: Tensor, model: nn.Module, loss: Callable[[Tensor], Tensor]) -> Slice:
    """The loop a reader would write."""
    optimizer = torch.optim.SGD(model.parameters(), _RATE, MOMENTUM)

    def train(order: np.ndarray) -> None:
        for rows in torch.from_numpy(order).to(x.device).split(BATCH):
            optimizer.zero_grad()
            loss(x[rows]).backward()
            optimizer.step()

    return train


def _squared(x: Tensor, reconstruction: Tensor) -> Tensor:
    return (x - reconstruction).square().sum(-1).mean()


def _overcomplete(x: Tensor, k: int) -> Slice:
    from overcomplete.sae import TopKSAE

    model = TopKSAE(x.shape[1], nb_concepts=UNITS, top_k=k, device=x.device)
    return _loop(x, model, lambda batch: _squared(batch, model(batch)[2]))


def _dictionary_learning(x: Tensor, k: int) -> Slice:
    from dictionary_learning.trainers.top_k import AutoEncoderTopK

    model = AutoEncoderTopK(x.shape[1], UNITS, k).to(x.device)
    return _loop(x, model, lambda batch: _squared(batch, model(batch)))


def _dictionary_learning_trainer(x: Tensor, k: int) -> Slice:
    from dictionary_learning.trainers.top_k import TopKTrainer

    sizes = {"steps": 10_000, "activation_dim": x.shape[1], "dict_size": UNITS, "k": k}
    trainer, step = TopKTrainer(layer=0, lm_name="none", device=str(x.device), **sizes), count()

    def train(order: np.ndarray) -> None:
        for rows in torch.from_numpy(order).to(x.device).split(BATCH):
            trainer.update(next(step), x[rows])

    return train


def _sae_lens(x: Tensor, k: int) -> Slice:
    from sae_lens.saes.sae import TrainStepInput
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig

    model = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=x.shape[1], d_sae=UNITS, k=k, device=str(x.device)))
    rest: dict[str, Any] = {"coefficients": {}, "dead_neuron_mask": None, "n_training_steps": 0}
    rest["is_logging_step"] = False
    return _loop(x, model, lambda batch: model.training_forward_pass(TrainStepInput(sae_in=batch, **rest)).loss)


def _sparsify(x: Tensor, k: int) -> Slice:
    if x.device.type == "cpu":
        # Its Triton kernel has no processor to run on.
        os.environ.setdefault("SPARSIFY_DISABLE_TRITON", "1")
    from sparsify import SparseCoder, SparseCoderConfig

    model = SparseCoder(x.shape[1], SparseCoderConfig(num_latents=UNITS, k=k), device=x.device)
    return _loop(x, model, lambda batch: model(batch).fvu)


_many = partial(_batched, models=_AT_ONCE)
ON_CPU = {
    "ours, cpu engine": Peer(partial(_ours, engine="cpu"), model="tied"),
    "plain autograd": Peer(partial(_ours, engine="reference"), model="tied"),
}
ON_GPU = {
    "ours, gpu engine": Peer(_batched, model="tied"),
    f"ours, gpu engine, {_AT_ONCE} models": Peer(_many, model="tied", models=_AT_ONCE),
    f"ours, gpu engine, {_AT_ONCE} models, TF32": Peer(partial(_many, precision="tf32"), model="tied", models=_AT_ONCE),
}
PEERS = {
    "overcomplete TopKSAE": Peer(_overcomplete, "overcomplete"),
    "dictionary_learning AutoEncoderTopK": Peer(_dictionary_learning, "dictionary-learning"),
    "dictionary_learning TopKTrainer": Peer(_dictionary_learning_trainer, "dictionary-learning", optimizer="its own"),
    "SAELens TopKTrainingSAE": Peer(_sae_lens, "sae-lens"),
    "sparsify SparseCoder": Peer(_sparsify, "eai-sparsify"),
}


def measure(options: Any) -> dict[str, Any]:
    """Time what is installed: ``peers`` by name, those ``left_out`` and why, and on what."""
    x, device, rng = load_data(DataConfig()).train_x, options.device, np.random.default_rng(0)
    images, in_slice = torch.from_numpy(x).to(device), options.steps * BATCH
    peers = (ON_GPU if torch.device(device).type == "cuda" else ON_CPU) | PEERS
    slices, left_out, losses = {}, {}, {}
    for name, peer in peers.items():
        try:
            with redirect_stdout(sys.stderr):
                train = peer.make(images, options.k)
            slices[name] = lambda order, name=name, train=train: losses.update({name: train(order)})
        except ImportError as error:
            left_out[name] = f"not installed: {error}"

    def following() -> np.ndarray:
        return rng.permutation(len(x))[:in_slice]

    warm_up = following()
    for one in slices.values():
        one(warm_up)
    times = common.timed_rounds(slices, following, options.seconds, at_least=5, device=device)
    epochs = {name: values * len(x) / in_slice / peers[name].models for name, values in times.items()}
    fastest = min((np.median(values) for name, values in epochs.items() if peers[name].package), default=None)
    rows = {
        name: {
            "version": (package := peers[name].package) and version(package), "model": peers[name].model,
            "optimizer": peers[name].optimizer, "s_per_epoch": common.rounded(np.median(values)),
            "quartiles": common.quartiles(values),
            "fastest_peer_over_this": fastest and common.rounded(fastest / np.median(values)),
            "loss": losses[name] and common.rounded(losses[name]),
        }
        for name, values in epochs.items()
    }  # fmt: skip
    task = {"images": len(x), "inputs": x.shape[1], "units": UNITS, "k": options.k, "batch_size": BATCH}
    on = {"steps_per_slice": options.steps, "task": task, "hardware": common.hardware(device)}
    return {"peers": rows, "left_out": left_out, "rounds": len(next(iter(times.values()))), **on}
