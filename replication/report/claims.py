"""The paper's claims, the rule of each, and verdicts on them from the committed runs.

A difference of errors counts only if its 95% interval leaves out 0 (errors paired on the same test images, variances
over seeds added) and both rows have three seeds. All parts as claimed: validated; more of them the opposite than as
claimed: contradicted; else any as claimed: partially supported; else inconclusive. Runs missing or on part of the
data: not tested.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from replication.report.paired import compare
from replication.report.tables import FEWEST_SEEDS, net_title, shorter_than_the_paper
from replication.runs import EncoderRun, StoredRun
from replication.study import Shown, Study, project_root

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
        self.rows: dict[tuple[int, str, str], Shown] = {
            (number, shown.row.data.name, shown.row.key): shown
            for number in study.table_numbers
            for shown in study.rows(number)
        }

    def encoders(self, runs: Sequence[EncoderRun]) -> list[StoredRun] | None:
        """The stored runs, None if there are none or one is missing."""
        found = [stored for run in runs if (stored := self.study.evidence.find(run)) is not None]
        return found if found and len(found) == len(runs) else None

    def spread(self, run: Any, metric: str) -> float:
        """Standard deviation of a metric over the seeds that are stored of an encoder, 0 of fewer than two."""
        seeds = self.study.evidence.seeds()
        runs = [replace(run, method=replace(run.method, seed=seed)) for seed in seeds]
        found = [stored.metrics[metric] for one in runs if (stored := self.study.evidence.find(one)) is not None]
        return float(np.std(found, ddof=1)) if len(found) > 1 else 0.0


@dataclass(frozen=True)
class Claim:
    """One claim of the paper and what decides it."""

    id: str
    claim: str
    section: str
    rule: str
    notebook: str
    checks: tuple[tuple[Any, ...], ...] = ()
    """Functions that give findings, each with what it is asked; none: nothing tests the claim yet."""
    deviations: tuple[str, ...] = ()


def claims(study: Study) -> list[dict[str, Any]]:
    """Every claim with its verdict from the committed runs, as ``claims.json`` holds it."""
    evidence = Evidence(study)
    records = []
    for claim in CLAIMS:
        findings = [finding for check, *asked in claim.checks for finding in check(evidence, *asked)]
        findings = findings or [Finding(None, "nothing tests it yet")]
        runs = {run.run.run_id: run for finding in findings for run in finding.runs}
        short = any(shorter_than_the_paper(run.run) for run in runs.values())
        said = ["trained for fewer epochs than the paper's"] if short else []
        records.append(
            {
                "id": claim.id, "claim": claim.claim, "section": claim.section, "rule": claim.rule,
                "verdict": _verdict(findings, runs), "confidence": _confidence(findings, short),
                "evidence": {"findings": [finding.said for finding in findings], "run_ids": sorted(runs)},
                "notebook": claim.notebook, "deviations": [*said, *claim.deviations],
            }
        )  # fmt: skip
    return records


def claims_text(study: Study) -> str:
    """``claims.json`` of a profile."""
    return json.dumps(claims(study), indent=1, ensure_ascii=False) + "\n"


def _verdict(findings: Sequence[Finding], runs: dict[str, StoredRun]) -> str:
    signs = [finding.sign for finding in findings]
    if None in signs or not all(run.run.data.is_whole for run in runs.values()):
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


def _lower(evidence: Evidence, data: str, table: int, key: str, *others: str) -> list[Finding]:
    """The row's error is lower than each of the others'."""
    found = []
    ours = evidence.rows.get((table, data, key))
    for other in others:
        theirs = evidence.rows.get((table, data, other))
        if ours is None or theirs is None or not ours.committed or not theirs.committed:
            found.append(Finding(None, f"{key} or {other} of Table {table} has no run"))
            continue
        c = compare(ours.committed, theirs.committed)
        seeds = min(_seeds(ours.committed), _seeds(theirs.committed))
        sign = 0 if seeds < FEWEST_SEEDS else 1 if c.high < 0 else -1 if c.low > 0 else 0
        points = f"{c.difference:+.2f} points ({c.low:+.2f} to {c.high:+.2f})"
        said = f"{ours.row.label} − {theirs.row.label}: {points}, {seeds} seeds"
        found.append(Finding(sign, said, [*ours.committed, *theirs.committed], seeds))
    return found


def _seeds(runs: list[StoredRun]) -> int:
    return _HIGH if runs[0].run.seed is None else len(runs)


def _best_alpha(evidence: Evidence, table: int, key: str, best: float) -> list[Finding]:
    """Validation error at the named α is lower than at every other α; paired over the seeds, 95% intervals (t)."""
    shown = evidence.rows.get((table, "mnist", key))
    stored = shown.committed if shown else []
    seeds = len(stored)
    if seeds < FEWEST_SEEDS:
        return [Finding(None, f"{key} has {seeds} runs, {FEWEST_SEEDS} are needed", stored)]
    by_alpha = pd.DataFrame([run.history.groupby("alpha")["validation_error"].min() for run in stored])
    if best not in by_alpha:
        return [Finding(None, f"{key} was not tried at α = {best:g}", stored)]
    found = []
    for alpha in by_alpha.columns.drop([best]):
        gain = by_alpha[alpha] - by_alpha[best]
        half = float(stats.t.ppf(0.975, seeds - 1) * gain.std(ddof=1) / math.sqrt(seeds))
        mean = float(gain.mean())
        sign = 1 if mean - half > 0 else -1 if mean + half < 0 else 0
        said = f"α = {best:g} gains {mean:+.2f} ± {half:.2f} points of validation error over α = {alpha:g}"
        found.append(Finding(sign, said, stored, seeds))
    return found


def _area_falls_with_k(evidence: Evidence, experiment: str) -> list[Finding]:
    """The median effective area of the filters falls from each k to the next larger one."""
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
    """Of the models of Figure 4, the named one has the largest measure."""
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
    """Of the filters of Figure 3 at least that share is localized and oriented, and more than of noise.

    The difference counts if its 95% interval (normal, binomial variances) leaves out 0.
    """
    stored = evidence.encoders(evidence.study.experiment("figure3").filters)
    if stored is None:
        return [Finding(None, "the run of Figure 3 is missing")]
    found = stored[0].metrics["gabor"]
    share, control, n = found["share"], found["control_share"], found["filters"]
    half = 1.96 * math.sqrt((share * (1 - share) + control * (1 - control)) / n)
    more = 1 if share - control > half else -1 if control - share > half else 0
    said = f"{100 * share:.0f}% of {n} filters are localized and oriented, of noise {100 * control:.0f}%"
    wanted = Finding(1 if share >= least else -1, f"wanted are {100 * least:.0f}%", stored)
    return [Finding(more, said, stored), wanted]


def _faster(_: Evidence, times: float, *methods: str) -> list[Finding]:
    """The encoder codes so many times as many images a second as each of these methods.

    Faster by less decides nothing, slower is the opposite. Read from the stored benchmark: speed takes no runs.
    """
    file = project_root() / "benchmarks" / "results" / "encoding.json"
    if not file.exists():
        return [Finding(None, "the benchmark is missing")]
    measured = json.loads(file.read_text(encoding="utf-8"))["methods"]
    ratios = {name: measured[name]["encoder_over_this"] for name in methods}
    return [
        Finding(
            1 if ratio >= times else 0 if ratio > 1 else -1,
            f"{ratio:,.0f} times as many images a second as {name}, wanted are {times:g}",
        )
        for name, ratio in ratios.items()
    ]


_FILTERS, _FEATURES = "01_sparsity_sweep_filters", "02_unsupervised_table"
_TUNING, _ACTIVITIES, _PATCHES = "03_mnist_finetuning_table", "04_activity_histograms", "05_natural_patch_filters"
_ONE_SEED, _SAME_SETTINGS = "one seed", "settings chosen on validation at k = 25 serve every k"
_AREAS = (
    "the median effective area of the live filters is smaller at each larger k of Figure {} (numbers of one seed); "
    "areas that are all within 0.03 of 1/3, that of noise, and differences within the spread over seeds decide nothing"
)
_AREAS_LATER = "what decides nothing was added to the rule after a look at filters that had not left their start"

CLAIMS = (
    Claim(
        "C1", "MNIST features: k = 25 beats raw pixels, RBM, dropout, denoising and dropout + denoising autoencoders",
        "4.4", "the test error of k=25 is lower than that of each of the five rows", _FEATURES,
        ((_lower, "mnist", 1, "k25", "pixels", "rbm", "dropout", "denoising", "both"),),
        ("settings of every row chosen on validation", "baselines trained for fewer epochs than k-sparse autoencoders"),
    ),
    Claim(
        "C2", "MNIST error is U-shaped in k: k = 25 is better than k = 40 and than k = 10", "4.4",
        "the test error of k=25 is lower than that of k=40 and of k=10", _FEATURES,
        ((_lower, "mnist", 1, "k25", "k40", "k10"),), (_SAME_SETTINGS,),
    ),
    Claim(
        "C3", "NORB features: k = 150 beats every baseline and k = 200 and k = 75", "4.4",
        "the test error of k=150 is lower than that of every other row of Table 2", _FEATURES,
        ((_lower, "norb", 2, "k150", "pixels", "rbm", "dropout", "denoising", "k200", "k75"),),
    ),
    Claim(
        "C4", "Encoding with αk, α > 1, is better than with α = 1; the best α is 3", "2.2, 4.4",
        "at k=25 the validation error at α = 3 is lower than at α = 1, 2 and 4 (paired over seeds)", _FEATURES,
        ((_best_alpha, 1, "k25", 3),),
    ),
    Claim(
        "C5", "Filters go from local to global as k falls", "4.3", _AREAS.format(1), _FILTERS,
        ((_area_falls_with_k, "figure1"),),
        (_ONE_SEED, "constant k instead of the schedule, rate 0.005, batches of 20, a centered start",
         "the nets were chosen after a look at their errors and live units", _AREAS_LATER),
    ),
    Claim(
        "C5 on NORB", "NORB: filters go from local to global as k falls", "4.3", _AREAS.format(2), _FILTERS,
        ((_area_falls_with_k, "figure2"),), (_ONE_SEED, _AREAS_LATER),
    ),
    Claim(
        "C6", "Without the sparsity schedule low k leaves dead units; with it all filters train", "4.2.1",
        "none written yet", _FILTERS,
    ),
    Claim(
        "C7", "k-sparse pre-training + fine-tuning beats no pre-training, RBM and denoising on MNIST; "
        "shallow dropout stays slightly better", "4.5",
        "the test error of the fine-tuned k-sparse net is lower than that of the three, and that of the dropout net "
        "lower than its own", _TUNING,
        ((_lower, "mnist", 3, "k_sparse", "none", "rbm", "denoising"), (_lower, "mnist", 3, "dropout", "k_sparse")),
    ),
    Claim(
        "C8", "Deep k-sparse improves on shallow k-sparse (MNIST)", "4.6",
        "the test error of the deep k-sparse net is lower than that of the shallow one", _TUNING,
        ((_lower, "mnist", 3, "deep_k_sparse", "k_sparse"),), ("the deep net starts at learning rate 0.3",),
    ),
    Claim(
        "C8 on NORB", "NORB: deep k-sparse improves on shallow k-sparse", "4.6",
        "the test error of the deep k-sparse net is lower than that of the shallow one", _TUNING,
        ((_lower, "norb", 4, "deep_k_sparse", "k_sparse"),),
    ),
    Claim(
        "C9", "Layer-wise fine-tuning is better than fine-tuning all layers at once", "4.6",
        "the test error of the deep k-sparse net fine-tuned in stages is lower than that of the same net fine-tuned "
        "at once", _TUNING, ((_lower, "mnist", 3, "deep_k_sparse", "at_once"),),
        ("the stages share the epochs of the net that is fine-tuned at once",
         "the stages start at learning rate 0.3, the net fine-tuned at once at 1"),
    ),
    Claim(
        "C10", "Natural patches give localized Gabor-like filters", "4.3",
        "at least half of the filters are localized and oriented by their Gabor fits, and more of them than of random "
        "filters (numbers of one seed)", _PATCHES, ((_gabor_like, 0.5),),
        (_ONE_SEED, "patches of other or fewer images, see the run",
         "rule written after a look at the fits of 60 filters"),
    ),
    Claim(
        "C11", "Hidden activities: k-sparse k = 15 is sparser than k = 70, ReLU and dropout autoencoders", "4.3",
        "k = 15 has the largest Hoyer sparsity of the four models of Figure 4 (numbers of one seed)", _ACTIVITIES,
        ((_sparsest, "k-sparse, k = 15", "hoyer"),), (_ONE_SEED,),
    ),
    Claim(
        "C12", "Theorem 3.1 holds; learnt dictionaries become incoherent enough that the first support step of ITI "
        "recovers the support", "3.3", "none written yet", _FILTERS,
    ),
    Claim(
        "C13", "Encoding needs only a matrix product and a selection: it is very fast next to sparse coding",
        "1, 4.2.3, 5",
        "on one core the encoder codes at least fifty times as many images a second as OMP and LARS-lasso at equal "
        "sparsity, and as OMP in a learned dictionary", _FEATURES,
        ((_faster, 50, "OMP", "LARS-lasso", "learned dictionary, OMP"),),
        ("fifty times is our reading of very fast",
         "the encoder was made faster after a first measurement of 35 times OMP",
         "it leaves out the pixels that are zero", "one autoencoder of 40 epochs on one machine",
         "no comparison with K-SVD", "OMP reconstructs better with as many atoms"),
    ),
    Claim(
        "C14", "Features at large k, for example 100, are too local for a linear classifier", "4.3",
        "the test error of k=25 is lower than that of k=100", _FEATURES,
        ((_lower, "mnist", 1, "k25", "k100"),), (_SAME_SETTINGS,),
    ),
)  # fmt: skip
