"""The paper's tables with our numbers, intervals and verdicts; tables of searches and sweeps."""

import json
import math
from collections import Counter
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from replication.experiments.base import Between, Row
from replication.report.verdicts import INTERVAL_NOTE as INTERVAL_NOTE
from replication.report.verdicts import MARGINS, Spread, half_width, interval, length_of, place, t_test, verdict
from replication.runs import StoredRun
from replication.study import Shown, Study, project_root

_EDGE = 0.1
COLUMNS = [
    *("table", "dataset", "method", "variant", "paper_error"),
    *("error_mean", "error_ci_low", "error_ci_high", "n_seeds", "val_error_mean"),
    *("selected", "run_ids", "verdict", "source", "key", "length_effect", "length_ci_half"),
]


@lru_cache(maxsize=1)
def reported() -> dict[tuple[int, str], dict[str, Any]]:
    """The paper's own rows (``data/paper/reported.csv``) by table and key."""
    file = project_root() / "data" / "paper" / "reported.csv"
    rows = pd.read_csv(file, keep_default_na=False).to_dict("records")
    return {(row["table"], row["key"]): {str(name): value for name, value in row.items()} for row in rows}


def paper_error(row: Row) -> float | None:
    """The paper's figure for a row in percent; None where it has none, and for a stand-in of its data."""
    return None if row.data.is_stand_in else paper_figure(row.table, row.paper)


def paper_figure(table: int, key: str) -> float | None:
    """The paper's figure in percent by table and key, None where it has none."""
    known = reported().get((table, key))
    return None if known is None else float(known["error_percent"])


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
    errors = [[run.metrics["test_error"] for run in runs] for row, runs, _ in shown if paper_error(row) is not None]
    spread, records = Spread.pooled(errors, MARGINS[table]), list[dict[str, Any]]()
    for row, committed, own in shown:
        length, paper = length_of(study.evidence, committed), paper_error(row)
        records.append(
            {
                "dataset": row.data.title, "method": row.method, "variant": row.variant, "paper_error": paper,
                **_summary(committed), "verdict": verdict(paper, committed, spread, length),
                "source": "stand-in" if row.data.is_stand_in else "replicated", "key": row.key,
                "length_effect": round(length.effect, 3), "length_ci_half": round(length.half, 3),
                "own_error_mean": _summary(own)["error_mean"], "own_n_seeds": len(own),
            }
        )  # fmt: skip
    of_table = [one for one in study.experiments if any(row.table == table for row in one.rows)]
    for key in dict.fromkeys(key for one in of_table for key in one.quoted):
        said = reported()[table, key]
        quoted = {name: said[name] for name in ("dataset", "method", "variant", "key")}
        quoted |= {"paper_error": float(said["error_percent"]), "source": "quoted", "own_n_seeds": 0}
        records.append(quoted | _summary([]) | {"verdict": "not tested"})
    own_columns = ["own_error_mean", "own_n_seeds"] if any(one.own for one in shown) else []
    return pd.DataFrame(records).assign(table=table).reindex(columns=[*COLUMNS, *own_columns])


def _summary(stored: list[StoredRun]) -> dict[str, Any]:
    if not stored:
        return {"error_mean": math.nan, "n_seeds": 0, "selected": "{}", "run_ids": ""}
    errors, validation = ([run.metrics[f"{part}_error"] for run in stored] for part in ("test", "validation"))
    low, high = (round(end, 3) for end in interval(errors, stored[0].metrics["test_images"]))
    means = {"error_mean": round(float(np.mean(errors)), 3), "val_error_mean": round(float(np.mean(validation)), 3)}
    return {**means, "error_ci_low": low, "error_ci_high": high, "n_seeds": len(stored), **_chosen_by(stored)}


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
    """What a reader has to know of a k-sparse autoencoder: k, schedule, start, rate and loss, seed, units in use."""
    net: Any = run.method
    falls = "constant" if net.k_start is None else f"falling from {net.k_start}"
    rates = f"rate {net.learning_rate:g} on E ({2 * net.learning_rate:g} on ½E), seed {net.seed}"
    return f"k = {net.k}, {falls}: {net.bias_init.removesuffix('s')} biases, {rates}, {live_units} of {net.units} live"


def search_table(study: Study) -> pd.DataFrame:
    """Every run of the search for each row's settings, longest first, then best; validation errors in percent.

    The first of a row is the chosen one. ``at_edge`` names its numbers that lie within a tenth of their range (on a
    logarithmic scale) from an end.
    """
    records: list[dict[str, Any]] = []
    for search, stored in study.searches():
        found = [(settings, run) for (settings, _), run in zip(search.trials, stored, strict=True) if run is not None]
        records += [
            {
                "method": search.row.method, "variant": search.row.variant, "epochs": settings["epochs"],
                "trial": json.dumps({name: settings[name] for name in search.space}),
                "val_error": round(run.metrics["validation_error"], 2),
                "at_edge": ", ".join(name for name, of in search.space.items() if _is_at_edge(settings[name], of)),
                "run_id": run.run.run_id,
            }
            for settings, run in sorted(found, key=lambda one: (-one[0]["epochs"], one[1].metrics["validation_error"]))
        ]  # fmt: skip
    return pd.DataFrame(records).drop_duplicates("run_id") if records else pd.DataFrame()


