"""Seconds per MNIST epoch of this library and of those that train TopK autoencoders, in one run.

All train 1000 units on MNIST's 50,000 training images in batches of 100, float32, k = 25, by SGD with momentum 0.9
where the peer lets the user choose, each on the same batches (the gpu engine: on as many). As in
``benchmarks.engines``, every round times the same short slice of an epoch for each in turn; seconds are scaled up by
steps and figures are medians over the rounds. A peer that is not installed is left out and named:
``pip install -r benchmarks/peers.txt`` into an environment of its own, beside this project (it wants a later
matplotlib than overcomplete; pip says so, and the benchmark draws nothing).

The peers are not all the same model. Ours and the plain loop have tied weights and no ReLU, as the paper; the peers
have an encoder and a decoder, hence twice the parameters. Losses of ours and of the plain loop, which are the same
model, are both in the results; ``benchmarks.engines`` has the floor of the machine.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.engines import PAUSE_SECONDS, hardware, output_options, present, rounded, wait
from ksae_lib.engines.gpu import GpuEngine, Precision
from ksae_lib.training import TrainConfig, make_engine, new_model
from replication.data import load_mnist

UNITS, BATCH, MOMENTUM = 1000, 100, 0.9
EPOCHS_OF_THE_PAPER = 5000
_RATE = 0.001
_AT_ONCE = 20
_WARM_UP_STEPS = 10

Slice = Callable[[np.ndarray], float | None]
"""Trains on the examples at these places; returns their mean squared error, where that is the model's loss."""


class Peer(NamedTuple):
    """One way to train."""

    package: str | None
    """Whose version is recorded; None: this library."""
    model: str
    optimizer: str
    make: Callable[[Tensor, int], Slice]
    """From the examples, on the device, and k."""
    models: int = 1
    """Trained at once: seconds are per model."""


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


def _ours(engine: str) -> Callable[[Tensor, int], Slice]:
    def make(x: Tensor, k: int) -> Slice:
        config, images = _config(k), x.cpu().numpy()
        made = make_engine([new_model(config, images)], images, config, engine)
        return lambda order: made.run_epoch(order[None], [k], [_RATE], MOMENTUM)[0].loss

    return make


def _batched(models: int, precision: Precision) -> Callable[[Tensor, int], Slice]:
    def make(x: Tensor, k: int) -> Slice:
        images = x.cpu().numpy()
        made = [new_model(replace(_config(k), seed=seed), images) for seed in range(models)]
        engines: dict[int, GpuEngine] = {}

        def train(order: np.ndarray) -> float:
            # The engine's epoch is as long as its examples: a slice is an epoch of fewer.
            if len(order) not in engines:
                engines[len(order)] = GpuEngine(made, images[: len(order)], BATCH, x.device, precision)
            orders = np.tile(np.argsort(order), (models, 1))
            return engines[len(order)].run_epoch(orders, [k] * models, [_RATE] * models, MOMENTUM)[0].loss

        return train

    return make


def _config(k: int) -> TrainConfig:
    return TrainConfig(units=UNITS, k=k, k_start=None, batch_size=BATCH, learning_rate=_RATE)


def _overcomplete_model(x: Tensor, k: int) -> Any:
    from overcomplete.sae import TopKSAE

    return TopKSAE(x.shape[1], nb_concepts=UNITS, top_k=k, device=x.device)


def _overcomplete_loop(x: Tensor, k: int) -> Slice:
    model = _overcomplete_model(x, k)
    return _loop(x, model, lambda batch: _squared(batch, model(batch)[2]))


def _overcomplete_trainer(x: Tensor, k: int) -> Slice:
    from overcomplete.sae import train_sae
    from torch.utils.data import DataLoader, TensorDataset

    model = _overcomplete_model(x, k)
    optimizer = torch.optim.SGD(model.parameters(), _RATE, MOMENTUM)

    def train(order: np.ndarray) -> None:
        batches = DataLoader(TensorDataset(x[torch.from_numpy(order).to(x.device)]), BATCH)
        train_sae(
            model, batches, lambda batch, made, *_: _squared(batch, made), optimizer, nb_epochs=1, monitoring=0,
            device=x.device,
        )  # fmt: skip

    return train


