"""Every text the report writes for a profile: tables, paired comparisons, claims; and the figures beside them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ksae_lib.io import write_text
from replication.report.blocks import update_blocks
from replication.report.claims import claims_text
from replication.report.figures import write_figures
from replication.report.paired import BEST_K, COMPARISON_NOTE, paired_table
from replication.report.tables import (
    INTERVAL_NOTE,
    epoch_table,
    error_table,
    latex,
    markdown,
    readable,
    search_table,
    shown_rows,
    sweep_table,
    table_title,
)
from replication.study import Study


def report_texts(study: Study) -> dict[Path, str]:
    """Every file of text of the profile and its content, from the stored runs."""
    texts: dict[Path, str] = {}

    def add(name: str, table: pd.DataFrame, *hidden: str, title: str = "") -> None:
        if len(table):
            base = study.tables / name
            texts[base.with_suffix(".csv")] = table.to_csv(index=False, lineterminator="\n")
            texts[base.with_suffix(".md")] = title + markdown(table.drop(columns=list(hidden)))

    for number in study.table_numbers:
        table, base = error_table(study, number), study.tables / f"table{number}"
        title = f"{table_title(study, number)}, profile {study.profile}"
        texts[base.with_suffix(".csv")] = table.to_csv(index=False, lineterminator="\n")
        texts[base.with_suffix(".md")] = f"{title}. {INTERVAL_NOTE}\n\n{markdown(readable(table))}"
        texts[base.with_suffix(".tex")] = f"% {title}. {INTERVAL_NOTE}\n{latex(readable(table))}"
        best = next(one.row.variant for one in shown_rows(study, number) if one.row.key == BEST_K[number])
        against = f"{title}: {best} against every other row. {COMPARISON_NOTE}\n\n"
        add(f"{base.name}_paired", paired_table(study, number), "key", title=against)
    add("error_against_epochs", epoch_table(study), "run_id")
    add("error_against_settings", sweep_table(study), "run_ids")
    add("search", search_table(study), "run_id")
    if study.table_numbers:
        texts[study.folder / "claims.json"] = claims_text(study)
    return texts


def write_report(study: Study) -> list[Path]:
    """Write every text of the profile and the figures that need no weights; of evidence also the documents' blocks.

    Returns:
        The files written.
    """
    texts = report_texts(study)
    for path, text in texts.items():
        write_text(path, text)
    documents = update_blocks(study.evidence_root.parent) if study.updates_evidence else []
    return [*texts, *write_figures(study), *documents]
