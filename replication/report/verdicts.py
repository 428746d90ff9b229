"""Verdicts on the paper's figures: intervals, the spread over seeds, and whether a row was trained for long enough."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from replication.runs import RunStore, StoredRun, twice

FEWEST_SEEDS = 3
MARGINS = {1: 0.25, 2: 0.5, 3: 0.15, 4: 0.5}
"""By table, points from the mean that the prediction interval of a row that is judged may reach."""
_GAIN = 0.1
INTERVAL_NOTE = (
    "Errors are in percent on the test set. The 95% interval adds in quadrature the spread over seeds (Student t) and "
    "the binomial sampling error of the test set. The paper's error is from one run. *Unresolved: seeds*: fewer than "
    f"{FEWEST_SEEDS} seeds. *Unresolved: length*: twice the epochs, with the same seeds, may lower the mean of "
    f"validation and test error by {_GAIN} points or more (90% interval), or fewer than {FEWEST_SEEDS} seeds have such "
    "runs. *Not reproduced*: the paper's error lies outside the 95% prediction interval for one further run, mean ± t "
    "s √(1 + 1/n). *Reproduced*: it lies inside, and the interval reaches no further from the mean than the margin: "
    f"{MARGINS[1]} points in Table 1, {MARGINS[3]} in Table 3, {MARGINS[2]} on NORB. *Unresolved: spread*: it lies "
    "inside, but the interval reaches further. s is the standard deviation over seeds. It is pooled over the rows that "
    "have an error in the paper and whose own s is within the margin; any other row uses its own. A row that does not "
    "depend on a seed, such as raw pixels, is judged by the margin alone. *Not tested*: no runs, no error in the "
    "paper, or only a part of the data."
)


def half_width(values: Sequence[float] | np.ndarray, level: float = 0.95) -> float:
    """Half of Student's interval of a mean; NaN of fewer than two values."""
    n = len(values)
    return float(stats.t.ppf((1 + level) / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n)) if n > 1 else math.nan


def t_test(values: Sequence[float]) -> float:
    """Two-sided p value of a mean of 0 (Student t); NaN of fewer than two values."""
    return float(stats.ttest_1samp(values, 0).pvalue) if len(values) > 1 else math.nan


def interval(errors: Sequence[float], test_images: int) -> tuple[float, float]:
    """95% interval of the mean test error in percent, see ``INTERVAL_NOTE``.

    Args:
        errors: test errors in percent, one a seed.
        test_images: size of the test set.
    """
    mean, n = float(np.mean(errors)), len(errors)
    seeds = half_width(errors) if n > 1 else 0.0
    sampling = float(stats.norm.ppf(0.975)) * math.sqrt(mean * (100 - mean) / test_images)
    half = math.hypot(seeds, sampling)
    return max(0.0, mean - half), min(100.0, mean + half)


class Spread(NamedTuple):
    """Standard deviation over seeds, pooled over well-behaved rows."""

    s: float
    degrees: int
    margin: float
    """Of a row that behaves well the own s is not above it."""

    @classmethod
    def pooled(cls, rows: Sequence[Sequence[float]], margin: float) -> "Spread":
        """Of the test errors of rows, one a seed."""
        variances = [(float(np.var(errors, ddof=1)), len(errors) - 1) for errors in rows if len(errors) > 1]
        kept = [(variance, degrees) for variance, degrees in variances if variance <= margin**2]
        degrees = sum(n for _, n in kept)
        return cls(math.sqrt(sum(v * n for v, n in kept) / max(degrees, 1)), degrees, margin)

    def prediction(self, errors: Sequence[float]) -> float:
        """How far from the mean of a row the error of one further run may lie (95%)."""
        own, n = float(np.std(errors, ddof=1)), len(errors)
        s, degrees = (self.s, self.degrees) if own <= self.margin else (own, n - 1)
        return float(stats.t.ppf(0.975, degrees)) * s * math.sqrt(1 + 1 / n)


class Length(NamedTuple):
    """What twice the epochs change, in points, with half of the 90% interval over the seeds; NaN: not known."""

    effect: float
    half: float
    matters: bool = True
    """False where there are no epochs."""

    @property
    def is_enough(self) -> bool:
        """Whether the row was trained for long enough: twice the epochs would not bring it lower by much."""
        return not self.matters or self.effect - self.half > -_GAIN


def length_of(store: RunStore, stored: Sequence[StoredRun]) -> Length:
    """What twice the epochs change for a row, over the seeds whose longer run is in the store."""
    longer = [twice(run.run) for run in stored]  # type: ignore[arg-type]
    pairs = [
        (run, found) for run, wanted in zip(stored, longer, strict=True) if wanted and (found := store.find(wanted))
    ]
    names = ("validation_error", "test_error")
    changes = [np.mean([b.metrics[name] - a.metrics[name] for name in names]) for a, b in pairs]
    if len(changes) < FEWEST_SEEDS:
        return Length(math.nan, math.nan, None not in longer)
    return Length(float(np.mean(changes)), half_width(changes, 0.9))


def place(paper: float | None, errors: Sequence[float], spread: Spread, has_chance: bool = True) -> str:
    """Where the paper's figure lies: ``inside`` the prediction interval of a row's errors, ``outside``, or ``open``.

    A row without chance is what it is: the margin stands for what the paper does not state.
    """
    if paper is None or (has_chance and len(errors) < FEWEST_SEEDS):
        return "open"
    half = spread.prediction(errors) if has_chance else spread.margin
    if abs(paper - float(np.mean(errors))) > half:
        return "outside"
    return "inside" if half <= spread.margin else "open"


def verdict(paper: float | None, stored: Sequence[StoredRun], spread: Spread, length: Length) -> str:
    """Verdict on the paper's figure, by the rule in ``INTERVAL_NOTE``.

    Args:
        paper: its figure, or None.
        stored: the runs of the row, one a seed.
        spread: of the rows of its table.
        length: what twice the epochs change.
    """
    if paper is None or not stored or not stored[0].run.data.is_whole or stored[0].run.data.is_stand_in:
        return "not tested"
    errors, has_chance = [run.metrics["test_error"] for run in stored], stored[0].run.seed is not None
    if has_chance and len(errors) < FEWEST_SEEDS:
        return "unresolved: seeds"
    if not length.is_enough:
        return "unresolved: length"
    if (found := place(paper, errors, spread, has_chance)) == "outside":
        return "not reproduced: ours is " + ("lower" if np.mean(errors) < paper else "higher")
    return "reproduced" if found == "inside" else "unresolved: spread"
