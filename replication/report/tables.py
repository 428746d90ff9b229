"""Error tables with intervals and verdicts, as CSV (the contract), Markdown and LaTeX."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ksae_lib.training import TrainConfig
from replication.judge.finetune import FinetuneConfig
from replication.plan import BaselineRun, FinetuneRun, Run, Supervised, TrainRun, stack
from replication.runs import StoredRun
from replication.study import Study, project_root

COLUMNS = [
    *("table", "dataset", "method", "variant", "paper_error"),
    *("error_mean", "error_ci_low", "error_ci_high", "n_seeds", "val_error_mean"),
    *("selected", "run_ids", "verdict", "source"),
]
FEWEST_SEEDS = 3
INTERVAL_NOTE = (
    "Errors in percent on the test set. Intervals are 95%: the spread over seeds (Student t) and the binomial "
    "sampling error of the test set, added in quadrature. Verdict on the paper's figure: validated if it lies in "
    "the interval, contradicted if not; inconclusive with fewer than 3 seeds or fewer epochs than the paper's (5000, "
    "and 200 of fine-tuning); not tested without a figure or on part of the data."
)


@lru_cache(maxsize=1)
def reported() -> pd.DataFrame:
    """The paper's own figures (``data/paper/reported.csv``)."""
    return pd.read_csv(project_root() / "data" / "paper" / "reported.csv", dtype={"variant": "string"})


def interval(errors: list[float], test_images: int) -> tuple[float, float]:
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


def verdict(paper: float | None, low: float, high: float, runs: Sequence[Supervised]) -> str:
    """Verdict on the paper's figure, by the rule in ``INTERVAL_NOTE``.

    Args:
        paper: its figure, or None.
        low, high: our interval.
        runs: what the interval is from.
    """
    if paper is None or not runs or not runs[0].data.is_whole or runs[0].data.is_stand_in:
        return "not tested"
    tuned = isinstance(runs[0], FinetuneRun)
    few = len(runs) < FEWEST_SEEDS and (tuned or runs[0].encoder is not None)
    if few or shorter_than_the_paper(runs[0]):
        return "inconclusive"
    return "validated" if low <= paper <= high else "contradicted"


def shorter_than_the_paper(run: Run) -> bool:
    """Whether anything in the run was trained for fewer epochs than in the paper."""
    if isinstance(run, FinetuneRun) and run.finetune.epochs < FinetuneConfig.epochs:
        return True
    encoders = stack(run if isinstance(run, TrainRun | BaselineRun) else run.encoder)
    settings = [e.train if isinstance(e, TrainRun) else e.baseline for e in encoders]
    return any(getattr(s, "epochs", TrainConfig.epochs) < TrainConfig.epochs for s in settings)


def error_table(study: Study, table: int) -> pd.DataFrame:
    """One of the paper's tables with our numbers beside (columns: ``COLUMNS``); a stand-in has none of the paper's."""
    records = []
    for row, runs in study.rows(table):
        data, summary = row.runs[0].data, _summary(runs)
        paper = _reported_error(table, data.title, row.method, row.variant)
        records.append(
            {
                "table": table,
                "dataset": data.title,
                "method": row.method,
                "variant": row.variant,
                "paper_error": paper,
                **summary,
                "verdict": verdict(paper, summary["error_ci_low"], summary["error_ci_high"], row.runs[: len(runs)]),
                "source": "stand-in" if data.is_stand_in else "replicated",
            }
        )
    for quoted in study.quoted(table):
        paper = _reported_error(table, quoted.dataset, quoted.method, quoted.variant)
        said = {"paper_error": paper, **_summary([]), "verdict": "not tested", "source": "quoted"}
        records.append({**asdict(quoted), **said})
    return pd.DataFrame(records, columns=COLUMNS)


def _reported_error(table: int, dataset: str, method: str, variant: str) -> float | None:
    paper = reported()
    known = paper[(paper["table"] == table) & (paper["dataset"] == dataset) & (paper["method"] == method)]
    # A row beside one of the paper's has its variant and, after a comma, what is different.
    variants = known["variant"].fillna("")
    known = pd.concat([known[variants == variant], known[variants == variant.partition(",")[0]]])
    return float(known["error_percent"].iloc[0]) if len(known) else None