def _is_at_edge(value: Any, possible: Any) -> bool:
    if not isinstance(possible, Between):
        return False
    place = math.log(value / possible.low) / math.log(possible.high / possible.low)
    return not _EDGE < place < 1 - _EDGE


_MEASURES = {
    "fvu": lambda net: net["validation"]["fvu"], "live_units": lambda net: net["live_units"],
    "noise_tiles": lambda net: net["noise_tiles"], "area": lambda net: net["effective_area_median"],
    "skew": lambda net: net["weight_skew"],
}  # fmt: skip


def sweep_table(study: Study) -> pd.DataFrame:
    """Errors in percent when one factor is changed at one k, and what its encoders are like, means over ``n_seeds``.

    ``val_effect`` and ``test_effect`` are mean differences from the base over the seeds that both have; ``…_half`` is
    half of a 95% interval (Student t), ``p`` that of the test effect, before any correction. ``figure`` says where the
    paper's lies: ``inside`` the prediction interval of one further run, ``outside``, or ``open``. ``noise_tiles`` are
    those among the first 120 filters. ``oracle`` is the best test error that a choice of α, l2, epoch of SGD and seed
    on test data would have found. Settings that saw validation images have no measure on them.
    """
    records = []
    sweeps = study.sweeps()
    bases = {sweep.k: [run.metrics["test_error"] for run in points[0][1]] for sweep, points in sweeps}
    spread = Spread.pooled([errors for k, errors in bases.items() if paper_figure(1, f"k{k}") is not None], MARGINS[1])
    for sweep, points in sweeps:
        base = {run.run.seed: run.metrics for run in points[0][1]}
        for value, stored in points:
            pairs = [(run.metrics, base[run.run.seed]) for run in stored if run.run.seed in base]
            if not pairs:
                continue
            record = {"factor": sweep.factor, "k": sweep.k, "value": value, "is_base": stored is points[0][1]}
            encoders: list[Any] = [run.run.encoder for run in stored]  # type: ignore[union-attr]
            unseen = encoders[0].data.train_size == stored[0].run.data.train_size
            for name, short in (("validation_error", "val"), ("test_error", "test")):
                errors = [run.metrics[name] for run in stored]
                changes = [own[name] - other[name] for own, other in pairs]
                means = {"error_mean": np.mean(errors), "error_half": half_width(errors)}
                means |= {"effect": round(np.mean(changes), 3) + 0.0, "ci_half": half_width(changes)}
                shown = unseen or short == "test"
                record |= {f"{short}_{what}": round(float(v), 3) if shown else math.nan for what, v in means.items()}
            record["p"] = float(f"{t_test(changes):.2g}")
            record["figure"] = place(paper_figure(1, f"k{sweep.k}"), errors, spread)
            nets = [net.metrics for one in encoders if (net := study.evidence.find(one) or study.store.find(one))]
            for name, of in _MEASURES.items():
                shown = bool(nets) and (unseen or name != "fvu")
                record[name] = round(float(np.mean([of(net) for net in nets])), 4) if shown else math.nan
            oracle = min(min(run.metrics["test_error"], run.history["test_error"].min()) for run in stored)
            records.append({**record, "n_seeds": len(stored), "oracle": oracle, **_chosen_by(stored)})
    return pd.DataFrame(records)


def readable_sweeps(table: pd.DataFrame) -> pd.DataFrame:
    """The columns of ``sweep_table`` a reader wants, formatted; the base of each k once."""
    if table.empty:
        return table
    shown = table.drop_duplicates(["k", "run_ids"])
    shown = shown.assign(factor=shown["factor"].where(~shown["is_base"], "base")).sort_values("k", kind="stable")
    errors = {}
    for name, short in (("Validation", "val"), ("Test", "test")):
        effect = shown[f"{short}_effect"].map("{:+.2f}".format) + " ± " + shown[f"{short}_ci_half"].map("{:.2f}".format)
        errors[name] = shown[f"{short}_error_mean"].map("{:.2f}".format).replace("nan", "–")
        effect = effect.replace("+nan ± nan", "–")
        errors[f"{name}: effect"] = effect.str.replace(" ± nan", "").where(shown["factor"] != "base", "–")
    said = {"Live units": "live_units", "Noise of 120": "noise_tiles"}
    measures = {title: shown[name].map("{:.0f}".format) for title, name in said.items()}
    measures["Skew"] = shown["skew"].map("{:+.1f}".format)
    columns = {"k": shown["k"], "Factor": shown["factor"], "Value": shown["value"], **errors, **measures}
    return pd.DataFrame({**columns, "Paper's error": shown["figure"], "Seeds": shown["n_seeds"]})


def mean_and_half(values: Any, digits: int = 1, sign: str = "") -> str:
    """Mean over seeds and, of more than one, half of its 95% interval in brackets."""
    half = f" (± {half_width(values):.{digits}f})" if len(values) > 1 else ""
    return f"{np.mean(values):{sign}.{digits}f}{half}"


def markdown(table: pd.DataFrame) -> str:
    """A data frame as a Markdown table."""
    lines = ["| " + " | ".join(map(str, table.columns)) + " |", "|" + "---|" * len(table.columns)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in table.itertuples(index=False)]
    return "\n".join(lines) + "\n"
