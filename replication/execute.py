"""Carrying out runs of the study: a batch of alike runs trained at once or in turn, measured and stored."""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import pandas as pd
from torch import nn

from ksae_lib import metrics
from ksae_lib.loop import DivergenceError
from ksae_lib.model import KSparseAutoencoder
from replication.data import load_data
from replication.data.base import Dataset
from replication.judge import finetune as tuning
from replication.judge.gabor import gabor_report
from replication.judge.readout import evaluate
from replication.methods.base import Device, Method
from replication.methods.plain import Pixels
from replication.provenance import provenance
from replication.runs import EncoderRun, FinetuneRun, ReadoutRun, Run, RunStore, StoredRun, digest_of, stack


class Home(Protocol):
    """What runs need of a study: its store, and the trained models of other runs."""

    store: RunStore

    def trained(self, run: EncoderRun, progress: bool | None = None) -> nn.Module:
        """The trained model of a run."""


class _Work:
    """How runs are carried out, and where."""

    def __init__(self, study: Home, device: Device, resume: bool, progress: bool | None) -> None:
        self.study, self.device, self.resume, self.progress = study, device, resume, progress

    def encoders(self, runs: Sequence[EncoderRun]) -> list[StoredRun | DivergenceError]:
        """Fit encoders, alike ones at once on a GPU."""
        pairs = [self._inputs(run) for run in runs]
        checkpoints = [self.study.store.checkpoint(run) for run in runs]
        for checkpoint in checkpoints:
            if not self.resume:
                checkpoint.unlink(missing_ok=True)
        methods = [run.method for run in runs]
        started = time.perf_counter()
        fitted = methods[0].fit_many(
            methods, [x for x, _ in pairs], checkpoints, device=self.device, progress=self.progress
        )
        elapsed = (time.perf_counter() - started) / len(runs)
        outcomes: list[StoredRun | DivergenceError] = []
        for run, outcome, pair, checkpoint in zip(runs, fitted, pairs, checkpoints, strict=True):
            if isinstance(outcome, DivergenceError):
                outcomes.append(outcome)
                continue
            model, rows = outcome
            history = pd.DataFrame(rows)
            seconds = float(history["seconds"].sum()) if "seconds" in history else elapsed
            results = _describe(run, model, *pair, history) | {"engine": run.method.used_engine(self.device)}
            outcomes.append(self._keep(run, seconds, results, history, model))
            checkpoint.unlink(missing_ok=True)
        return outcomes

    def nets(self, runs: Sequence[FinetuneRun]) -> list[StoredRun | DivergenceError]:
        """Fine-tune nets, alike ones at once on a GPU."""
        data = load_data(runs[0].data)
        nets = [self._net(run, data) for run in runs]
        histories = tuning.finetune(
            nets, data.train_x, data.train_y, [run.finetune for run in runs], (data.validation_x, data.validation_y),
            device=self.device, progress=self.progress,
        )  # fmt: skip
        outcomes: list[StoredRun | DivergenceError] = []
        for run, net, rows in zip(runs, nets, histories, strict=True):
            if isinstance(rows, DivergenceError):
                outcomes.append(rows)
                continue
            history, wrong = pd.DataFrame(rows), net.mistakes(data.test_x, data.test_y)
            results = {
                "encoder_runs": [encoder.run_id for encoder in stack(run.encoder)],
                "selected": {},
                "loss": float(history["loss"].iloc[-1]),
                "validation_error": float(history["validation_error"].iloc[-1]),
                "test_error": 100 * len(wrong) / len(data.test_y),
                "test_images": len(data.test_y),
                "test_mistakes": wrong.tolist(),
            }
            outcomes.append(self._keep(run, float(history["seconds"].sum()), results, history))
        return outcomes

    def readout(self, run: ReadoutRun) -> StoredRun:
        """Fit a readout."""
        data = load_data(run.data)
        encoder = run.encoder
        method: Method = Pixels() if encoder is None else encoder.method
        model = method.build(data.train_x.shape[1]) if encoder is None else self.study.trained(encoder, self.progress)
        started = time.perf_counter()
        found = evaluate(data, method, model, run.readout, self.device)
        results = {
            "encoder_run": None if encoder is None else encoder.run_id,
            "code_mode": None if encoder is None else found.code_mode,
            "selected": found.selected,
            "validation_error": found.validation_error,
            "test_error": found.test_error,
            "test_images": len(data.test_y),
            "test_mistakes": found.test_mistakes,
        }
        return self._keep(run, time.perf_counter() - started, results, found.trials)

    def _inputs(self, run: EncoderRun) -> tuple[np.ndarray, np.ndarray]:
        """What an encoder is trained on and what it watches: images, or the fixed codes of the encoder below."""
        below = run.below
        if below is None:
            data = load_data(run.data)
            return data.train_x, data.validation_x
        model = self.study.trained(below, self.progress)
        train_x, held_out = (_dense(below.method, model, x, run.below_alpha or 1.0) for x in self._inputs(below))
        return train_x, held_out

    def _net(self, run: FinetuneRun, data: Dataset) -> tuning.DiscriminativeNet:
        encoders = [(one.method, self.study.trained(one, self.progress)) for one in stack(run.encoder)]
        layers = [layer for method, model in encoders for layer in method.hidden_layers(model, run.finetune.alpha)]
        return tuning.new_net(layers, data.train_x.shape[1], data.classes, run.finetune)

    def _keep(
        self, run: Run, seconds: float, results: dict[str, Any], history: pd.DataFrame, model: nn.Module | None = None
    ) -> StoredRun:
        data = load_data(run.data)
        record = {
            "run_id": run.run_id,
            "seed": run.seed,
            **results,
            "wall_seconds": round(seconds, 3),
            "data_sha256": data.sha256,
            "preprocessing": data.preprocessing,
            "code_digest": digest_of(run, results.get("engine")),
            **provenance(),
        }
        return self.study.store.save(run, record, history, model)


