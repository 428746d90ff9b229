"""Verdicts on the paper's claims from the committed runs; ``data/paper/claims.json`` has the rule of each.

A difference of errors counts only if its 95% interval leaves out 0 (errors paired on the same test images, variances
over seeds added) and both rows have three seeds. All parts as claimed: validated; more of them the opposite than as
claimed: contradicted; else any as claimed: partially supported; else inconclusive. Runs missing or on part of the
data: not tested.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
from scipy import stats

from replication.report.paired import compare
from replication.report.tables import FEWEST_SEEDS, net_title, shorter_than_the_paper
from replication.runs import EncoderRun, StoredRun
from replication.study import Study, project_root

_HIGH = 5
_NOISE_AREA, _NEAR = 1 / 3, 0.03
"""Effective area of a filter of Gaussian noise, and how far from it a median still says nothing."""


class Finding(NamedTuple):
    """What one part of a rule comes to: +1 as claimed, −1 the opposite, 0 open; None: runs are missing."""

    sign: int | None
    said: str
    runs: Sequence[StoredRun] = ()
    seeds: int = 1
    """Runs of the row that has fewest, rows without chance left out."""


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
        findings = findings or [Finding(None, "nothing tests it yet")]
        runs = {run.run.run_id: run for finding in findings for run in finding.runs}
        short = any(shorter_than_the_paper(run.run) for run in runs.values())
        said = ["trained for fewer epochs than the paper's"] if short else []
        records.append(
            {
                **{name: claim[name] for name in ("id", "claim", "section", "rule")},
                "verdict": _verdict(findings, runs), "confidence": _confidence(findings, short),
                "evidence": {"findings": [finding.said for finding in findings], "run_ids": sorted(runs)},
                "notebook": claim["notebook"], "deviations": [*said, *claim["deviations"]],
            }
        )  # fmt: skip
    return records


def _verdict(findings: Sequence[Finding], runs: dict[str, StoredRun]) -> str:
    signs = [finding.sign for finding in findings]
    if None in signs or not all(run.run.data.is_whole for run in runs.values()):
        return "not tested"
    if signs.count(1) == len(signs):
        return "validated"
    if signs.count(-1) > signs.count(1):
        return "contradicted"
    return "partially supported" if 1 in signs else "inconclusive"


def _confidence(findings: Sequence[Finding], short: bool) -> str:
    if any(finding.sign is None for finding in findings):
        return "none"
    seeds = min(finding.seeds for finding in findings)
    return "high" if seeds >= _HIGH and not short else "medium" if seeds >= FEWEST_SEEDS else "low"


def _sign(low: float, high: float) -> int:
    return 1 if low > 0 else -1 if high < 0 else 0


def _lower(evidence: Evidence, data: str, table: int, key: str, *others: str) -> list[Finding]:
    found = []
    for other in others:
        ours, theirs = (evidence.rows.get((table, data, one)) for one in (key, other))
        if ours is None or theirs is None or not ours.committed or not theirs.committed:
            found.append(Finding(None, f"{key} or {other} of Table {table} has no run"))
            continue
        c = compare(ours.committed, theirs.committed)
        seeds = min(_HIGH if runs[0].run.seed is None else len(runs) for runs in (ours.committed, theirs.committed))
        points = f"{c.difference:+.2f} points ({c.low:+.2f} to {c.high:+.2f})"
        said = f"{ours.row.label} − {theirs.row.label}: {points}, {seeds} seeds"
        sign = _sign(-c.high, -c.low) if seeds >= FEWEST_SEEDS else 0
        found.append(Finding(sign, said, [*ours.committed, *theirs.committed], seeds))
    return found


def _best_alpha(evidence: Evidence, table: int, key: str, best: float) -> list[Finding]:
    shown = evidence.rows.get((table, "mnist", key))
    stored = shown.committed if shown else []
    if (seeds := len(stored)) < FEWEST_SEEDS:
        return [Finding(None, f"{key} has {seeds} runs, {FEWEST_SEEDS} are needed", stored)]
    by_alpha = pd.DataFrame([run.history.groupby("alpha")["validation_error"].min() for run in stored])
    if best not in by_alpha:
        return [Finding(None, f"{key} was not tried at α = {best:g}", stored)]
    found = []
    for alpha in by_alpha.columns.drop([best]):
        gain = by_alpha[alpha] - by_alpha[best]
        half = float(stats.t.ppf(0.975, seeds - 1) * gain.std(ddof=1) / math.sqrt(seeds))
        mean = float(gain.mean())
        said = f"α = {best:g} gains {mean:+.2f} ± {half:.2f} points of validation error over α = {alpha:g}"
        found.append(Finding(_sign(mean - half, mean + half), said, stored, seeds))
    return found


def _area_falls_with_k(evidence: Evidence, experiment: str) -> list[Finding]:
    nets: list[Any] = [run for one in evidence.study.experiments if one.name == experiment for run in one.filters]
    nets.sort(key=lambda run: run.method.k)
    stored = evidence.encoders(nets)
    if stored is None:
        return [Finding(None, "a run of the figure is missing")]
    areas = [run.metrics["effective_area_median"] for run in stored]
    at_start = all(abs(area - _NOISE_AREA) <= _NEAR for area in areas)
    found = []
    for (low, a), (high, b) in pairwise(zip(stored, areas, strict=True)):
        spread = max(evidence.spread(one.run, "effective_area_median") for one in (low, high))
        sign = 0 if at_start or abs(a - b) <= spread else 1 if b < a else -1
        said = [f"{area:.3g} ({net_title(one.run, one.metrics['live_units'])})" for one, area in ((low, a), (high, b))]
        found.append(Finding(sign, "median effective area " + ", ".join(said), [low, high]))
    return found


def _sparsest(evidence: Evidence, model: str, measure: str) -> list[Finding]:
    models = evidence.study.experiment("figure4").models
    runs = evidence.encoders(list(models.values()))
    if runs is None or not all("sparsity" in run.metrics for run in runs):
        return [Finding(None, "a model of Figure 4, or the sparsity of its codes, is missing")]
    stored = dict(zip(models, runs, strict=True))
    ours = stored.pop(model)
    found = []
    for label, run in stored.items():
        first, second = (one.metrics["sparsity"][measure] for one in (ours, run))
        said = f"{measure}: {first:.3g} for {model}, {second:.3g} for {label}"
        found.append(Finding(1 if first > second else -1, said, [ours, run]))
    return found


def _gabor_like(evidence: Evidence, least: float) -> list[Finding]:
    stored = evidence.encoders(evidence.study.experiment("figure3").filters)
    if stored is None:
        return [Finding(None, "the run of Figure 3 is missing")]
    found = stored[0].metrics["gabor"]
    share, control, n = found["share"], found["control_share"], found["filters"]
    half = 1.96 * math.sqrt((share * (1 - share) + control * (1 - control)) / n)
    more = share - control
    said = f"{100 * share:.0f}% of {n} filters are localized and oriented, of noise {100 * control:.0f}%"
    wanted = Finding(1 if share >= least else -1, f"wanted are {100 * least:.0f}%", stored)
    return [Finding(_sign(more - half, more + half), said, stored), wanted]


def _faster(_: Evidence, times: float, *methods: str) -> list[Finding]:
    file = project_root() / "benchmarks" / "results" / "encoding.json"
    if not file.exists():
        return [Finding(None, "the benchmark is missing")]
    measured = json.loads(file.read_text(encoding="utf-8"))["methods"]
    found = []
    for name in methods:
        ratio = measured[name]["encoder_over_this"]
        said = f"{ratio:,.0f} times as many images a second as {name}, wanted are {times:g}"
        found.append(Finding(1 if ratio >= times else 0 if ratio > 1 else -1, said))
    return found


CHECKS: dict[str, tuple[tuple[Any, ...], ...]] = {
    "C1": ((_lower, "mnist", 1, "k25", "pixels", "rbm", "dropout", "denoising", "both"),),
    "C2": ((_lower, "mnist", 1, "k25", "k40", "k10"),),
    "C3": ((_lower, "norb", 2, "k150", "pixels", "rbm", "dropout", "denoising", "k200", "k75"),),
    "C4": ((_best_alpha, 1, "k25", 3),),
    "C5": ((_area_falls_with_k, "figure1"),),
    "C5 on NORB": ((_area_falls_with_k, "figure2"),),
    "C6": (),
    "C7": ((_lower, "mnist", 3, "k_sparse", "none", "rbm", "denoising"), (_lower, "mnist", 3, "dropout", "k_sparse")),
    "C8": ((_lower, "mnist", 3, "deep_k_sparse", "k_sparse"),),
    "C8 on NORB": ((_lower, "norb", 4, "deep_k_sparse", "k_sparse"),),
    "C9": ((_lower, "mnist", 3, "deep_k_sparse", "at_once"),),
    "C10": ((_gabor_like, 0.5),),
    "C11": ((_sparsest, "k-sparse, k = 15", "hoyer"),),
    "C12": (),
    "C13": ((_faster, 50, "OMP", "LARS-lasso", "learned dictionary, OMP"),),
    "C14": ((_lower, "mnist", 1, "k25", "k100"),),
}
"""Functions that give findings, each with what it is asked, by claim; none: nothing tests the claim yet."""
