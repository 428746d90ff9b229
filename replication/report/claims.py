"""Verdicts on the paper's claims from the committed runs; ``data/paper/claims.json`` has the rule of each.

Each part of a claim comes out as claimed, the opposite, equal or open. Of errors ``paired.COMPARISON_NOTE`` says how,
with Holm's correction within a claim. All parts as claimed: validated. Some, and not only trivial ones: partially
supported, unless the claim stands and falls with every part and one is the opposite. Else one the opposite, or all
equal: contradicted. Else inconclusive. Runs missing or on part of the data: not tested. Whether rows were trained for
long enough decides nothing here; where nothing shows it, confidence is low.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise, product
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import pandas as pd
import torch

from ksae_lib import load_pretrained
from replication.data import load_data
from replication.data.base import DataConfig
from replication.experiments.gap import BASE
from replication.report.paired import EQUAL, compare, holm
from replication.report.tables import net_title
from replication.report.verdicts import FEWEST_SEEDS, half_width, length_of
from replication.runs import EncoderRun, StoredRun
from replication.study import Study, project_root

Outcome = Literal["as claimed", "opposite", "equal", "open", "missing"]
_HIGH = 5
_NOISE_AREA, _NEAR = 1 / 3, 0.03
"""Effective area of a filter of Gaussian noise, and how far from it a median still says nothing."""


class Finding(NamedTuple):
    """What one part of a rule comes to; ``missing``: runs are."""

    outcome: Outcome
    said: str
    runs: Sequence[StoredRun] = ()
    seeds: int = 1
    """Runs of the row that has fewest, rows without chance left out."""
    trivial: bool = False
    """Alone it supports nothing."""


class Evidence:
    """The committed runs of a profile, the rows of each table read once."""

    def __init__(self, study: Study) -> None:
        self.study = study
        shown = [one for number in study.table_numbers for one in study.rows(number)]
        self.rows = {(one.row.table, one.row.data.name, one.row.key): one for one in shown}

    def encoders(self, runs: Sequence[EncoderRun]) -> list[StoredRun] | None:
        """The stored runs, None if there are none or one is missing."""
        found = [stored for run in runs if (stored := self.study.evidence.find(run)) is not None]
        return found if found and len(found) == len(runs) else None

    def unproven(self, runs: dict[str, StoredRun]) -> list[str]:
        """Labels of the rows that use one of the runs and whose length nothing shows to be enough."""
        return [
            one.row.label
            for one in self.rows.values()
            if any(run.run.run_id in runs for run in one.committed)
            and not length_of(self.study.evidence, one.committed).is_enough
        ]

    def spread(self, run: Any, metric: str) -> float:
        """Standard deviation of a metric over the seeds that are stored of an encoder, 0 of fewer than two."""
        runs = (replace(run, method=replace(run.method, seed=seed)) for seed in self.study.evidence.seeds())
        found = [stored.metrics[metric] for one in runs if (stored := self.study.evidence.find(one)) is not None]
        return float(np.std(found, ddof=1)) if len(found) > 1 else 0.0


def stated() -> list[dict[str, Any]]:
    """The claims as ``data/paper/claims.json`` states them: id, claim, section, rule, notebook, deviations."""
    file = project_root() / "data" / "paper" / "claims.json"
    return cast("list[dict[str, Any]]", json.loads(file.read_text(encoding="utf-8")))


def claims(study: Study) -> list[dict[str, Any]]:
    """Every claim with its verdict from the committed runs, as ``claims.json`` holds it."""
    evidence = Evidence(study)
    records = []
    for claim in stated():
        findings = [finding for check, *asked in CHECKS[claim["id"]] for finding in check(evidence, *asked)]
        runs = {run.run.run_id: run for finding in findings for run in finding.runs}
        short = evidence.unproven(runs)
        said = [f"nothing shows that these rows were trained for long enough: {', '.join(short)}"] if short else []
        records.append(
            {
                **{name: claim[name] for name in ("id", "claim", "section", "rule")},
                "verdict": _verdict(findings, runs, claim["id"] in _WHOLE),
                "confidence": _confidence(findings, bool(short)),
                "evidence": {"findings": [finding.said for finding in findings], "run_ids": sorted(runs)},
                "notebook": claim["notebook"], "deviations": [*said, *claim["deviations"]],
            }
        )  # fmt: skip
    return records


def _verdict(findings: Sequence[Finding], runs: dict[str, StoredRun], whole: bool) -> str:
    outcomes = {finding.outcome for finding in findings}
    if "missing" in outcomes or not all(run.run.data.is_whole for run in runs.values()):
        return "not tested"
    if outcomes == {"as claimed"}:
        return "validated"
    some = any(finding.outcome == "as claimed" and not finding.trivial for finding in findings)
    if some and not (whole and "opposite" in outcomes):
        return "partially supported"
    return "contradicted" if "opposite" in outcomes or outcomes == {"equal"} else "inconclusive"


def _confidence(findings: Sequence[Finding], short: bool) -> str:
    if any(finding.outcome == "missing" for finding in findings):
        return "none"
    seeds = min(finding.seeds for finding in findings)
    return "low" if short or seeds < FEWEST_SEEDS else "high" if seeds >= _HIGH else "medium"


def _outcome(low: float, high: float) -> Outcome:
    """Of an interval of what is claimed to be above 0."""
    return "as claimed" if low > 0 else "opposite" if high < 0 else "open"


def _lower(evidence: Evidence, data: str, table: int, *pairs: str) -> list[Finding]:
    """Of each pair ``first<second`` of rows, whether the first has the lower error."""
    rows = [[evidence.rows.get((table, data, key)) for key in pair.split("<")] for pair in pairs]
    if any(row is None or not row.committed for pair in rows for row in pair):
        return [Finding("missing", f"a row of Table {table} has no run")]
    compared = [compare(first.committed, second.committed) for first, second in rows]  # type: ignore[union-attr]
    found = []
    for (first, second), c, p in zip(rows, compared, holm([c.p for c in compared]), strict=True):
        assert first is not None and second is not None
        outcome: Outcome = _ERRORS[c.outcome(p)]
        points = f"{c.difference:+.2f} points ({c.low:+.2f} to {c.high:+.2f}), {outcome}"
        said = f"{first.row.label} − {second.row.label}: {points}, seeds: {c.seeds}"
        runs = [*first.committed, *second.committed]
        found.append(Finding(outcome, said, runs, c.seeds, second.row.key in _TRIVIAL))
    return found


def _alpha(evidence: Evidence, key: str, better: Sequence[float], worse: Sequence[float]) -> list[Finding]:
    """Whether the validation error of a row of Table 1 at each α of ``better`` is below that at each of ``worse``."""
    shown = evidence.rows.get((1, "mnist", key))
    stored = shown.committed if shown else []
    if (seeds := len(stored)) < FEWEST_SEEDS:
        return [Finding("missing", f"{key} has {seeds} runs, {FEWEST_SEEDS} are needed", stored)]
    if missing := {*better, *worse} - {alpha for run in stored for alpha in run.history["alpha"]}:
        return [Finding("missing", f"{key} was not tried at α = {min(missing):g}", stored)]
    errors = pd.DataFrame([run.history.groupby("alpha")["validation_error"].min() for run in stored])
    found = []
    for one, other in product(better, worse):
        gain = (errors[other] - errors[one]).to_numpy()
        mean, half, half90 = float(gain.mean()), half_width(gain), half_width(gain, 0.9)
        outcome = _outcome(mean - half, mean + half)
        outcome = "equal" if outcome == "open" and abs(mean) + half90 < EQUAL else outcome
        said = f"α = {one:g} gains {mean:+.2f} ± {half:.2f} points of validation error over α = {other:g}, {outcome}"
        found.append(Finding(outcome, said, stored, seeds))
    return found


def _schedule(evidence: Evidence, dead: float, live: float) -> list[Finding]:
    """Whether constant k leaves units dead at the lowest k, trained twice as long too, and the schedule almost none."""
    points = {(sweep.factor, sweep.k, name): runs for sweep, found in evidence.study.sweeps() for name, runs in found}
    k = min((k for _, k, _ in points), default=0)
    wanted = (("schedule", BASE, -1), ("epochs", "120", -1), ("schedule", "from 100", 1))
    findings = []
    for factor, name, sign in wanted:
        stored = points.get((factor, k, name), [])
        nets: Any = evidence.encoders([run.run.encoder for run in stored])  # type: ignore[union-attr, misc]
        if len(nets or []) < FEWEST_SEEDS:
            return [Finding("missing", f"{factor} {name} has too few runs")]
        shares = [net.metrics["live_units"] / net.run.method.units for net in nets]
        mean, half, limit = float(np.mean(shares)), half_width(shares), 1 - dead if sign < 0 else live
        measured = f"{100 * mean:.1f} ± {100 * half:.1f}% of units live"
        claimed = f"claimed {'at most' if sign < 0 else 'at least'} {100 * limit:g}%"
        outcome = _outcome(sign * (mean - limit) - half, sign * (mean - limit) + half)
        findings.append(Finding(outcome, f"k = {k}, {factor} {name}: {measured}, {claimed}", stored, len(nets)))
    return findings


def _area_falls_with_k(evidence: Evidence, experiment: str) -> list[Finding]:
    nets: list[Any] = [run for one in evidence.study.experiments if one.name == experiment for run in one.filters]
    nets.sort(key=lambda run: run.method.k)
    stored = evidence.encoders(nets)
    if stored is None:
        return [Finding("missing", "a run of the figure is missing")]
    areas = [run.metrics["effective_area_median"] for run in stored]
    at_start = all(abs(area - _NOISE_AREA) <= _NEAR for area in areas)
    found = []
    for (low, a), (high, b) in pairwise(zip(stored, areas, strict=True)):
        spread = max(evidence.spread(one.run, "effective_area_median") for one in (low, high))
        outcome: Outcome = "open" if at_start or abs(a - b) <= spread else "as claimed" if b < a else "opposite"
        said = [f"{area:.3g} ({net_title(one.run, one.metrics['live_units'])})" for one, area in ((low, a), (high, b))]
        found.append(Finding(outcome, "median effective area " + ", ".join(said), [low, high]))
    return found


def _sparsest(evidence: Evidence, model: str, measure: str) -> list[Finding]:
    models = evidence.study.experiment("figure4").models
    runs = evidence.encoders(list(models.values()))
    if runs is None or not all("sparsity" in run.metrics for run in runs):
        return [Finding("missing", "a model of Figure 4, or the sparsity of its codes, is missing")]
    stored = dict(zip(models, runs, strict=True))
    ours = stored.pop(model)
    found = []
    for label, run in stored.items():
        first, second = (one.metrics["sparsity"][measure] for one in (ours, run))
        said = f"{measure}: {first:.3g} for {model}, {second:.3g} for {label}"
        found.append(Finding("as claimed" if first > second else "opposite", said, [ours, run]))
    return found


def _gabor_like(evidence: Evidence, least: float) -> list[Finding]:
    stored = evidence.encoders(evidence.study.experiment("figure3").filters)
    if stored is None:
        return [Finding("missing", "the run of Figure 3 is missing")]
    found = stored[0].metrics["gabor"]
    share, control, n = found["share"], found["control_share"], found["filters"]
    half = 1.96 * math.sqrt((share * (1 - share) + control * (1 - control)) / n)
    more = share - control
    said = f"{100 * share:.0f}% of {n} filters are localized and oriented, of noise {100 * control:.0f}%"
    wanted = Finding("as claimed" if share >= least else "opposite", f"wanted are {100 * least:.0f}%", stored)
    return [Finding(_outcome(more - half, more + half), said, stored), wanted]


def _faster(_: Evidence, times: float, *methods: str) -> list[Finding]:
    file = project_root() / "benchmarks" / "results" / "encoding.json"
    if not file.exists():
        return [Finding("missing", "the benchmark is missing")]
    measured = json.loads(file.read_text(encoding="utf-8"))["methods"]
    found = []
    for name in methods:
        ratio = measured[name]["encoder_over_this"]
        said = f"{ratio:,.0f} times as many images a second as {name}, wanted are {times:g}"
        found.append(Finding("as claimed" if ratio >= times else "open" if ratio > 1 else "opposite", said))
    return found


@cache
@torch.no_grad()
def _planted(name: str) -> dict[str, float]:
    """Shares of supports that the coder finds again in what its codes reconstruct, exactly and in part."""
    model = load_pretrained(name).model_
    code = model.encode(torch.from_numpy(load_data(DataConfig()).test_x[:2_000]))
    found = ((model.encode(model.decode(code)) != 0) & (code != 0)).sum(dim=1) / model.k
    return {"recovered": float((found == 1).double().mean()), "found": float(found.double().mean())}


def _first_step_suffices(_: Evidence, enough: float, few: float, *ks: int) -> list[Finding]:
    """Of codes planted in trained dictionaries, whether one step finds that share of the supports exactly."""
    found = []
    for k in ks:
        planted = _planted(f"mnist-k{k}")
        exactly, units = (f"{100 * planted[name]:.0f}%" for name in ("recovered", "found"))
        share = planted["recovered"]
        outcome: Outcome = "as claimed" if share >= enough else "opposite" if share < few else "open"
        found.append(Finding(outcome, f"k = {k}: {exactly} of supports are found exactly and {units} of their units"))
    return found


_ERRORS: dict[str, Outcome] = {"lower": "as claimed", "higher": "opposite", "equal": "equal", "open": "open"}
_WHOLE = ("C2", "C4, best α", "C6")
"""Claims that one part of the opposite contradicts."""
_TRIVIAL = ("pixels",)
"""Rows that every method beats."""
_RIVALS = ("rbm", "dropout", "denoising", "both")
CHECKS: dict[str, tuple[tuple[Any, ...], ...]] = {
    "C1": ((_lower, "mnist", 1, *(f"k25<{key}" for key in ("pixels", *_RIVALS))),),
    "C2": ((_lower, "mnist", 1, "k25<k40", "k25<k10"),),
    "C3": ((_lower, "norb", 2, *(f"k150<{key}" for key in ("pixels", *_RIVALS[:3], "k200", "k75"))),),
    "C4": ((_alpha, "k25", (2, 3), (1,)),),
    "C4, best α": ((_alpha, "k25", (3,), (1, 2, 4)),),
    "C5": ((_area_falls_with_k, "figure1"),),
    "C5 on NORB": ((_area_falls_with_k, "figure2"),),
    "C6": ((_schedule, 0.05, 0.99),),
    "C7": ((_lower, "mnist", 3, "k_sparse<none", "k_sparse<rbm", "k_sparse<denoising", "dropout<k_sparse"),),
    "C8": ((_lower, "mnist", 3, "deep_k_sparse<k_sparse"),),
    "C8 on NORB": ((_lower, "norb", 4, "deep_k_sparse<k_sparse"),),
    "C9": ((_lower, "mnist", 3, "deep_k_sparse<at_once"),),
    "C10": ((_gabor_like, 0.5),),
    "C11": ((_sparsest, "k-sparse, k = 15", "hoyer"),),
    "C12": ((_first_step_suffices, 0.95, 0.5, 10, 25, 40, 70),),
    "C13": ((_faster, 50, "OMP", "LARS-lasso", "learned dictionary, OMP"),),
    "C14": ((_lower, "mnist", 1, "k25<k100"),),
}
"""Functions that give findings, each with what it is asked, by claim."""
