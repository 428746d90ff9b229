"""The paper's tables with our numbers, intervals and verdicts; tables of lengths, searches and sweeps."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ksae_lib.training import TrainConfig
from replication.experiments.base import Row
from replication.judge.finetune import FinetuneConfig
from replication.runs import EncoderRun, FinetuneRun, ReadoutRun, Run, StoredRun, stack
from replication.study import Shown, Study, project_root

COLUMNS = [
    *("table", "dataset", "method", "variant", "paper_error"),
    *("error_mean", "error_ci_low", "error_ci_high", "n_seeds", "val_error_mean"),
    *("selected", "run_ids", "verdict", "source", "key"),
]
FEWEST_SEEDS = 3
INTERVAL_NOTE = (
    "Errors in percent on the test set. Intervals are 95%: the spread over seeds (Student t) and the binomial "
    "sampling error of the test set, added in quadrature. Verdict on the paper's figure: validated if it lies in "
    "the interval, contradicted if not; inconclusive with fewer than 3 seeds or fewer epochs than the paper's (5000, "
    "and 200 of fine-tuning); not tested without a figure or on part of the data."
)


@lru_cache(maxsize=1)
def reported() -> dict[tuple[int, str], dict[str, Any]]:
    """The paper's own rows (``data/paper/reported.csv``) by table and key."""
    file = project_root() / "data" / "paper" / "reported.csv"
    rows = pd.read_csv(file, keep_default_na=False).to_dict("records")
    return {(row["table"], row["key"]): {str(name): value for name, value in row.items()} for row in rows}


def paper_error(row: Row) -> float | None:
    """The paper's figure for a row in percent; None where it has none, and for a stand-in of its data."""
    known = reported().get((row.table, row.paper or ""))
    return None if known is None or row.data.is_stand_in else float(known["error_percent"])


def interval(errors: Sequence[float], test_images: int) -> tuple[float, float]:
    """95% interval of the mean test error in percent, see ``INTERVAL_NOTE``.

    Args:
        errors: test errors in percent, one a seed.
        test_images: size of the test set.
    """
    mean, n = float(np.mean(errors)), len(errors)
    seeds = float(stats.t.ppf(0.975, n - 1) * np.std(errors, ddof=1) / math.sqrt(n)) if n > 1 else 0.0
    sampling = float(stats.norm.ppf(0.975)) * math.sqrt(mean * (100 - mean) / test_images)
    half = math.hypot(seeds, sampling)
    return max(0.0, mean - half), min(100.0, mean + half)


def verdict(paper: float | None, low: float, high: float, runs: Sequence[Run]) -> str:
    """Verdict on the paper's figure, by the rule in ``INTERVAL_NOTE``.

    Args:
        paper: its figure, or None.
        low, high: our interval.
        runs: what the interval is from.
    """
    if paper is None or not runs or not runs[0].data.is_whole or runs[0].data.is_stand_in:
        return "not tested"
    few = len(runs) < FEWEST_SEEDS and runs[0].seed is not None
    if few or shorter_than_the_paper(runs[0]):
        return "inconclusive"
    return "validated" if low <= paper <= high else "contradicted"


def shorter_than_the_paper(run: Run) -> bool:
    """Whether anything in the run was trained for fewer epochs than in the paper."""
    if isinstance(run, FinetuneRun) and run.finetune.epochs < FinetuneConfig.epochs:
        return True
    encoders = stack(run if isinstance(run, EncoderRun) else run.encoder)
    return any(0 < one.method.epochs < TrainConfig.epochs for one in encoders)


def shown_rows(study: Study, table: int, data: str | None = None) -> list[Shown]:
    """The rows of a table on one data set, unless it is named: of NORB and its stand-in the first that has runs."""
    shown = study.rows(table, data)
    with_runs = [one.row.data.name for one in shown if one.committed or one.own] or [shown[0].row.data.name]
    name = "norb" if "norb" in with_runs else with_runs[0]
    return [one for one in shown if one.row.data.name == name]


