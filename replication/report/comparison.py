"""A reader's runs beside the committed ones: the same to the digit, within the noise of seeds, or different."""

import json
import math
import re
from collections import defaultdict
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from ksae_lib.io import write_text
from replication.provenance import provenance
from replication.report.tables import markdown
from replication.report.verdicts import FEWEST_SEEDS
from replication.runs import EncoderRun, StoredRun, StoreError, to_json
from replication.study import Study

SAME, NOISE, DIFFERENT = "same to the digit", "within seed noise", "different"
RULE = (
    "Test errors are compared in percent, of encoders the loss after the last epoch. Within seed noise: no further "
    "apart than two standard deviations over the committed seeds; with fewer than three of them, than the 95% "
    "binomial error of the test set, or 1% of the loss. Different: further apart."
)


def comparison(study: Study) -> pd.DataFrame:
    """Every own run beside its committed counterpart; damaged ones are left out: ``report --check`` names them.

    Returns:
        ``run_id``, ``measure`` (``test_error`` in percent or ``loss``), ``committed``, ``own``, ``outcome``, and
        ``same_code``: whether the committed run is of the code that is here.
    """
    evidence: dict[str, StoredRun] = {}
    of_seeds = defaultdict[str, list[StoredRun]](list)
    for name in study.evidence.names() if study.store.names() and not study.updates_evidence else ():
        with suppress(StoreError):
            evidence[name] = study.evidence.read(name)
            of_seeds[_without_seeds(evidence[name])].append(evidence[name])
    records = []
    for name, committed in evidence.items():
        # What cannot be read is carried out again when it is asked for.
        if (own := study.store.find(committed.run)) is None:
            continue
        measure = "loss" if isinstance(own.run, EncoderRun) else "test_error"
        if measure in own.metrics and measure in committed.metrics:
            outcome = _outcome(own, committed, measure, of_seeds[_without_seeds(own)])
            pair = committed.metrics[measure], own.metrics[measure]
            records.append((name, measure, *pair, outcome, committed.is_current))
    return pd.DataFrame(records, columns=["run_id", "measure", "committed", "own", "outcome", "same_code"])


def _outcome(own: StoredRun, committed: StoredRun, measure: str, of_seeds: list[StoredRun]) -> str:
    mine, theirs = own.metrics[measure], committed.metrics[measure]
    if mine == theirs and own.metrics.get("test_mistakes") == committed.metrics.get("test_mistakes"):
        return SAME
    if len(of_seeds) >= FEWEST_SEEDS:
        noise = 2 * float(np.std([run.metrics[measure] for run in of_seeds], ddof=1))
    elif measure == "loss":
        noise = 0.01 * abs(theirs)
    else:
        noise = 1.96 * math.sqrt(theirs * (100 - theirs) / committed.metrics["test_images"])
    return NOISE if abs(mine - theirs) <= noise else DIFFERENT


def _without_seeds(stored: StoredRun) -> str:
    return re.sub(r'"seed": \d+', "", json.dumps(to_json(stored.run), sort_keys=True))


def summary(table: pd.DataFrame) -> str:
    """One paragraph on a comparison, for the terminal."""
    if not len(table):
        return "None of these runs has a committed counterpart that can be read."
    counts = table["outcome"].value_counts()
    said = ", ".join(f"{counts[name]} {name}" for name in (SAME, NOISE, DIFFERENT) if name in counts)
    apart = table.loc[table["outcome"] == DIFFERENT, "run_id"].tolist()
    named = f" Different: {', '.join(apart[:5])}{' …' if len(apart) > 5 else ''}." if apart else ""
    older = int((~table["same_code"]).sum())
    code = f" {older} of the committed runs were made by another version of the code." if older else ""
    return f"Of {len(table)} runs beside the committed ones {said}.{named}{code}"


def write_comparison(study: Study) -> tuple[Path, str]:
    """Write ``comparison.md`` and ``.json`` into the reader's folder, with machine, versions and date.

    Returns:
        The Markdown file, and the summary of what it says.
    """
    table, here, date = comparison(study), provenance(), datetime.now(UTC).date().isoformat()
    said = summary(table)
    record = {"profile": study.profile, "date": date, **here, "rule": RULE, "runs": table.to_dict("records")}
    title = f"# Profile {study.profile}: these runs beside the committed ones"
    machine = f"Date {date}, commit {here['git_commit']}, machine {here['hardware']}, versions {here['versions']}."
    path = study.folder / "comparison.md"
    write_text(path.with_suffix(".json"), json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    write_text(path, "\n\n".join([title, said, RULE, machine, markdown(table)]))
    return path, said