def _summary(runs: list[StoredRun]) -> dict[str, Any]:
    nan = float("nan")
    if not runs:
        return {
            "error_mean": nan, "error_ci_low": nan, "error_ci_high": nan, "n_seeds": 0,
            "val_error_mean": nan, "selected": "{}", "run_ids": "",
        }  # fmt: skip
    errors = [run.metrics["test_error"] for run in runs]
    low, high = interval(errors, runs[0].metrics["test_images"])
    return {
        "error_mean": round(float(np.mean(errors)), 3),
        "error_ci_low": round(low, 3),
        "error_ci_high": round(high, 3),
        "n_seeds": len(runs),
        "val_error_mean": round(float(np.mean([run.metrics["validation_error"] for run in runs])), 3),
        "selected": _usual([run.metrics["selected"] for run in runs]),
        "run_ids": " ".join(run.run.run_id for run in runs),
    }


def epoch_table(study: Study) -> pd.DataFrame:
    """Error against length of training, a row a run; live units of all training images, FVU of validation images."""
    records = []
    for run, readout in study.curve():
        assert isinstance(run.encoder, TrainRun)
        encoder = study.store.load(run.encoder)
        t = run.encoder.train
        records.append(
            {
                "k": t.k,
                "bias_init": t.bias_init,
                "support": t.support_dtype,
                "epochs": t.epochs,
                "test_error": round(readout.metrics["test_error"], 2),
                "val_error": round(readout.metrics["validation_error"], 2),
                "selected": json.dumps(readout.metrics["selected"], sort_keys=True),
                "live_units": encoder.metrics["live_units"],
                "fvu": round(encoder.metrics["validation"]["fvu"], 4),
                "training_minutes": round(encoder.metrics["wall_seconds"] / 60, 1),
                "run_id": run.run_id,
            }
        )
    return pd.DataFrame(records)


def search_table(study: Study) -> pd.DataFrame:
    """Every trial of the search for each method's settings, best first; validation errors alone, in percent.

    ``at_edge`` names the settings of a trial than which nothing smaller or nothing larger was tried, all else equal.
    """
    records = [
        {
            "data": run.data.title,
            "method": search.method,
            "variant": search.variant,
            "trial": json.dumps(settings, sort_keys=True),
            "val_error": round(study.store.load(run).metrics["validation_error"], 2),
            "at_edge": ", ".join(_at_edge(settings, [tried for tried, _ in search.trials])),
            "run_id": run.run_id,
        }
        for experiment in study.plan.experiments
        for search in experiment.searches
        for settings, run in search.trials
        if study.store.has(run)
    ]
    table = pd.DataFrame(records, columns=["data", "method", "variant", "trial", "val_error", "at_edge", "run_id"])
    table["row"] = table.groupby(["data", "method", "variant"], sort=False).ngroup()
    return table.sort_values(["row", "val_error"], kind="stable").drop(columns="row")


def _at_edge(settings: dict[str, Any], tried: list[dict[str, Any]]) -> list[str]:
    """Numbers among the settings that are the smallest or largest of the trials that differ in them alone."""
    found = []
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        rest = {k: v for k, v in settings.items() if k != name}
        values = {t[name] for t in tried if name in t and {k: v for k, v in t.items() if k != name} == rest}
        if len(values) > 1 and value in (min(values), max(values)):
            found.append(name)
    return found


def sweep_table(study: Study) -> pd.DataFrame:
    """Validation error in percent when one setting is changed at a time.

    ``effect`` is the mean difference from the base over the ``n_seeds`` that both have, with its 95% interval
    (Student t); ``val_error_mean`` is the base's mean over all its seeds plus the effect.
    """
    points = [point for point in study.sweeps() if point[3]]
    base = {(e, sweep.factor): _by_seed(stored) for e, sweep, value, stored in points if value == sweep.base}
    records = []
    for experiment, sweep, value, stored in points:
        errors = _by_seed(stored)
        beside = base.get((experiment, sweep.factor), {})
        differences = np.array([error - beside[seed] for seed, error in errors.items() if seed in beside])
        n = len(differences)
        if n == 0:
            continue
        half = float(stats.t.ppf(0.975, n - 1) * differences.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
        records.append(
            {
                "experiment": experiment, "factor": sweep.factor, "value": _words(value),
                "is_base": value == sweep.base,
                "val_error_mean": round(float(np.mean(list(beside.values())) + differences.mean()), 3),
                "effect": round(float(differences.mean()), 3), "effect_ci_half": round(half, 3), "n_seeds": n,
                "fvu_mean": round(float(np.mean([_chosen_fvu(run) for run in stored])), 4),
                "selected": _usual([run.metrics["selected"] for run in stored]),
                "run_ids": " ".join(run.run.run_id for run in stored),
            }
        )  # fmt: skip
    return pd.DataFrame(records)


def _by_seed(stored: list[StoredRun]) -> dict[int, float]:
    return {run.metrics["seed"]: run.metrics["validation_error"] for run in stored}


def _chosen_fvu(run: StoredRun) -> float:
    trials, alpha = run.history, run.metrics["selected"].get("alpha")
    return float(trials.loc[trials["alpha"].isna() if alpha is None else trials["alpha"] == alpha, "fvu"].iloc[0])


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(v)}" for name, v in value.items()) or "as chosen"
    return " or ".join(f"{v:g}" for v in value) if isinstance(value, tuple) else str(value)