def error_table(study: Study, table: int, data: str | None = None) -> pd.DataFrame:
    """One of the paper's tables with our numbers beside, from the committed runs; a stand-in has none of the paper's.

    Args:
        study: the profile and its stores.
        table: the paper's number.
        data: as of ``shown_rows``.

    Returns:
        ``COLUMNS``; where the reader has runs of their own, also ``own_error_mean`` and ``own_n_seeds``.
    """
    shown = shown_rows(study, table, data)
    records: list[dict[str, Any]] = [
        {
            "dataset": row.data.title, "method": row.method, "variant": row.variant, "paper_error": paper_error(row),
            **_summary(committed, paper_error(row)), "source": "stand-in" if row.data.is_stand_in else "replicated",
            "key": row.key, "own_error_mean": _summary(own, None)["error_mean"], "own_n_seeds": len(own),
        }
        for row, committed, own in shown
    ]  # fmt: skip
    of_table = [one for one in study.experiments if any(row.table == table for row in one.rows)]
    for key in dict.fromkeys(key for one in of_table for key in one.quoted):
        said = reported()[table, key]
        quoted = {name: said[name] for name in ("dataset", "method", "variant", "key")}
        quoted |= {"paper_error": float(said["error_percent"]), "source": "quoted", "own_n_seeds": 0}
        records.append(quoted | _summary([], None))
    own_columns = ["own_error_mean", "own_n_seeds"] if any(one.own for one in shown) else []
    return pd.DataFrame(records).assign(table=table).reindex(columns=[*COLUMNS, *own_columns])


def _summary(stored: list[StoredRun], paper: float | None) -> dict[str, Any]:
    if not stored:
        return {"error_mean": math.nan, "n_seeds": 0, "selected": "{}", "run_ids": "", "verdict": "not tested"}
    errors = [run.metrics["test_error"] for run in stored]
    low, high = (round(end, 3) for end in interval(errors, stored[0].metrics["test_images"]))
    return {
        "error_mean": round(float(np.mean(errors)), 3),
        "error_ci_low": low,
        "error_ci_high": high,
        "n_seeds": len(stored),
        "val_error_mean": round(float(np.mean([run.metrics["validation_error"] for run in stored])), 3),
        **_chosen_by(stored),
        "verdict": verdict(paper, low, high, [run.run for run in stored]),
    }


def _chosen_by(stored: list[StoredRun]) -> dict[str, str]:
    chosen = Counter(json.dumps(run.metrics["selected"], sort_keys=True) for run in stored)
    return {"selected": chosen.most_common(1)[0][0], "run_ids": " ".join(run.run.run_id for run in stored)}


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """The columns of an error table a reader wants, formatted; with the source of each row if not all are of MNIST."""

    def numbers(column: str) -> pd.Series:
        return table[column].astype(float).map("{:.2f}".format).where(table[column].notna(), "–")

    def chosen(selected: str) -> str:
        return ", ".join(f"{'α' if name == 'alpha' else name} = {v:g}" for name, v in json.loads(selected).items())

    shown = table[["method", "variant"]].rename(columns=str.title)
    shown["Paper"], shown["Ours"] = numbers("paper_error"), numbers("error_mean")
    interval_text = numbers("error_ci_low") + " – " + numbers("error_ci_high")
    shown["95% interval"] = interval_text.where(table["error_ci_low"].notna(), "–")
    shown["Seeds"] = table["n_seeds"]
    if "own_error_mean" in table:
        yours = numbers("own_error_mean") + " (" + table["own_n_seeds"].astype(str) + ")"
        shown["Yours"] = yours.where(table["own_n_seeds"] > 0, "–")
    shown["Chosen on validation"] = table["selected"].map(chosen)
    shown["Verdict"] = table["verdict"]
    if not (table["dataset"] == "MNIST").all():
        named = table["source"] + ", " + table["dataset"]
        shown["Source"] = table["dataset"].where(table["source"] == "stand-in", named)
    return shown


def table_title(study: Study, table: int, data: str | None = None) -> str:
    """Which of the paper's tables, on which data."""
    return f"Table {table}, {shown_rows(study, table, data)[0].row.data.title}"


def net_title(run: Any, live_units: int) -> str:
    """What a reader has to know of a k-sparse autoencoder: k, start, schedule, seed and how many units are in use."""
    net: Any = run.method
    falls = "fixed k" if net.k_start is None else f"k falls from {net.k_start}"
    return f"k = {net.k}: {net.bias_init} start, {falls}, seed {net.seed}, {live_units} of {net.units} units live"


