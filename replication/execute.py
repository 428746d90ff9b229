"""Carrying out runs of the study: a batch of alike runs trained at once or in turn, measured and stored."""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
from scipy.stats import skew
from torch import nn

from ksae_lib import metrics
from ksae_lib.loop import DivergenceError
from ksae_lib.model import KSparseAutoencoder
from replication.data import load_data
from replication.judge import finetune as tuning
from replication.judge.gabor import gabor_report
from replication.judge.readout import evaluate
from replication.methods.base import Device, Method, torch_device
from replication.methods.plain import Pixels
from replication.provenance import provenance
from replication.runs import EncoderRun, FinetuneRun, ReadoutRun, Run, RunStore, StoredRun, digest_of, stack

_TILES, _ALIKE, _LOCAL = 120, 0.2, 0.2
"""Filters that a panel of Figure 1 shows. One is noise if neighbouring pixels correlate by less and it covers more."""


class Home(Protocol):
    """What runs need of a study: its store, and the trained models of other runs."""

    store: RunStore

    def model(self, run: EncoderRun, exact: bool = False, device: Device = "auto") -> Any:
        """The trained model of a run, ``exact`` if other runs are to be carried out on it."""


class _Found(NamedTuple):
    seconds: float
    results: dict[str, Any]
    history: pd.DataFrame
    model: nn.Module | None = None


def _encoders(
    runs: Sequence[EncoderRun], study: Home, device: Device, resume: bool
) -> Iterator[_Found | DivergenceError]:
    pairs = [_inputs(run, study, device) for run in runs]
    methods = [run.method for run in runs]
    # What is trained at once has one checkpoint, which is of no use to another batch.
    together = len(runs) > 1 and methods[0].used_engine(device) == "gpu"
    checkpoints = [study.store.checkpoint(runs if together else [run]) for run in runs]
    for checkpoint in () if resume else checkpoints:
        checkpoint.unlink(missing_ok=True)
    started = time.perf_counter()
    fitted = methods[0].fit_many(methods, [x for x, _ in pairs], checkpoints, device=device, progress=None)
    elapsed = (time.perf_counter() - started) / len(runs)
    for run, outcome, pair in zip(runs, fitted, pairs, strict=True):
        if isinstance(outcome, DivergenceError):
            yield outcome
            continue
        model, history = outcome
        seconds = float(history["seconds"].sum()) if "seconds" in history else elapsed
        results = _describe(run, model, *pair, history) | {"engine": run.method.used_engine(device)}
        yield _Found(seconds, results, history, model)
    # What a diverged run says names its checkpoint, which may be that of its batch.
    for checkpoint, outcome in zip(checkpoints, fitted, strict=True):
        if not any(isinstance(one, DivergenceError) for one in (fitted if together else [outcome])):
            checkpoint.unlink(missing_ok=True)


def _nets(runs: Sequence[FinetuneRun], study: Home, device: Device, _: bool) -> Iterator[_Found | DivergenceError]:
    data = load_data(runs[0].data)
    nets = []
    for run in runs:
        encoders = [(one.method, study.model(one, exact=True, device=device)) for one in stack(run.encoder)]
        layers = [layer for method, model in encoders for layer in method.hidden_layers(model, run.finetune.alpha)]
        nets.append(tuning.new_net(layers, data.train_x.shape[1], data.classes, run.finetune))
    configs = [run.finetune for run in runs]
    held_out, tested = (data.validation_x, data.validation_y), (data.test_x, data.test_y)
    histories = tuning.finetune(nets, data.train_x, data.train_y, configs, held_out, tested=tested, device=device)
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


def _readouts(runs: Sequence[ReadoutRun], study: Home, device: Device, _: bool) -> Iterator[_Found]:
    for run in runs:
        data, encoder = load_data(run.data), run.encoder
        method: Method = Pixels() if encoder is None else encoder.method
        model = None if encoder is None else study.model(encoder, exact=True, device=device)
        started = time.perf_counter()
        found = evaluate(data, method, model, run.readout, device)
        results = {
            "encoder_run": encoder and encoder.run_id,
            "code_mode": encoder and found.code_mode,
            "test_images": len(data.test_y),
            **{name: getattr(found, name) for name in ("selected", "validation_error", "test_error", "test_mistakes")},
        }
        yield _Found(time.perf_counter() - started, results, found.trials)


# What each hands on is stored before the next is worked on.
_HOW: dict[type[Run], Any] = {EncoderRun: _encoders, FinetuneRun: _nets, ReadoutRun: _readouts}


def _inputs(run: EncoderRun, study: Home, device: Device) -> tuple[np.ndarray, np.ndarray]:
    """What an encoder is trained on and what it watches: images, or the fixed codes of the encoder below."""
    if (below := run.below) is None:
        data = load_data(run.data)
        return data.train_x, data.validation_x
    model, alpha = study.model(below, exact=True, device=device), run.below_alpha or 1.0
    train_x, held_out = (_dense(below.method, model, x, alpha) for x in _inputs(below, study, device))
    return train_x, held_out


def carry_out(runs: Sequence[Run], study: Home, *, device: Device = "auto", resume: bool = True) -> list[StoredRun]:
    """Carry out runs and store them in the study's store; alike ones are trained at once where there is a GPU.

    Encoders that a run needs and that have no weights are trained first. ``resume`` goes on from checkpoints.

    Raises:
        DivergenceError: runs diverged; the others are stored.
    """
    done: dict[str, StoredRun] = {}
    failed: list[str] = []
    for batch in alike(runs):
        data = load_data(batch[0].data)
        for run, found in zip(batch, _HOW[type(batch[0])](batch, study, device, resume), strict=True):
            if isinstance(found, DivergenceError):
                failed.append(f"{run.run_id}: {found}")
                continue
            record = {
                "seed": run.seed,
                **found.results,
                "device": torch_device(device).type,
                "wall_seconds": round(found.seconds, 3),
                "data_sha256": data.sha256,
                "preprocessing": data.preprocessing,
                "code_digest": digest_of(run, found.results.get("engine")),
                **provenance(),
            }
            done[run.run_id] = study.store.save(run, record, found.history, found.model)
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
        atoms = model.weight.detach()[live]
        coherence, mean_coherence = metrics.mutual_coherence(atoms)
        results |= {
            "live_units": int(live.sum()),
            "live_units_set": "training images",
            "validation": metrics.reconstruction_report(model, held_out),
            "effective_area_median": float(np.median(metrics.effective_area(atoms.numpy()))),
            "mutual_coherence": coherence,
            "mean_coherence": mean_coherence,
        }
        if run.data.name == "mnist" and run.below is None:
            results["weight_skew"] = float(skew(atoms.numpy(), axis=None))
            first = model.weight.detach().numpy()[:_TILES]
            is_noise = metrics.neighbour_correlation(first, (28, 28)) < _ALIKE
            results["noise_tiles"] = int((is_noise & (metrics.effective_area(first) > _LOCAL)).sum())
        if run.data.name == "patches":
            results["gabor"] = gabor_report(atoms.numpy(), load_data(run.data).image_shape)
    results["sparsity"] = metrics.sparsity_measures(_dense(run.method, model, held_out))
    return results
