"""Verdicts on the paper's claims: the rules stand in ``experiments.yaml``, the evidence is the stored runs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from replication.plan import Claim, Encoder, FinetuneRun, ReadoutRun, depends_on_seed
from replication.report.tables import FEWEST_SEEDS, shorter_than_the_paper
from replication.runs import StoredRun
from replication.study import Study, project_root

COMPARISON_NOTE = (
    "Difference of the mean errors in points with a 95% interval and p value: errors are paired image by image on the "
    "same test images, the variances of both seed means are added, degrees of freedom after Satterthwaite. A row with "
    "a single run has no variance over seeds: its interval is too narrow."
)
_HIGH = 5
Stored = list[StoredRun]


class Comparison(NamedTuple):
    """Difference of two mean test errors in points, first minus second."""

    difference: float
    low: float
    high: float
    p: float
    """Two-sided."""


class Finding(NamedTuple):
    """What one part of a rule comes to: +1 as claimed, −1 the opposite, 0 open; None: runs are missing."""

    sign: int | None
    said: str
    runs: Sequence[StoredRun]
    seeds: int = 1
    """Runs of the row that has fewest, rows without chance left out."""


def compare(first: Stored, second: Stored) -> Comparison:
    """Paired comparison of two rows on the same test images, see ``COMPARISON_NOTE``.

    Args:
        first, second: readouts or fine-tuned nets, one a seed.
    """
    images = first[0].metrics["test_images"]
    paired = np.zeros(images)
    variances = []
    for sign, runs in ((1, first), (-1, second)):
        for run in runs:
            paired[run.metrics["test_mistakes"]] += sign * 100 / len(runs)
        if len(runs) > 1:
            spread = float(np.var([run.metrics["test_error"] for run in runs], ddof=1))
            variances.append((spread / len(runs), len(runs) - 1))
    variances.append((float(np.var(paired, ddof=1)) / images, images - 1))
    difference, variance = float(paired.mean()), sum(v for v, _ in variances)
    if variance == 0:
        return Comparison(difference, difference, difference, float(difference == 0))
    deviate = stats.t(variance**2 / sum(v**2 / degrees for v, degrees in variances))
    half = float(deviate.ppf(0.975)) * math.sqrt(variance)
    p = float(2 * deviate.sf(abs(difference) / math.sqrt(variance)))
    return Comparison(difference, difference - half, difference + half, p)


BEST_K = ("k=25", "k=150")
"""Variants of the k-sparse autoencoder that the paper found best on MNIST and on NORB."""


def paired_table(study: Study, table: int) -> pd.DataFrame:
    """The paper's best k of a table against every other row that has runs; a negative difference is in its favour."""
    rows = [(row, stored) for row, stored in study.rows(table) if stored]
    ours = [stored for row, stored in rows if row.variant in BEST_K and "k-sparse" in row.method]
    records = []
    for row, stored in rows:
        if not ours or stored is ours[0]:
            continue
        c = compare(ours[0], stored)
        records.append(
            {
                "dataset": row.runs[0].data.title, "method": row.method, "variant": row.variant,
                "difference": round(c.difference, 3), "ci_low": round(c.low, 3), "ci_high": round(c.high, 3),
                "p": float(f"{c.p:.2g}"),
            }
        )  # fmt: skip
    return pd.DataFrame(records, columns=["dataset", "method", "variant", "difference", "ci_low", "ci_high", "p"])


def claims(study: Study) -> list[dict[str, Any]]:
    """Every claim of the plan with its verdict from the stored runs, as ``claims.json`` holds it."""
    records = []
    stores = {norb: _Evidence(study.on(norb)) for norb in {claim.norb for claim in study.plan.claims}}
    for claim in study.plan.claims:
        store = stores[claim.norb]
        findings = [finding for kind, want in claim.evidence.items() for finding in _KINDS[kind](store, want)]
        runs = {run.run.run_id: run for finding in findings for run in finding.runs}
        records.append(
            {
                "id": claim.id,
                "claim": claim.claim,
                "section": claim.section,
                "rule": claim.rule,
                "verdict": _verdict(claim, findings, runs),
                "confidence": _confidence(findings, _short(runs)),
                "evidence": {"findings": [f.said for f in findings], "run_ids": sorted(runs)},
                "notebook": claim.notebook,
                "deviations": _deviations(claim, runs),
            }
        )
    return records


