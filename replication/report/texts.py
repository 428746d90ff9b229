"""Every text the report writes for a profile: tables, paired comparisons, claims."""

from __future__ import annotations

from pathlib import Path

from ksae_lib.io import write_text
from replication.report.claims import BEST_K, COMPARISON_NOTE, claims_text, paired_table
from replication.report.tables import markdown, table_texts
from replication.study import Study


def report_texts(study: Study) -> dict[Path, str]:
    """Every file of text of the profile and its content, from the runs in the store."""
    texts = table_texts(study)
    numbers = sorted({row.table for e in study.plan.experiments for row in e.rows})
    for number in numbers:
        table = paired_table(study, number)
        if len(table):
            base = study.tables / f"table{number}_paired"
            best = next(row for row, stored in study.rows(number) if stored and row.variant in BEST_K)
            data = best.runs[0].data.title
            title = f"Table {number}, {data}, profile {study.plan.profile}: {best.variant} against every other row."
            texts[base.with_suffix(".csv")] = table.to_csv(index=False, lineterminator="\n")
            texts[base.with_suffix(".md")] = f"{title} {COMPARISON_NOTE}\n\n{markdown(table)}"
    if numbers:
        texts[study.folder / "claims.json"] = claims_text(study)
    return texts


def write_texts(study: Study) -> list[Path]:
    """Write every text of the profile and return the files."""
    texts = report_texts(study)
    for path, text in texts.items():
        write_text(path, text)
    return list(texts)
