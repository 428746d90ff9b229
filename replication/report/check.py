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
from replication.report.tables import error_table, shown_rows
from replication.report.verdicts import interval
from replication.runs import FILES, EncoderRun, ReadoutRun, StoredRun, StoreError, twice
from replication.study import Study

_LOSS, _LIVE, _REFIT = 0.001, 0.01, 0.05
"""What another machine's order of sums may change: shares of the loss and of the units, points of a refitted error."""
_COUNTED = ("test_error", "test_images", "test_mistakes", "validation_error", "selected")


def check_run(study: Study, run_id: str, epochs: int) -> Iterator[str]:
    """Compute again what a committed run says, and tell it a sentence at a time.

    An encoder's first epochs are trained again, by a loop of its own. The test error of a readout or net is counted
    from its mistakes. What a readout chose must be the best of its trials, and say its errors, unless it was fitted
    again on more images; it is also fitted again where the weights of its encoder are stored.

    Args:
        study, run_id: where the run is, and which.
        epochs: how many of an encoder's.

    Raises:
        KsaeError: something differs.
        StoreError: the run is not committed, cannot be read or lacks what is compared.
    """
    if run_id not in study.evidence.names():
        known = f"'ksae run --list --profile {study.profile}' lists those there are"
        raise StoreError(f"No run {run_id!r} is committed in profile {study.profile}: {known}.")
    stored = study.evidence.read(run_id)
    if isinstance(stored.run, EncoderRun):
        yield _first_epochs(stored, epochs)
        return
    yield _same("test error of its mistakes", _error(stored), stored.metrics["test_error"], 1e-6)
    metrics, errors = stored.metrics, _history(stored, 1, "validation_error")["validation_error"]
    if not isinstance(stored.run, ReadoutRun):
        yield _same("validation error of its last epoch", errors.iloc[-1], metrics["validation_error"], 1e-4)
        return
    yield _same("lowest validation error of its trials", errors.min(), metrics["validation_error"], 1e-4)
    trial = _history(stored, 1, "test_error", *metrics["selected"])
    for name, value in metrics["selected"].items():
        trial = trial[np.isclose(trial[name].astype(float), value, rtol=1e-5, atol=0)]
    for name in ("validation_error", *(() if stored.run.readout.refit else ("test_error",))):
        yield _same(f"{name.replace('_', ' ')} of the selected trial", trial[name].min(), metrics[name], 1e-4)
    encoder, readout = stored.run.encoder, stored.run.readout
    if encoder is not None and study.evidence.has(encoder, weights=True):
        chosen: Any = {"alphas": (metrics["selected"].get("alpha", 1.0),), "l2": (metrics["selected"]["l2"],)}
        model, data = study.evidence.load_model(encoder), load_data(stored.run.data)
        again = evaluate(data, encoder.method, model, replace(readout, **chosen), "cpu")
        yield _same("test error fitted again from the stored weights", again.test_error, metrics["test_error"], _REFIT)


def _first_epochs(stored: StoredRun, epochs: int) -> str:
    run: Any = stored.run
    if run.method.kind != "train" or run.below is not None:
        raise KsaeError(f"{run.run_id} is no k-sparse autoencoder on the data: only theirs can be trained again here.")
    config, epochs = run.method, min(epochs, run.method.epochs)
    history, x = _history(stored, epochs, "k", "learning_rate", "loss", "live_units"), load_data(run.data).train_x
    commit = stored.metrics.get("git_commit")
    other = "" if stored.is_current else f" It was trained by other code than what is here: commit {commit}."
    engine = training.make_engine([training.new_model(config, x)], x, config)
    for n in range(epochs):
        order = schedule.order_of(config.seed, n, len(x)) if config.shuffle else np.arange(len(x))
        k = schedule.sparsity(n, config.epochs, config.k, config.k_start, config.k_ramp)
        rate = schedule.linear_by_epoch(n, config.epochs, config.learning_rate, config.learning_rate_end)
        momentum = schedule.linear_by_epoch(n, config.epochs, config.momentum, config.momentum_end)
        (result,) = engine.run_epoch(order[np.newaxis], [k], [rate], momentum)
        said: Any = history.iloc[n]
        _same(f"k of epoch {n}", k, said["k"], 0)
        _same(f"learning rate of epoch {n}", float(f"{rate:.6g}"), said["learning_rate"], 0)
        _same(f"loss of epoch {n}", result.loss, said["loss"], _LOSS * said["loss"], other)
        live = int(np.count_nonzero(result.uses))
        _same(f"live units of epoch {n}", live, said["live_units"], _LIVE * config.units, other)
    return f"{epochs} of {config.epochs} epochs trained again, loss {result.loss:.6g}: as committed, within {_LOSS:.1%}"