def claims_text(study: Study) -> str:
    """``claims.json`` of a profile."""
    return json.dumps(claims(study), indent=1, ensure_ascii=False) + "\n"


def _verdict(claim: Claim, findings: Sequence[Finding], runs: dict[str, StoredRun]) -> str:
    signs = [finding.sign for finding in findings]
    whole = all(run.run.data.is_whole or run.run.data.is_stand_in for run in runs.values())
    stands_in = any(run.run.data.is_stand_in for run in runs.values())
    if None in signs or not whole or (stands_in and claim.norb != "toy_norb"):
        return "not tested"
    if all(sign == 1 for sign in signs):
        return "validated"
    if signs.count(-1) > signs.count(1):
        return "contradicted"
    return "partially supported" if 1 in signs else "inconclusive"


def _confidence(findings: Sequence[Finding], short: bool) -> str:
    """High: at least five seeds of every row, at the paper's length; medium: at least three seeds; low: fewer."""
    if any(finding.sign is None for finding in findings):
        return "none"
    seeds = min(finding.seeds for finding in findings)
    if seeds >= _HIGH and not short:
        return "high"
    return "medium" if seeds >= FEWEST_SEEDS else "low"


def _short(runs: dict[str, StoredRun]) -> bool:
    return any(shorter_than_the_paper(run.run) for run in runs.values())


def _deviations(claim: Claim, runs: dict[str, StoredRun]) -> list[str]:
    short = ["trained for fewer epochs than the paper's"] if _short(runs) else []
    return [*short, *claim.deviations]


class _Evidence:
    """What the store of a profile has to show, each table read once."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self._tables: dict[int, dict[str, Stored]] = {}

    def row(self, table: int, name: str) -> Stored:
        """The runs of a table's row, named ``method`` or ``method | variant``; none if the profile has no such row."""
        if table not in self._tables:
            rows = self.study.rows(table)
            self._tables[table] = {" | ".join(filter(None, (r.method, r.variant))): stored for r, stored in rows}
        return self._tables[table].get(name, [])

    def encoders(self, runs: Sequence[Encoder]) -> Stored | None:
        """The stored runs, None if one is missing."""
        store = self.study.store
        return [store.load(run) for run in runs] if all(store.has(run) for run in runs) else None


def _lower(store: _Evidence, want: dict[str, Any]) -> list[Finding]:
    """``{table, row, than: [rows]}``: the row's error is lower than each of the others'."""
    ours = store.row(want["table"], want["row"])
    found = []
    for name in want["than"]:
        other = store.row(want["table"], name)
        if not ours or not other:
            found.append(Finding(None, f"{want['row']} or {name} has no run", []))
            continue
        c = compare(ours, other)
        seeds = min(_seeds(ours), _seeds(other))
        sign = 0 if seeds < FEWEST_SEEDS else 1 if c.high < 0 else -1 if c.low > 0 else 0
        said = f"{want['row']} − {name}: {c.difference:+.2f} points ({c.low:+.2f} to {c.high:+.2f}), {seeds} seeds"
        found.append(Finding(sign, said, [*ours, *other], seeds))
    return found


def _seeds(runs: Stored) -> int:
    run = runs[0].run
    chance = isinstance(run, ReadoutRun | FinetuneRun) and depends_on_seed(run)
    return len(runs) if chance else _HIGH


def _alpha(store: _Evidence, want: dict[str, Any]) -> list[Finding]:
    """``{table, row, best}``: validation error at the named α is lower than at α = 1, and than at every other α.

    Differences are paired over the seeds, with 95% intervals (Student t).
    """
    stored = store.row(want["table"], want["row"])
    seeds = len(stored)
    if seeds < FEWEST_SEEDS:
        return [Finding(None, f"{want['row']} has {seeds} runs, {FEWEST_SEEDS} are needed", stored)]
    by_alpha = pd.DataFrame([run.history.groupby("alpha")["validation_error"].min() for run in stored])
    if want["best"] not in by_alpha:
        return [Finding(None, f"{want['row']} was not tried at α = {want['best']:g}", stored)]
    found = []
    for alpha in by_alpha.columns.drop(want["best"]):
        gain = by_alpha[alpha] - by_alpha[want["best"]]
        half = float(stats.t.ppf(0.975, seeds - 1) * gain.std(ddof=1) / math.sqrt(seeds))
        mean = float(gain.mean())
        sign = 1 if mean - half > 0 else -1 if mean + half < 0 else 0
        said = f"α = {want['best']:g} gains {mean:+.2f} ± {half:.2f} points of validation error over α = {alpha:g}"
        found.append(Finding(sign, said, stored, seeds))
    return found


