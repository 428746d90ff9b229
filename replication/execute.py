"""Carrying out one run of the plan: train or read out, measure, store."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from ksae_lib import metrics
from ksae_lib.model import KSparseAutoencoder
from ksae_lib.training import EngineName, choose_engine, train
from replication.data import Dataset, load_mnist
from replication.data.mnist import default_root
from replication.data.norb import are_official, load_norb
from replication.data.patches import load_patches
from replication.data.toy_norb import toy_norb_folder
from replication.judge.finetune import DiscriminativeNet, finetune, new_net
from replication.judge.gabor import gabor_report
from replication.judge.readout import dense_codes, evaluate
from replication.methods import Baseline
from replication.plan import BaselineRun, DataConfig, Encoder, FinetuneRun, ReadoutRun, Run, TrainRun, stack
from replication.provenance import provenance
from replication.runs import RunStore, StoredRun


@lru_cache(maxsize=2)
def load_data(config: DataConfig) -> Dataset:
    """The data set a run config names.

    Raises:
        DataError: a file is missing or altered.
    """
    sizes = {name: getattr(config, name) for name in ("split_seed", "train_size", "validation_size", "test_size")}
    if config.name == "mnist":
        return load_mnist(**sizes)
    if config.source is not None:
        return load_patches(config.source, **sizes)
    folder = toy_norb_folder(share=config.share or 1) if config.is_stand_in else default_root() / "NORB"
    data = load_norb(folder, recipe=config.recipe or "printed", split=config.split or "random", **sizes)
    if config.is_stand_in:
        return data
    files = "official archives" if are_official(folder) else "unpacked, not verified"
    return replace(data, preprocessing={**data.preprocessing, "files": files})


def obtain(
    run: Run,
    store: RunStore,
    *,
    force: bool = False,
    resume: bool = True,
    progress: bool | None = None,
    engine: EngineName | None = None,
) -> StoredRun:
    """The run from the store, carried out first if it is not there.

    An encoder whose metrics are stored but whose weights are not (weights are seldom committed) is trained again
    and replaces the stored run.

    Args:
        run: what to obtain.
        store: where runs are kept.
        force: carry it out even if it is there.
        resume: go on from the checkpoint of an interrupted run.
        progress: show a bar; None: only on a terminal.
        engine: see ``execute``.
    """
    needs_weights = isinstance(run, TrainRun | BaselineRun)
    if force or not store.has(run, weights=needs_weights):
        execute(run, store, resume=resume, progress=progress, engine=engine)
    return store.load(run)


def obtain_model(run: Encoder, store: RunStore, progress: bool | None = None) -> KSparseAutoencoder | Baseline:
    """The trained model of a run, k-sparse autoencoder or baseline, trained first if its weights are not stored."""
    obtain(run, store, progress=progress)
    return store.load_model(run)


def execute(
    run: Run,
    store: RunStore,
    *,
    resume: bool = True,
    progress: bool | None = None,
    engine: EngineName | None = None,
    device: str = "cpu",
) -> Path:
    """Carry out a run and store it in place of an earlier one of the same id; returns its folder.

    Args:
        run: what to carry out.
        store: where runs are kept.
        resume: go on from the checkpoint of an interrupted run.
        progress: show a bar; None: only on a terminal.
        engine: trains a k-sparse autoencoder in place of the one the run names, which then only is part of its id.
        device: baselines are trained and readouts fitted there.
    """
    checkpoint = store.checkpoint(run)
    if not resume:
        checkpoint.unlink(missing_ok=True)
    data = load_data(run.data)
    kept: nn.Module | None = None
    if isinstance(run, TrainRun):
        x, held_out = inputs_of(run, data, store, progress)
        config = run.train if engine is None else replace(run.train, engine=engine)
        kept, history = train(x, config, checkpoint=checkpoint, progress=progress)
        seconds, results = describe(kept, x, held_out, history, data)
        if engine is not None:
            results["engine"], _ = choose_engine(config)
    elif isinstance(run, BaselineRun):
        x, held_out = inputs_of(run, data, store, progress)
        started = time.perf_counter()
        kept, history = run.baseline.fit(x, held_out, progress, device)
        seconds = time.perf_counter() - started
        results = {
            "inputs": x.shape[1],
            "sparsity": metrics.sparsity_measures(dense_codes(kept, held_out, 1.0)),
        }
        if "loss" in history:
            results["loss"] = float(history["loss"].iloc[-1])
    elif isinstance(run, FinetuneRun):
        net = initial_net(run, data, store, progress)
        held = data.validation_x, data.validation_y
        history = finetune(net, data.train_x, data.train_y, run.finetune, held, progress)
        seconds, results = assess(run, net, history, data)
    else:
        encoder = None if run.encoder is None else obtain_model(run.encoder, store, progress)
        started = time.perf_counter()
        result = evaluate(data, encoder, run.readout, device)
        seconds, history = time.perf_counter() - started, result.trials
        results = {
            "encoder_run": None if run.encoder is None else run.encoder.run_id,
            "code_mode": None if encoder is None else "alpha_k" if "alpha" in result.selected else "dense",
            "selected": result.selected,
            "validation_error": result.validation_error,
            "test_error": result.test_error,
            "test_images": len(data.test_y),
            "test_mistakes": result.test_mistakes,
        }
    if device != "cpu" and isinstance(run, BaselineRun | ReadoutRun):
        results["device"] = device
    folder = keep(run, store, data, seconds, results, history, kept)
    checkpoint.unlink(missing_ok=True)
    return folder


def keep(
    run: Run,
    store: RunStore,
    data: Dataset,
    seconds: float,
    results: dict[str, Any],
    history: pd.DataFrame,
    model: nn.Module | None,
) -> Path:
    """Store what a run left, with where it comes from; returns its folder."""
    record = {
        "run_id": run.run_id,
        "seed": _seed(run),
        **results,
        "wall_seconds": round(seconds, 3),
        "data_sha256": data.sha256,
        "preprocessing": data.preprocessing,
        **provenance(),
    }
    return store.save(run, record, history, model, replace=True)


def _seed(run: Run) -> int | None:
    if isinstance(run, FinetuneRun):
        return run.finetune.seed
    if isinstance(run, ReadoutRun):
        return None if run.encoder is None else _seed(run.encoder)
    return run.train.seed if isinstance(run, TrainRun) else run.baseline.seed


def inputs_of(
    run: TrainRun | BaselineRun, data: Dataset, store: RunStore, progress: bool | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """What an encoder is trained on and what it watches: images, or the fixed codes of the encoder below."""
    if run.below is None:
        return data.train_x, data.validation_x
    model = obtain_model(run.below, store, progress)
    train_x, held_out = inputs_of(run.below, data, store, progress)
    alpha = run.below_alpha or 1.0
    return dense_codes(model, train_x, alpha), dense_codes(model, held_out, alpha)


def initial_net(run: FinetuneRun, data: Dataset, store: RunStore, progress: bool | None = None) -> DiscriminativeNet:
    """The net a run fine-tunes, before it does."""
    encoders = [obtain_model(encoder, store, progress) for encoder in stack(run.encoder)]
    return new_net(encoders, data.train_x.shape[1], data.classes, run.finetune)


def describe(
    model: KSparseAutoencoder, x: np.ndarray, held_out: np.ndarray, history: pd.DataFrame, data: Dataset
) -> tuple[float, dict[str, Any]]:
    """Seconds of training and measures of a k-sparse autoencoder."""
    live = metrics.live_units(model, x)
    weight = model.weight.detach()
    coherence, mean_coherence = metrics.mutual_coherence(weight[live])
    results: dict[str, Any] = {
        "loss": float(history["loss"].iloc[-1]),
        "live_units": int(live.sum()),
        "live_units_set": "training images",
        "validation": metrics.reconstruction_report(model, held_out),
        "effective_area_median": float(np.median(metrics.effective_area(weight.numpy()[live]))),
        "mutual_coherence": coherence,
        "mean_coherence": mean_coherence,
    }
    if data.is_colour:
        results["gabor"] = gabor_report(weight.numpy()[live], data.image_shape)
    results["sparsity"] = metrics.sparsity_measures(dense_codes(model, held_out, 1.0))
    return float(history["seconds"].sum()), results


def assess(
    run: FinetuneRun, net: DiscriminativeNet, history: pd.DataFrame, data: Dataset
) -> tuple[float, dict[str, Any]]:
    """Seconds of fine-tuning and errors of a net."""
    wrong = net.mistakes(data.test_x, data.test_y)
    return float(history["seconds"].sum()), {
        "encoder_runs": [encoder.run_id for encoder in stack(run.encoder)],
        "selected": {},
        "loss": float(history["loss"].iloc[-1]),
        "validation_error": float(history["validation_error"].iloc[-1]),
        "test_error": 100 * len(wrong) / len(data.test_y),
        "test_images": len(data.test_y),
        "test_mistakes": wrong.tolist(),
    }