def check_row(study: Study, table: int, key: str) -> Iterator[str]:
    """Compute a row of a committed table again from the mistakes of its runs, and name every file that counts.

    Those are the row's own, of the same runs with twice the epochs, and, for the pooled spread, of the other rows.

    Raises:
        KsaeError: no such row, or no runs; a mean, interval, verdict or count of mistakes is another one.
        StoreError: a run lacks what is counted.
    """
    in_table = shown_rows(study, table) if table in study.table_numbers else []
    rows = {one.row.key: one for one in in_table if one.committed}
    # A row is named as its variant is printed, too: k=25 for k25.
    key = key if key in rows else key.replace("=", "")
    if key not in rows:
        choice = f"rows that have some: {', '.join(rows) or 'none'}"
        raise KsaeError(f"Table {table} of profile {study.profile} has no row {key!r} with committed runs; {choice}.")
    own = rows[key].committed
    longer: list[Any] = [study.evidence.find(wanted) for run in own if (wanted := twice(run.run))]  # type: ignore[arg-type]
    closely = {run.run.run_id: run for run in (*own, *longer) if run}
    used = closely | {run.run.run_id: run for one in rows.values() for run in one.committed}
    said = [_same(f"test error of {name}", _error(run), run.metrics["test_error"], 1e-6) for name, run in used.items()]
    yield from said[: len(closely)]
    path = study.evidence_root / study.profile / "tables" / f"table{table}.csv"
    table_rows: Any = pd.read_csv(path, keep_default_na=False).to_dict("records")
    committed: dict[str, Any] = next((row for row in table_rows if row.get("key") == key), {})
    errors = [_error(run) for run in own]
    low, high = interval(errors, own[0].metrics["test_images"])
    for name, value in (("error_mean", float(np.mean(errors))), ("error_ci_low", low), ("error_ci_high", high)):
        yield _same(name, value, float(committed.get(name) or "nan"), 0.0006)
    verdict = error_table(study, table).set_index("key").loc[key, "verdict"]
    if verdict != committed["verdict"]:
        raise KsaeError(f"The verdict is {verdict!r}, committed is {committed['verdict']!r}.")
    yield f"verdict: {committed['verdict']}"
    for name, run in used.items():
        folder = study.evidence.folder(run.run).relative_to(study.evidence_root)
        files = sorted(FILES) if name in closely else ("metrics.json",)
        yield from (f"{folder}/{file}" for file in files)


def _error(stored: StoredRun) -> float:
    if lacking := [name for name in _COUNTED if name not in stored.metrics]:
        raise StoreError(f"metrics.json of {stored.run.run_id} lacks {', '.join(lacking)}.")
    return 100 * len(set(stored.metrics["test_mistakes"])) / stored.metrics["test_images"]


def _history(stored: StoredRun, rows: int, *names: str) -> pd.DataFrame:
    """The history, which must have so many rows and these columns."""
    lacking = [name for name in names if name not in stored.history]
    if lacking or len(stored.history) < rows:
        raise StoreError(f"history.csv of {stored.run.run_id} lacks {', '.join(lacking) or f'row {rows}'}.")
    return stored.history


def _same(name: str, found: float, said: float, within: float, remark: str = "") -> str:
    if not abs(found - said) <= within:
        raise KsaeError(f"The {name} is {found:.6g}, committed is {said:.6g}.{remark}")
    return f"{name}: {found:.6g}, as committed"