def _dictionary_learning_loop(x: Tensor, k: int) -> Slice:
    from dictionary_learning.trainers.top_k import AutoEncoderTopK

    model = AutoEncoderTopK(x.shape[1], UNITS, k).to(x.device)
    return _loop(x, model, lambda batch: _squared(batch, model(batch)))


def _dictionary_learning_trainer(x: Tensor, k: int) -> Slice:
    from dictionary_learning.trainers.top_k import TopKTrainer

    trainer = TopKTrainer(
        steps=10_000, activation_dim=x.shape[1], dict_size=UNITS, k=k, layer=0, lm_name="none", device=str(x.device)
    )
    done = 0

    def train(order: np.ndarray) -> None:
        nonlocal done
        for rows in torch.from_numpy(order).to(x.device).split(BATCH):
            trainer.update(done, x[rows])
            done += 1

    return train


def _sae_lens(x: Tensor, k: int) -> Slice:
    from sae_lens.saes.sae import TrainStepInput
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig

    model = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=x.shape[1], d_sae=UNITS, k=k, device=str(x.device)))

    def loss(batch: Tensor) -> Tensor:
        step = TrainStepInput(
            sae_in=batch, coefficients={}, dead_neuron_mask=None, n_training_steps=0, is_logging_step=False
        )
        return model.training_forward_pass(step).loss

    return _loop(x, model, loss)


def _sparsify(x: Tensor, k: int) -> Slice:
    if x.device.type == "cpu":
        # Its Triton kernel has no processor to run on.
        os.environ.setdefault("SPARSIFY_DISABLE_TRITON", "1")
    from sparsify import SparseCoder, SparseCoderConfig

    model = SparseCoder(x.shape[1], SparseCoderConfig(num_latents=UNITS, k=k), device=x.device)
    return _loop(x, model, lambda batch: model(batch).fvu)


_SGD, _OWN = "SGD, momentum 0.9", "its own"
ON_CPU = {
    "ours, cpu engine": Peer(None, "tied", _SGD, _ours("cpu")),
    "plain autograd": Peer(None, "tied", _SGD, _ours("reference")),
}
ON_GPU = {
    "ours, gpu engine": Peer(None, "tied", _SGD, _batched(1, "float32")),
    f"ours, gpu engine, {_AT_ONCE} models": Peer(None, "tied", _SGD, _batched(_AT_ONCE, "float32"), _AT_ONCE),
    f"ours, gpu engine, {_AT_ONCE} models, TF32": Peer(None, "tied", _SGD, _batched(_AT_ONCE, "tf32"), _AT_ONCE),
}
PEERS = {
    "overcomplete TopKSAE": Peer("overcomplete", "untied", _SGD, _overcomplete_loop),
    "overcomplete train_sae": Peer("overcomplete", "untied", _SGD, _overcomplete_trainer),
    "dictionary_learning AutoEncoderTopK": Peer("dictionary-learning", "untied", _SGD, _dictionary_learning_loop),
    "dictionary_learning TopKTrainer": Peer("dictionary-learning", "untied", _OWN, _dictionary_learning_trainer),
    "SAELens TopKTrainingSAE": Peer("sae-lens", "untied", _SGD, _sae_lens),
    "sparsify SparseCoder": Peer("eai-sparsify", "untied", _SGD, _sparsify),
}