def epoch_table(study: Study) -> pd.DataFrame:
    """Error against length of training, a row a run; live units of all training images, FVU of validation images."""
    records = []
    for readout in study.curve():
        assert isinstance(readout.run, ReadoutRun) and readout.run.encoder is not None
        net: Any = readout.run.encoder.method
        if (encoder := study.find(readout.run.encoder)) is None:
            continue
        records.append(
            {
                "k": net.k, "bias_init": net.bias_init, "epochs": net.epochs,
                "test_error": round(readout.metrics["test_error"], 2),
                "val_error": round(readout.metrics["validation_error"], 2),
                "selected": json.dumps(readout.metrics["selected"], sort_keys=True),
                "live_units": encoder.metrics["live_units"], "fvu": round(encoder.metrics["validation"]["fvu"], 4),
                "training_minutes": round(encoder.metrics["wall_seconds"] / 60, 1), "run_id": readout.run.run_id,
            }
        )  # fmt: skip
    return pd.DataFrame(records)


def search_table(study: Study) -> pd.DataFrame:
    """Every trial of the search for each method's settings, best first; validation errors alone, in percent.

    ``at_edge`` names the settings of a trial than which nothing smaller or nothing larger was tried, all else equal.
    """
    records: list[dict[str, Any]] = []
    for search, stored in study.searches():
        tried = [settings for settings, _ in search.trials]
        found = [(settings, run) for settings, run in zip(tried, stored, strict=True) if run is not None]
        records += [
            {
                "data": run.run.data.title, "method": search.row.method, "variant": search.row.variant,
                "trial": json.dumps(settings, sort_keys=True),
                "val_error": round(run.metrics["validation_error"], 2),
                "at_edge": ", ".join(name for name in settings if _is_at_edge(name, settings, tried)),
                "run_id": run.run.run_id,
            }
            for settings, run in sorted(found, key=lambda trial: round(trial[1].metrics["validation_error"], 2))
        ]  # fmt: skip
    return pd.DataFrame(records)


def _is_at_edge(name: str, settings: dict[str, Any], tried: list[dict[str, Any]]) -> bool:
    value = settings[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    values = {trial[name] for trial in tried if name in trial and {**trial, name: value} == settings}
    return len(values) > 1 and value in (min(values), max(values))


def sweep_table(study: Study) -> pd.DataFrame:
    """Validation error in percent when one setting is changed at a time.

    ``effect`` is the mean difference from the base over the ``n_seeds`` that both have, with its 95% interval
    (Student t); ``val_error_mean`` is the base's mean over all its seeds plus the effect.
    """
    points = [
        (name, sweep, value, stored, {run.metrics["seed"]: run.metrics["validation_error"] for run in stored})
        for name, sweep, value, stored in study.sweeps()
    ]
    bases = {(name, sweep.factor): errors for name, sweep, value, _, errors in points if value == sweep.base}
    records = []
    for name, sweep, value, stored, errors in points:
        base = bases.get((name, sweep.factor), {})
        differences = np.array([error - base[seed] for seed, error in errors.items() if seed in base])
        n = len(differences)
        if n == 0:
            continue
        half = float(stats.t.ppf(0.975, n - 1) * differences.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
        records.append(
            {
                "experiment": name, "factor": sweep.factor, "value": _words(value), "is_base": value == sweep.base,
                "val_error_mean": round(float(np.mean(list(base.values())) + differences.mean()), 3),
                "effect": round(float(differences.mean()), 3), "effect_ci_half": round(half, 3), "n_seeds": n,
                "fvu_mean": round(float(np.mean([_chosen_fvu(run) for run in stored])), 4), **_chosen_by(stored),
            }
        )  # fmt: skip
    return pd.DataFrame(records)


def _chosen_fvu(run: StoredRun) -> float:
    trials, alpha = run.history, run.metrics["selected"].get("alpha")
    return float(trials.loc[trials["alpha"].isna() if alpha is None else trials["alpha"] == alpha, "fvu"].iloc[0])


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(v)}" for name, v in value.items()) or "as chosen"
    return " or ".join(f"{v:g}" for v in value) if isinstance(value, tuple) else str(value)


def markdown(table: pd.DataFrame) -> str:
    """A data frame as a Markdown table."""
    lines = ["| " + " | ".join(map(str, table.columns)) + " |", "|" + "---|" * len(table.columns)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in table.itertuples(index=False)]
    return "\n".join(lines) + "\n"
