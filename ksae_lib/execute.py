"""Carrying out one run of the plan: train or read out, measure, store."""

from __future__ import annotations

import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ksae_lib import metrics
from ksae_lib.datasets import Dataset, load_mnist
from ksae_lib.engines import train
from ksae_lib.model import KSparseAutoencoder
from ksae_lib.plan import DataConfig, PlanError, ReadoutRun, Run, TrainRun
from ksae_lib.provenance import provenance
from ksae_lib.readout import evaluate
from ksae_lib.runs import RunStore, StoredRun


@lru_cache(maxsize=2)
def load_data(config: DataConfig) -> Dataset:
    """The data set a run config names.

    Raises:
        PlanError: unknown name.
        DataError: a file is missing or altered.
    """
    if config.name != "mnist":
        raise PlanError(f"There is no data set {config.name!r}: choose mnist.")
    return load_mnist(
        split_seed=config.split_seed,
        train_size=config.train_size,
        validation_size=config.validation_size,
        test_size=config.test_size,
    )


def obtain(
    run: Run, store: RunStore, *, force: bool = False, resume: bool = True, progress: bool | None = None
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
    """
    needs_weights = isinstance(run, TrainRun)
    if force or not store.has(run, weights=needs_weights):
        execute(run, store, resume=resume, progress=progress)
    return store.load(run)


def obtain_model(run: TrainRun, store: RunStore, progress: bool | None = None) -> KSparseAutoencoder:
    """The trained model of a run, trained first if its weights are not in the store."""
    obtain(run, store, progress=progress)
    return store.load_model(run)


def execute(run: Run, store: RunStore, *, resume: bool = True, progress: bool | None = None) -> Path:
    """Carry out a run and store it in place of an earlier one of the same id; returns its folder."""
    checkpoint = store.checkpoint(run)
    if not resume:
        checkpoint.unlink(missing_ok=True)
    data = load_data(run.data)
    if isinstance(run, TrainRun):
        model, history = train(data.train_x, run.train, checkpoint=checkpoint, progress=progress)
        seconds = float(history["seconds"].sum())
        results: dict[str, Any] = _describe(model, data, history)
        kept: KSparseAutoencoder | None = model
    else:
        encoder = None if run.encoder is None else obtain_model(run.encoder, store, progress)
        started = time.perf_counter()
        result = evaluate(data, encoder, run.readout)
        seconds, history, kept = time.perf_counter() - started, result.trials, None
        results = {
            "encoder_run": None if run.encoder is None else run.encoder.run_id,
            "code_mode": None if encoder is None else "alpha_k",
            "selected": result.selected,
            "validation_error": result.validation_error,
            "test_error": result.test_error,
            "test_images": len(data.test_y),
            "test_mistakes": result.test_mistakes,
        }
    record = {
        "run_id": run.run_id,
        "seed": _seed(run),
        **results,
        "wall_seconds": round(seconds, 3),
        "data_sha256": data.sha256,
        "preprocessing": data.preprocessing,
        **provenance(),
    }
    folder = store.save(run, record, history, kept, replace=True)
    checkpoint.unlink(missing_ok=True)
    return folder


def _seed(run: Run) -> int | None:
    if isinstance(run, ReadoutRun):
        return None if run.encoder is None else run.encoder.train.seed
    return run.train.seed


def _describe(model: KSparseAutoencoder, data: Dataset, history: pd.DataFrame) -> dict[str, Any]:
    live = metrics.live_units(model, data.train_x)
    area = metrics.effective_area(model.weight.detach().numpy()[live])
    coherence, mean_coherence = metrics.mutual_coherence(model.weight[live])
    return {
        "loss": float(history["loss"].iloc[-1]),
        "live_units": int(live.sum()),
        "live_units_set": "training images",
        "validation": metrics.reconstruction_report(model, data.validation_x),
        "effective_area_median": float(np.median(area)),
        "mutual_coherence": coherence,
        "mean_coherence": mean_coherence,
    }
