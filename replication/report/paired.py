"""Rows compared on the same test images and over their seeds, by rules that were fixed before the runs."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from replication.report.tables import shown_rows
from replication.report.verdicts import FEWEST_SEEDS
from replication.runs import StoredRun
from replication.study import Study

EQUAL = 0.2
"""Points of error within which two rows are equal."""
COMPARISON_NOTE = (
    "The difference is that of the mean errors, in points. Its 95% interval and p value come from a two-way bootstrap. "
    "Test images get new Poisson weights, the same for both rows. Seeds are drawn again for each row alone, and their "
    "deviations are multiplied by √(n/(n − 1)). The bootstrap counts the noise of images within a seed more than once. "
    "It therefore says *open* too often; with three seeds that differ much, too rarely. p values are corrected by "
    f"Holm's method. *Lower*, *higher*: p < 0.05. *Equal*: the 90% interval lies within ± {EQUAL} points. *Open*: all "
    f"else, and every row with fewer than {FEWEST_SEEDS} seeds. A row that does not depend on a seed needs one run."
)
BEST_K = {1: "k25", 2: "k150", 3: "k_sparse", 4: "k_sparse"}
"""By table, the row of the k-sparse autoencoder that the paper found best."""
_RESAMPLES = 2000


class Comparison(NamedTuple):
    """Difference of two mean test errors in points, first minus second."""

    difference: float
    low: float
    high: float
    p: float
    """Two-sided."""
    equal: bool
    """Whether both one-sided tests against ± ``EQUAL`` hold at 5%."""
    seeds: int
    """Of the row that has fewer, rows without chance left out."""

    def outcome(self, p: float) -> str:
        """``lower``, ``higher``, ``equal`` or ``open``, with a ``p`` that was adjusted for other comparisons."""
        if self.seeds < FEWEST_SEEDS:
            return "open"
        if p < 0.05:
            return "lower" if self.difference < 0 else "higher"
        return "equal" if self.equal else "open"


def compare(first: Sequence[StoredRun], second: Sequence[StoredRun]) -> Comparison:
    """Two rows on the same test images, see ``COMPARISON_NOTE``.

    Args:
        first, second: readouts or fine-tuned nets, one a seed.
    """
    images, rng = first[0].metrics["test_images"], np.random.default_rng(0)
    # What nobody misclassifies counts in no error.
    missed = sorted({image for run in (*first, *second) for image in run.metrics["test_mistakes"]})
    drawn = rng.poisson(1.0, (_RESAMPLES, len(missed))).astype(np.float32)
    of_rows, exact = [], []
    for runs in (first, second):
        wrong = np.array([np.isin(missed, run.metrics["test_mistakes"]) for run in runs], np.float32)
        errors = 100 / images * (drawn @ wrong.T).astype(np.float64)
        means, n = errors.mean(axis=1), len(runs)
        again = np.take_along_axis(errors, rng.integers(n, size=errors.shape), axis=1).mean(axis=1)
        of_rows.append(means + math.sqrt(n / max(n - 1, 1)) * (again - means))
        exact.append(100 / images * float(wrong.sum(axis=1).mean()))
    differences = of_rows[0] - of_rows[1]
    low, low90, high90, high = (float(q) for q in np.quantile(differences, (0.025, 0.05, 0.95, 0.975)))
    tail = min(float((differences <= 0).mean()), float((differences >= 0).mean()))
    p = min(1.0, 2 * max(tail, 1 / _RESAMPLES))
    seeds = min((len(runs) for runs in (first, second) if runs[0].run.seed is not None), default=FEWEST_SEEDS)
    return Comparison(exact[0] - exact[1], low, high, p, low90 > -EQUAL and high90 < EQUAL, seeds)


def holm(ps: Sequence[float]) -> list[float]:
    """The p values of one family after Holm (1979), in their order: significant at 5% together if below 0.05."""
    order = np.argsort(ps)
    adjusted = np.maximum.accumulate(np.arange(len(ps), 0, -1) * np.array(ps)[order]).clip(max=1.0)
    return [float(p) for p in adjusted[np.argsort(order)]]


def paired_table(study: Study, table: int) -> pd.DataFrame:
    """The paper's best k of a table against every other row that has runs; a negative difference is in its favour."""
    columns = ["dataset", "method", "variant", "difference", "ci_low", "ci_high", "p", "outcome", "key"]
    rows = {row.key: (row, committed) for row, committed, _ in shown_rows(study, table) if committed}
    if BEST_K[table] not in rows:
        return pd.DataFrame(columns=columns)
    _, best = rows.pop(BEST_K[table])
    compared = [compare(best, committed) for _, committed in rows.values()]
    records = []
    for (row, _), c, p in zip(rows.values(), compared, holm([c.p for c in compared]), strict=True):
        numbers = round(c.difference, 3), round(c.low, 3), round(c.high, 3), float(f"{p:.2g}")
        records.append((row.data.title, row.method, row.variant, *numbers, c.outcome(p), row.key))
    return pd.DataFrame(records, columns=columns)
