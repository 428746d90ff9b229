"""Training many k-sparse autoencoders at once: schedules, histories and checkpoints of a batch of runs."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from ksae_lib import schedule
from ksae_lib.checkpoint import CHECKPOINT_SECONDS, Checkpoint, data_digest
from ksae_lib.engines.gpu import BatchedEngine, Precision
from ksae_lib.model import KSparseAutoencoder
from ksae_lib.training import DivergenceError, Settings, TrainConfig, new_model

Trained = tuple[KSparseAutoencoder, pd.DataFrame]
ALIKE = ("units", "epochs", "batch_size", "activation", "momentum", "momentum_end")


class OutOfTimeError(RuntimeError):
    """The time given is over; the checkpoint has what was done."""


def train_many(
    x: np.ndarray,
    configs: Sequence[TrainConfig],
    *,
    device: torch.device | str = "cuda",
    precision: Precision = "float32",
    checkpoint: Path | None = None,
    until: float = math.inf,
    progress: bool | None = None,
) -> list[Trained | DivergenceError]:
    """Train many runs as one batched problem, each as ``train`` with the reference engine trains it alone.

    Args:
        x: examples, float32 and finite, the same for all runs (shape: [examples, inputs]) or each its own (shape:
            [runs, examples, inputs]).
        configs: the runs. They may differ in k, its schedule, rate, start and seed, not in ``units``, ``epochs``,
            ``batch_size``, ``activation`` and momentum. Their ``engine`` is not looked at.
        device: of the batched engine.
        precision: of its products.
        checkpoint: file to resume from if it exists, saved every half minute and at the end.
        until: ``time.monotonic()`` after which no epoch is begun.
        progress: show a bar; None: only on a terminal.

    Returns:
        For each run its model and history as ``train`` returns them, or the error it diverged with, which leaves the
        other runs alone. Seconds are an epoch's divided by the number of runs.

    Raises:
        OutOfTimeError: ``until`` came first; the same call with the same checkpoint goes on.
        ValueError: runs that differ in more than they may, examples that cannot be trained on, or a checkpoint of
            other runs.
    """
    check_alike(configs, ALIKE)
    if any(config.support_dtype != "float32" for config in configs):
        raise ValueError("support_dtype = 'bfloat16' is the cpu engine's alone: train that run by itself.")
    own = [x[number] for number in range(len(configs))] if x.ndim == 3 else [x] * len(configs)
    models = [new_model(config, of_run) for config, of_run in zip(configs, own, strict=True)]
    for model, of_run in zip(models, own, strict=True) if x.ndim == 3 else ((models[0], x),):
        model.check_input(torch.from_numpy(of_run))
    engine = BatchedEngine(models, x, configs[0].batch_size, device, precision)
    saver = None
    if checkpoint is not None:
        run = {"configs": [asdict(config) for config in configs], "data": data_digest(x), "precision": precision}
        saver = Checkpoint(checkpoint, run, engine.state())
    rows: list[list[dict[str, Any]]] = saver.load() if saver is not None else []
    epochs, last_saved = configs[0].epochs, time.monotonic()

    def orders(epoch: int) -> np.ndarray:
        return np.stack([schedule.order_of(config.seed, epoch, x.shape[-2]) for config in configs])

    with (
        ThreadPoolExecutor(1) as ahead,
        tqdm(total=epochs, initial=len(rows), unit="epoch", disable=None if progress is None else not progress) as bar,
    ):
        following = ahead.submit(orders, len(rows))
        for epoch in range(len(rows), epochs):
            if time.monotonic() > until:
                if saver is not None:
                    saver.save(rows)
                raise OutOfTimeError(f"{len(rows)} of {epochs} epochs of {len(configs)} runs are done.")
            started = time.perf_counter()
            order, following = following.result(), ahead.submit(orders, epoch + 1)
            now = [Settings.of(config, epoch) for config in configs]
            results = engine.run_epoch(order, [s.k for s in now], [s.rate for s in now], now[0].momentum)
            seconds = (time.perf_counter() - started) / len(configs)
            rows.append([s.row(epoch, result, seconds) for s, result in zip(now, results, strict=True)])
            bar.update()
            if not any(math.isfinite(result.loss) for result in results):
                break
            if saver is not None and (time.monotonic() - last_saved > CHECKPOINT_SECONDS or epoch + 1 == epochs):
                saver.save(rows)
                last_saved = time.monotonic()
    engine.write_back()
    histories = [[of_epoch[number] for of_epoch in rows] for number in range(len(models))]
    return [
        diverged("Training", history, model.parameters()) or (model, pd.DataFrame(history))
        for model, history in zip(models, histories, strict=True)
    ]


def check_alike(configs: Sequence[Any], names: Sequence[str]) -> None:
    """Refuse runs that cannot be one batched problem.

    Raises:
        ValueError: there are none, or they differ in one of these settings.
    """
    kinds = {tuple(getattr(config, name) for name in names) for config in configs}
    if len(kinds) != 1:
        raise ValueError(f"{len(configs)} runs of {len(kinds)} kinds: they must have the same {', '.join(names)}.")


def diverged(what: str, rows: Sequence[dict[str, Any]], parameters: Iterable[Tensor]) -> DivergenceError | None:
    """The error of a run among others whose loss or parameters stopped being finite, if they did.

    Args:
        what: the run was doing.
        rows: of its history.
        parameters: at its end.
    """
    bad = next((row for row in rows if not math.isfinite(row["loss"])), None)
    if bad is None and all(bool(p.isfinite().all()) for p in parameters):
        return None
    last = bad or rows[-1]
    return DivergenceError(
        f"{what} diverged: the loss or a weight stopped being finite by epoch {last['epoch']} (counted from 0) at "
        f"learning rate {last['learning_rate']:g}. Lower the learning rate."
    )