def benchmark(x: np.ndarray, k: int, device: str, seconds: float, steps: int) -> dict[str, Any]:
    """Time everything that is installed.

    Args:
        x: images (shape: [images, pixels]).
        k: units kept.
        device: torch device.
        seconds: no round starts later than this after the first; there are at least five.
        steps: length of a timed slice.

    Returns:
        ``peers`` by name, those ``left_out`` with the reason, ``task`` and ``hardware``.
    """
    on_gpu = torch.device(device).type == "cuda"
    images = torch.from_numpy(x).to(device)
    made, left_out, versions = {}, {}, {}
    for name, peer in ((ON_GPU if on_gpu else ON_CPU) | PEERS).items():
        try:
            versions[name] = None if peer.package is None else version(peer.package)
            with redirect_stdout(sys.stderr):
                made[name] = (peer, peer.make(images, k))
        except (ImportError, PackageNotFoundError) as error:
            left_out[name] = f"not installed: {error}"
    rng = np.random.default_rng(0)
    times: dict[str, list[float]] = {name: [] for name in made}
    losses: dict[str, list[float]] = {name: [] for name in made}
    for _, train in made.values():
        train(np.arange(_WARM_UP_STEPS * BATCH) % len(x))
    started, rounds = time.perf_counter(), 0
    while rounds < 5 or time.perf_counter() - started < seconds:
        order = rng.permutation(len(x))[: steps * BATCH]
        for name, (peer, train) in made.items():
            time.sleep(PAUSE_SECONDS)
            wait(device)
            begun = time.perf_counter()
            loss = train(order)
            wait(device)
            times[name].append((time.perf_counter() - begun) * len(x) / len(order) / peer.models)
            if loss is not None:
                losses[name].append(loss)
        rounds += 1
    fastest = min((median(values) for name, values in times.items() if made[name][0].package), default=None)
    return {
        "peers": {
            name: {
                "version": versions[name], "model": peer.model, "optimizer": peer.optimizer,
                "s_per_epoch": rounded(median(times[name])),
                "quartiles": [rounded(q) for q in np.percentile(times[name], [25, 75])],
                "fastest_peer_over_this": fastest and rounded(fastest / median(times[name])),
                "loss": rounded(losses[name][-1]) if losses[name] else None,
            }
            for name, (peer, _) in made.items()
        },
        "left_out": left_out,
        "rounds": rounds,
        "steps_per_slice": steps,
        "task": {"images": len(x), "inputs": x.shape[1], "units": UNITS, "k": k, "batch_size": BATCH},
        "hardware": hardware(device),
    }  # fmt: skip


def table(results: dict[str, Any]) -> str:
    """Lay the results out as aligned text."""
    task = results["task"]
    lines = [
        f"Seconds per epoch ({task['images']:,} × {task['inputs']}, {task['units']} units, k = {task['k']}, batches of "
        f"{task['batch_size']}), median of {results['rounds']} rounds",
        "",
    ]
    for name, row in results["peers"].items():
        low, high = row["quartiles"]
        lines.append(
            f"{name:42}{row['version'] or '':>10}{row['s_per_epoch']:>9.3f} s  ({low:.3f}–{high:.3f})"
            f"  {row['s_per_epoch'] * EPOCHS_OF_THE_PAPER / 3600:6.2f} h per {EPOCHS_OF_THE_PAPER} epochs"
        )
    lines += [f"{name}: {why}" for name, why in results["left_out"].items()]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description="Seconds per MNIST epoch of this library and of its peers."
    )
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    parser.add_argument("--k", type=int, default=25, help="units kept (default: 25)")
    parser.add_argument("--seconds", type=float, default=120.0, help="time for the timed rounds (default: 120)")
    parser.add_argument("--steps", type=int, default=25, help="steps in a timed slice (default: 25)")
    output_options(parser)
    options = parser.parse_args(arguments)
    if options.steps < 1 or not 1 <= options.k <= UNITS:
        parser.error(f"--steps must be at least 1 and --k from 1 to {UNITS}.")
    present(benchmark(load_mnist().train_x, options.k, options.device, options.seconds, options.steps), table, options)


if __name__ == "__main__":
    main()
