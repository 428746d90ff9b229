"""Two rows of a table compared image by image on the same test images."""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from replication.report.tables import shown_rows
from replication.runs import StoredRun
from replication.study import Study

COMPARISON_NOTE = (
    "Difference of the mean errors in points with a 95% interval and p value: errors are paired image by image on the "
    "same test images, the variances of both seed means are added, degrees of freedom after Satterthwaite. A row with "
    "a single run has no variance over seeds: its interval is too narrow."
)
BEST_K = {1: "k25", 2: "k150", 3: "k_sparse", 4: "k_sparse"}
"""By table, the row of the k-sparse autoencoder that the paper found best."""


class Comparison(NamedTuple):
    """Difference of two mean test errors in points, first minus second."""

    difference: float
    low: float
    high: float
    p: float
    """Two-sided."""


def compare(first: list[StoredRun], second: list[StoredRun]) -> Comparison:
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


def paired_table(study: Study, table: int) -> pd.DataFrame:
    """The paper's best k of a table against every other row that has runs; a negative difference is in its favour."""
    columns = ["dataset", "method", "variant", "difference", "ci_low", "ci_high", "p", "key"]
    rows = {row.key: (row, committed) for row, committed, _ in shown_rows(study, table) if committed}
    if BEST_K[table] not in rows:
        return pd.DataFrame(columns=columns)
    _, best = rows.pop(BEST_K[table])
    records = []
    for row, committed in rows.values():
        c = compare(best, committed)
        numbers = round(c.difference, 3), round(c.low, 3), round(c.high, 3), float(f"{c.p:.2g}")
        records.append((row.data.title, row.method, row.variant, *numbers, row.key))
    return pd.DataFrame(records, columns=columns)