def _usual(selected: list[dict[str, float]]) -> str:
    """What validation chose most often, as JSON."""
    return Counter(json.dumps(chosen, sort_keys=True) for chosen in selected).most_common(1)[0][0]


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """The columns of an error table a reader wants, formatted; with the source of each row if not all are of MNIST."""

    def number(value: float) -> str:
        return "–" if pd.isna(value) else f"{value:.2f}"

    shown = pd.DataFrame(
        {
            "Method": table["method"],
            "Variant": table["variant"],
            "Paper": table["paper_error"].map(number),
            "Ours": table["error_mean"].map(number),
            "95% interval": [
                "–" if pd.isna(low) else f"{low:.2f} – {high:.2f}"
                for low, high in zip(table["error_ci_low"], table["error_ci_high"], strict=True)
            ],
            "Seeds": table["n_seeds"],
            "Chosen on validation": [_chosen(text) for text in table["selected"]],
            "Verdict": table["verdict"],
        }
    )
    if not (table["dataset"] == "MNIST").all():
        named = table["source"] + ", " + table["dataset"]
        shown["Source"] = table["dataset"].where(table["source"] == "stand-in", named)
    return shown


def _chosen(selected: str) -> str:
    names = {"alpha": "α", "l2": "l2"}
    return ", ".join(f"{names.get(name, name)} = {value:g}" for name, value in json.loads(selected).items())


def markdown(table: pd.DataFrame) -> str:
    """A data frame as a Markdown table."""
    lines = ["| " + " | ".join(map(str, table.columns)) + " |", "|" + "---|" * len(table.columns)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in table.itertuples(index=False)]
    return "\n".join(lines) + "\n"


def latex(table: pd.DataFrame) -> str:
    """A readable error table as LaTeX (booktabs)."""
    text = table.to_latex(index=False, escape=True)
    return text.replace("α", r"$\alpha$").replace("–", "--")


def table_title(study: Study, number: int) -> str:
    """Which of the paper's tables, on which data."""
    row = next(row for e in study.plan.experiments for row in e.rows if row.table == number)
    return f"Table {number}, {row.runs[0].data.title}"


def table_texts(study: Study) -> dict[Path, str]:
    """Every table file of the profile and its text, from the runs in the store."""
    texts = {}
    for number in sorted({row.table for e in study.plan.experiments for row in e.rows}):
        table = error_table(study, number)
        heading = f"{table_title(study, number)}, profile {study.plan.profile}. {INTERVAL_NOTE}\n\n"
        base = study.tables / f"table{number}"
        texts[base.with_suffix(".csv")] = table.to_csv(index=False, lineterminator="\n")
        texts[base.with_suffix(".md")] = heading + markdown(readable(table))
        texts[base.with_suffix(".tex")] = "% " + heading.strip() + "\n" + latex(readable(table))
    curve = epoch_table(study)
    if len(curve):
        base = study.tables / "error_against_epochs"
        texts[base.with_suffix(".csv")] = curve.to_csv(index=False, lineterminator="\n")
        texts[base.with_suffix(".md")] = markdown(curve.drop(columns="run_id"))
    swept = sweep_table(study)
    if len(swept):
        base = study.tables / "error_against_settings"
        texts[base.with_suffix(".csv")] = swept.to_csv(index=False, lineterminator="\n")
        texts[base.with_suffix(".md")] = markdown(swept.drop(columns="run_ids"))
    searched = search_table(study)
    if len(searched):
        base = study.tables / "search"
        texts[base.with_suffix(".csv")] = searched.to_csv(index=False, lineterminator="\n")
        texts[base.with_suffix(".md")] = markdown(searched.drop(columns="run_id"))
    return texts
