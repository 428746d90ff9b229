"""Carrying out runs of the study: a batch of alike runs trained at once or in turn, measured and stored."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

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

    def model(self, run: EncoderRun, progress: bool | None = None, exact: bool = False) -> Any:
        """The trained model of a run, ``exact`` if other runs are to be carried out on it."""


class _Found(NamedTuple):
    """What a run came to."""

    seconds: float
    results: dict[str, Any]
    history: pd.DataFrame
    model: nn.Module | None = None


@dataclass
class _Work:
    """How runs are carried out, and where. What was found is handed on one by one, to be stored at once."""

    study: Home
    device: Device
    resume: bool
    progress: bool | None

    def encoders(self, runs: Sequence[EncoderRun]) -> Iterator[_Found | DivergenceError]:
        """Fit encoders, alike ones at once on a GPU."""
        pairs = [self._inputs(run) for run in runs]
        checkpoints = [self.study.store.checkpoint(run) for run in runs]
        for checkpoint in () if self.resume else checkpoints:
            checkpoint.unlink(missing_ok=True)
        methods = [run.method for run in runs]
        started = time.perf_counter()
        fitted = methods[0].fit_many(methods, [x for x, _ in pairs], checkpoints, self.device, self.progress)
        elapsed = (time.perf_counter() - started) / len(runs)
        for run, outcome, pair in zip(runs, fitted, pairs, strict=True):
            if isinstance(outcome, DivergenceError):
                yield outcome
                continue
            model, history = outcome
            seconds = float(history["seconds"].sum()) if "seconds" in history else elapsed
            results = _describe(run, model, *pair, history) | {"engine": run.method.used_engine(self.device)}
            yield _Found(seconds, results, history, model)

    def nets(self, runs: Sequence[FinetuneRun]) -> Iterator[_Found | DivergenceError]:
        """Fine-tune nets, alike ones at once on a GPU."""
        data = load_data(runs[0].data)
        nets = [self._net(run, data) for run in runs]
        histories = tuning.finetune(
            nets, data.train_x, data.train_y, [run.finetune for run in runs], (data.validation_x, data.validation_y),
            device=self.device, progress=self.progress,
        )  # fmt: skip
        for run, net, history in zip(runs, nets, histories, strict=True):
            if isinstance(history, DivergenceError):
                yield history
                continue
            wrong = net.mistakes(data.test_x, data.test_y)
            results = {
                "encoder_runs": [encoder.run_id for encoder in stack(run.encoder)],
                "selected": {},
                "loss": float(history["loss"].iloc[-1]),
                "validation_error": float(history["validation_error"].iloc[-1]),
                "test_error": 100 * len(wrong) / len(data.test_y),
                "test_images": len(data.test_y),
                "test_mistakes": wrong.tolist(),
            }
            yield _Found(float(history["seconds"].sum()), results, history)

    def readouts(self, runs: Sequence[ReadoutRun]) -> Iterator[_Found]:
        """Fit readouts, one after the other."""
        for run in runs:
            data, encoder = load_data(run.data), run.encoder
            method: Method = Pixels() if encoder is None else encoder.method
            model = None if encoder is None else self._model(encoder)
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
            yield _Found(time.perf_counter() - started, results, found.trials)

    def _model(self, run: EncoderRun) -> Any:
        return self.study.model(run, self.progress, exact=True)

    def _inputs(self, run: EncoderRun) -> tuple[np.ndarray, np.ndarray]:
        """What an encoder is trained on and what it watches: images, or the fixed codes of the encoder below."""
        if (below := run.below) is None:
            data = load_data(run.data)
            return data.train_x, data.validation_x
        model, alpha = self._model(below), run.below_alpha or 1.0
        train_x, held_out = (_dense(below.method, model, x, alpha) for x in self._inputs(below))
        return train_x, held_out

    def _net(self, run: FinetuneRun, data: Dataset) -> tuning.DiscriminativeNet:
        alpha = run.finetune.alpha
        layers = [layer for one in stack(run.encoder) for layer in one.method.hidden_layers(self._model(one), alpha)]
        return tuning.new_net(layers, data.train_x.shape[1], data.classes, run.finetune)


def carry_out(
    runs: Sequence[Run], study: Home, *, device: Device = "auto", resume: bool = True, progress: bool | None = None
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
    how: dict[type[Run], Any] = {EncoderRun: work.encoders, FinetuneRun: work.nets, ReadoutRun: work.readouts}
    done: dict[str, StoredRun] = {}
    failed: list[str] = []
    for batch in alike(runs):
        for run, found in zip(batch, how[type(batch[0])](batch), strict=True):
            if isinstance(found, DivergenceError):
                failed.append(f"{run.run_id}: {found}")
                continue
            data = load_data(run.data)
            record = {
                "run_id": run.run_id,
                "seed": run.seed,
                **found.results,
                "wall_seconds": round(found.seconds, 3),
                "data_sha256": data.sha256,
                "preprocessing": data.preprocessing,
                "code_digest": digest_of(run, found.results.get("engine")),
                **provenance(),
            }
            done[run.run_id] = study.store.save(run, record, found.history, found.model)
            study.store.checkpoint(run).unlink(missing_ok=True)
    if failed:
        raise DivergenceError("; ".join(failed))
    return [done[run.run_id] for run in runs]


def alike(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs in batches that can be carried out at once, encoders before what is fitted on them."""
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        encoders = stack(run) if isinstance(run, EncoderRun) else stack(run.encoder)
        depth = len(encoders) if isinstance(run, EncoderRun) else sys.maxsize
        tuned = replace(run.finetune, seed=0) if isinstance(run, FinetuneRun) else None
        methods = tuple((one.method.method, one.method.batch_key()) for one in encoders)
        groups.setdefault((depth, type(run), methods, tuned, run.data), []).append(run)
    return [groups[key] for key in sorted(groups, key=lambda key: key[0])]


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