def carry_out(
    runs: Sequence[Run],
    study: Home,
    *,
    device: Device = "auto",
    resume: bool = True,
    progress: bool | None = None,
) -> list[StoredRun]:
    """Carry out runs and store them in the study's store; alike ones are trained at once where there is a GPU.

    Args:
        runs: what to carry out.
        study: whose store gets them; encoders that a run needs and that have no weights are trained first.
        device: ``auto`` takes a GPU where torch sees one; ``cpu``, ``cuda``.
        resume: go on from checkpoints of interrupted runs.
        progress: show a bar; None: only on a terminal.

    Raises:
        DivergenceError: runs diverged; the others are stored.
    """
    work = _Work(study, device, resume, progress)
    done: dict[str, StoredRun | DivergenceError] = {}
    for batch in alike(runs):
        if isinstance(batch[0], EncoderRun):
            outcomes = work.encoders([run for run in batch if isinstance(run, EncoderRun)])
        elif isinstance(batch[0], FinetuneRun):
            outcomes = work.nets([run for run in batch if isinstance(run, FinetuneRun)])
        else:
            outcomes = [work.readout(run) for run in batch if isinstance(run, ReadoutRun)]
        done |= {run.run_id: outcome for run, outcome in zip(batch, outcomes, strict=True)}
    failed = {name: outcome for name, outcome in done.items() if isinstance(outcome, DivergenceError)}
    if failed:
        raise DivergenceError("; ".join(f"{name}: {error}" for name, error in failed.items()))
    return [stored for run in runs if isinstance(stored := done[run.run_id], StoredRun)]


def alike(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs in batches that can be carried out at once, encoders before what is fitted on them."""
    groups: dict[Hashable, list[Run]] = {}
    for run in runs:
        if isinstance(run, EncoderRun):
            depth = len(stack(run))
            key: tuple[Hashable, ...] = (depth, "encoder", run.method.method, run.method.batch_key())
        elif isinstance(run, FinetuneRun):
            key = (9, "net", _methods(run), replace(run.finetune, seed=0))
        else:
            key = (9, "readout", _methods(run))
        groups.setdefault((*key, run.data), []).append(run)
    return [groups[key] for key in sorted(groups, key=lambda key: key[0])]  # type: ignore[index]


def _methods(run: ReadoutRun | FinetuneRun) -> tuple[Hashable, ...]:
    return tuple((one.method.method, one.method.batch_key()) for one in stack(run.encoder))


def _dense(method: Method, model: nn.Module, x: np.ndarray, alpha: float = 1.0) -> np.ndarray:
    """Codes as an array (shape: [examples, units])."""
    codes = method.codes(model, x, method.code_mode(), (alpha,))[0]
    return codes if isinstance(codes, np.ndarray) else codes.toarray()


def _describe(
    run: EncoderRun, model: nn.Module, x: np.ndarray, held_out: np.ndarray, history: pd.DataFrame
) -> dict[str, Any]:
    """Measures of an encoder; those of a dictionary only where it has one."""
    results: dict[str, Any] = {"inputs": x.shape[1]}
    if "loss" in history:
        results["loss"] = float(history["loss"].iloc[-1])
    if run.method.kind == "train" and isinstance(model, KSparseAutoencoder):
        live = metrics.live_units(model, x)
        weight = model.weight.detach()
        coherence, mean_coherence = metrics.mutual_coherence(weight[live])
        results |= {
            "live_units": int(live.sum()),
            "live_units_set": "training images",
            "validation": metrics.reconstruction_report(model, held_out),
            "effective_area_median": float(np.median(metrics.effective_area(weight.numpy()[live]))),
            "mutual_coherence": coherence,
            "mean_coherence": mean_coherence,
        }
        data = load_data(run.data)
        if data.is_colour:
            results["gabor"] = gabor_report(weight.numpy()[live], data.image_shape)
    results["sparsity"] = metrics.sparsity_measures(_dense(run.method, model, held_out))
    return results