def _falls(store: _Evidence, want: dict[str, Any]) -> list[Finding]:
    """``{metric, dataset}``: a measure of the filters of Figure 1 or 2 falls from each k to the next larger one."""
    experiments = [e for e in store.study.plan.experiments if e.dataset == want["dataset"]]
    runs = sorted((run for e in experiments for run in e.filters), key=lambda run: run.train.k)
    stored = store.encoders(runs)
    if not stored:
        return [Finding(None, "a run of the figure is missing", [])]
    found = []
    for low, high, run, next_run in zip(stored, stored[1:], runs, runs[1:], strict=False):
        a, b = low.metrics[want["metric"]], high.metrics[want["metric"]]
        said = f"{want['metric']}: {a:.3g} at k = {run.train.k}, {b:.3g} at k = {next_run.train.k}"
        found.append(Finding(1 if b < a else -1, said, [low, high]))
    return found


def _sparser(store: _Evidence, want: dict[str, Any]) -> list[Finding]:
    """``{model, measure}``: of the models of Figure 4, the named one has the largest measure."""
    models = dict(pair for e in store.study.plan.experiments for pair in e.models)
    runs = store.encoders(list(models.values()))
    if runs is None or not all("sparsity" in run.metrics for run in runs):
        return [Finding(None, "a model of Figure 4, or the sparsity of its codes, is missing", [])]
    stored = dict(zip(models, runs, strict=True))
    values = {label: run.metrics["sparsity"][want["measure"]] for label, run in stored.items()}
    ours = values[want["model"]]
    return [
        Finding(
            1 if ours > value else -1,
            f"{want['measure']}: {ours:.3g} for {want['model']}, {value:.3g} for {label}",
            [stored[want["model"]], stored[label]],
        )
        for label, value in values.items()
        if label != want["model"]
    ]


def _gabor(store: _Evidence, want: dict[str, Any]) -> list[Finding]:
    """``{least}``: of the filters of Figure 3 at least that share is localized and oriented, and more than of noise.

    The difference counts if its 95% interval (normal, binomial variances) leaves out 0.
    """
    runs = [run for e in store.study.plan.experiments if e.dataset == "patches" for run in e.filters]
    stored = store.encoders(runs)
    if not stored:
        return [Finding(None, "the run of Figure 3 is missing", [])]
    found = stored[0].metrics["gabor"]
    share, control, n = found["share"], found["control_share"], found["filters"]
    half = 1.96 * math.sqrt((share * (1 - share) + control * (1 - control)) / n)
    more = 1 if share - control > half else -1 if control - share > half else 0
    said = f"{100 * share:.0f}% of {n} filters are localized and oriented, of noise {100 * control:.0f}%"
    wanted = Finding(1 if share >= want["least"] else -1, f"wanted are {100 * want['least']:.0f}%", stored)
    return [Finding(more, said, stored), wanted]


def _encoding(_: _Evidence, want: dict[str, Any]) -> list[Finding]:
    """``{times, than}``: the encoder codes so many times as many images a second as each of these methods.

    Faster by less decides nothing, slower is the opposite. Read from the stored benchmark: speed takes no runs.
    """
    file = project_root() / "benchmarks" / "results" / "encoding.json"
    if not file.exists():
        return [Finding(None, "the benchmark is missing", [])]
    measured = json.loads(file.read_text(encoding="utf-8"))
    ratios = {name: measured["methods"][name]["encoder_over_this"] for name in want["than"]}
    return [
        Finding(
            1 if ratio >= want["times"] else 0 if ratio > 1 else -1,
            f"{ratio:,.0f} times as many images a second as {name}, wanted are {want['times']}",
            [],
        )
        for name, ratio in ratios.items()
    ]


_KINDS: dict[str, Callable[[_Evidence, dict[str, Any]], list[Finding]]] = {
    "lower_error": _lower,
    "also_lower_error": _lower,
    "alpha": _alpha,
    "falls_with_k": _falls,
    "sparser": _sparser,
    "gabor": _gabor,
    "encoding": _encoding,
}
