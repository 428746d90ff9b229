"""Sweeps: what moves the error of k = 25, on part of the data; what it comes to on all of it, and in longer runs."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from replication.experiments.base import Experiment, Settings, Sweep, experiment
from replication.experiments.chosen import method
from replication.judge.readout import ReadoutConfig
from replication.runs import ReadoutRun

_READOUT = {f.name for f in fields(ReadoutConfig)}


def _at(s: Settings, changes: dict[str, Any]) -> Callable[[int], ReadoutRun]:
    read = {name: value for name, value in changes.items() if name in _READOUT}
    trained = {name: value for name, value in changes.items() if name not in _READOUT}
    return lambda seed: s.readout_run(method(s, "k25", **trained), seed, **read)


def _sweep(s: Settings, factor: str, *values: Any) -> Sweep:
    run = _at(s, {})(0)
    base = run.readout if factor in _READOUT else run.encoder and run.encoder.method
    points = tuple((value, _at(s, {factor: value})) for value in values)
    return Sweep(factor, getattr(base, factor), points, s.seeds)


@experiment("settings", "search")
def settings(s: Settings) -> Experiment:
    """One setting at a time; with three seeds of three, weights of 0.1 at the start and batches of 10 diverged."""
    sweeps = {
        "bias_init": ("zeros", "centered"), "activation": ("linear", "relu"), "weight_std": (0.001, 0.01, 0.03),
        "k_start": (25, 50, 100, 200), "k_ramp": (0.0, 0.25, 0.5, 1.0), "learning_rate": (0.003, 0.01, 0.02),
        "learning_rate_end": (None, 0.001, 0.0001), "momentum": (0.5, 0.9, 0.95), "batch_size": (30, 100, 300, 1000),
        "epochs": (10, 30, 100), "dense_relu": (False, True),
        "alphas": ((1.0,), (2.0,), (3.0,), (4.0,), (2.0, 3.0)),
        "l2": ((0.001,), (0.0001,), (0.00003,), (0.00001,), (0.0001, 0.00003)), "max_iterations": (30, 100, 500),
    }  # fmt: skip
    made = tuple(_sweep(s, factor, *values) for factor, values in sweeps.items())
    return Experiment(notebook="07_sweeps", figures=("error_against_settings",), sweeps=made)


@experiment("combinations", "search")
def combinations(s: Settings) -> Experiment:
    """The values of ``settings`` with the lowest errors, together."""
    together: tuple[dict[str, Any], ...] = (
        {}, {"k_ramp": 0.25, "learning_rate": 0.02}, {"k_ramp": 0.25, "batch_size": 30},
        {"k_ramp": 0.25, "epochs": 100}, {"batch_size": 30, "epochs": 100},
        {"k_ramp": 0.25, "batch_size": 30, "epochs": 100},
    )  # fmt: skip
    points = tuple((changes, _at(s, changes)) for changes in together)
    return Experiment(shown_in=("settings",), sweeps=(Sweep("together", {}, points, s.seeds),))


@experiment("sparsity", "search")
def sparsity(s: Settings) -> Experiment:
    """What k does, all other settings as chosen."""
    return Experiment(shown_in=("settings",), sweeps=(_sweep(s, "k", 5, 10, 15, 25, 40, 70, 100, 150, 200),))


@experiment("epochs", "paper")
def epochs(s: Settings) -> Experiment:
    """As printed, one seed; a centered start beside."""
    changes: list[dict[str, Any]] = [{"epochs": n} for n in (20, 50, 100, 300, 5000)]
    changes.append({"epochs": 50, "bias_init": "centered"})
    curve = tuple(s.readout_run(s.k_sparse(k=25, **changed)) for changed in changes)
    return Experiment(notebook="08_longer_runs", figures=("error_against_epochs",), curve=curve)


@experiment("designed", "paper")
def designed(s: Settings) -> Experiment:
    """The settings that the sweeps found best together; and the readout refitted on all 60,000 images."""
    best = method(s, "k25", k_ramp=0.25, batch_size=30, epochs=100)
    name, variant = "k-sparse autoencoder", "k=25, designed search"
    row = s.readout_row("k25_designed", 1, name, variant, best, "k25")
    refitted = s.readout_row("k25_refitted", 1, name, f"{variant}, refitted", best, "k25", refit=True)
    return Experiment(shown_in=("epochs",), rows=(row, refitted))
