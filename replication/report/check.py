"""A committed number computed again: of a run from its mistakes, weights or first epochs, of a row from its runs."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from ksae_lib import schedule, training
from ksae_lib.io import KsaeError
from replication.data import load_data
from replication.judge.readout import evaluate
from replication.report.tables import error_table
from replication.report.verdicts import interval
from replication.runs import EncoderRun, ReadoutRun, StoredRun
from replication.study import Shown, Study

_LOSS, _LIVE, _REFIT = 0.001, 0.01, 0.05
"""What another machine's order of sums may change: shares of the loss and of the units, points of a refitted error."""


class CheckError(KsaeError):
    """A number is not what was committed."""


def check_run(study: Study, run_id: str, epochs: int) -> Iterator[str]:
    """Compute again what a committed run says, and tell it a sentence at a time.

    An encoder's first epochs are trained again, by a loop of its own. The test error of a readout or net is counted
    from its mistakes; a readout is also fitted again where the weights of its encoder are stored.

    Args:
        study, run_id: where the run is, and which.
        epochs: how many of an encoder's.

    Raises:
        CheckError: something differs.
        StoreError: the run is not committed or cannot be read.
    """
    stored = study.evidence.read(run_id)
    if isinstance(stored.run, EncoderRun):
        yield _first_epochs(stored, epochs)
        return
    metrics, history = stored.metrics, stored.history
    yield _same("test error of its mistakes", _error(stored), metrics["test_error"], 1e-6)
    if not isinstance(stored.run, ReadoutRun):
        yield _same(
            "validation error of its last epoch",
            history["validation_error"].iloc[-1],
            metrics["validation_error"],
            1e-4,
        )
        return
    yield _same(
        "lowest validation error of its trials", history["validation_error"].min(), metrics["validation_error"], 1e-4
    )
    encoder, readout = stored.run.encoder, stored.run.readout
    if encoder is not None and study.evidence.has(encoder, weights=True):
        chosen: dict[str, Any] = {
            "alphas": (metrics["selected"].get("alpha", 1.0),),
            "l2": (metrics["selected"]["l2"],),
        }
        model, data = study.evidence.load_model(encoder), load_data(stored.run.data)
        again = evaluate(data, encoder.method, model, replace(readout, **chosen), "cpu")
        yield _same("test error fitted again from the stored weights", again.test_error, metrics["test_error"], _REFIT)


def _first_epochs(stored: StoredRun, epochs: int) -> str:
    run: Any = stored.run
    if run.method.kind != "train" or run.below is not None:
        raise KsaeError(
            f"{run.run_id} is no k-sparse autoencoder on the data: its epochs cannot be trained again here."
        )
    config, x, history = run.method, load_data(run.data).train_x, stored.history
    engine = training.make_engine([training.new_model(config, x)], x, config)
    epochs = min(epochs, config.epochs)
    for n in range(epochs):
        order = schedule.order_of(config.seed, n, len(x)) if config.shuffle else np.arange(len(x))
        k = schedule.sparsity(n, config.epochs, config.k, config.k_start, config.k_ramp)
        rate = schedule.linear_by_epoch(n, config.epochs, config.learning_rate, config.learning_rate_end)
        momentum = schedule.linear_by_epoch(n, config.epochs, config.momentum, config.momentum_end)
        (result,) = engine.run_epoch(order[np.newaxis], [k], [rate], momentum)
        said: Any = history.iloc[n]
        _same(f"k of epoch {n}", k, said["k"], 0)
        _same(f"loss of epoch {n}", result.loss, said["loss"], _LOSS * said["loss"])
        _same(f"live units of epoch {n}", int(np.count_nonzero(result.uses)), said["live_units"], _LIVE * config.units)
    return f"{epochs} of {config.epochs} epochs trained again, to a loss of {result.loss:.6g}: as committed"


def check_row(study: Study, table: int, key: str) -> Iterator[str]:
    """Compute a row of a committed table again from the mistakes of its runs, and name every file that counts.

    Raises:
        CheckError: mean, interval or verdict differ from ``tables/table….csv``.
        KsaeError: there is no such row, or it has no runs.
    """
    rows = {one.row.key: one for one in study.rows(table) if one.committed}
    if key not in rows:
        raise KsaeError(
            f"Table {table} of profile {study.profile} has no row {key!r} with runs: choose one of {', '.join(rows)}."
        )
    shown: Shown = rows[key]
    errors = [_error(run) for run in shown.committed]
    for run, error in zip(shown.committed, errors, strict=True):
        yield _same(f"test error of {run.run.run_id}", error, run.metrics["test_error"], 1e-6)
    path = study.evidence_root / study.profile / "tables" / f"table{table}.csv"
    said: Any = pd.read_csv(path, keep_default_na=False).set_index("key").loc[key]
    low, high = interval(errors, shown.committed[0].metrics["test_images"])
    for name, value in (("error_mean", float(np.mean(errors))), ("error_ci_low", low), ("error_ci_high", high)):
        yield _same(name, value, float(said[name]), 0.0006)
    verdict = error_table(study, table, shown.row.data.name).set_index("key").loc[key, "verdict"]
    if verdict != said["verdict"]:
        raise CheckError(f"The verdict is {verdict!r}, committed is {said['verdict']!r}.")
    yield f"verdict: {said['verdict']}"
    for folder in (study.evidence.folder(run.run) for run in shown.committed):
        yield from (str(file.relative_to(study.evidence_root)) for file in sorted(folder.iterdir()))


def _error(stored: StoredRun) -> float:
    return 100 * len(set(stored.metrics["test_mistakes"])) / stored.metrics["test_images"]


def _same(name: str, found: float, said: float, within: float) -> str:
    if not abs(found - said) <= within:
        raise CheckError(f"The {name} is {found:.6g}, committed is {said:.6g}.")
    return f"{name}: {found:.6g}, as committed"
