"""Every text the report writes for a profile: tables, paired comparisons, claims; and the figures beside them."""

import json
from pathlib import Path

from matplotlib import pyplot as plt

from ksae_lib.io import write_text
from replication.report import tables
from replication.report.blocks import update_blocks
from replication.report.claims import claims
from replication.report.figures import drawn, save_figure
from replication.report.paired import BEST_K, COMPARISON_NOTE, paired_table
from replication.runs import MANIFEST
from replication.study import Study


def report_texts(study: Study) -> dict[Path, str]:
    """Every file of text of the profile and its content, from the stored runs."""
    written = [
        ("what_it_takes", tables.sweep_table(study), "run_ids", ""),
        ("search", tables.search_table(study), "run_id", ""),
    ]
    texts: dict[Path, str] = {}
    for number in study.table_numbers:
        table, base = tables.error_table(study, number), study.tables / f"table{number}"
        title = f"{tables.table_title(study, number)}, profile {study.profile}"
        note, shown = f"{title}. {tables.INTERVAL_NOTE}\n", tables.readable(table)
        texts[base.with_suffix(".csv")] = table.to_csv(index=False, lineterminator="\n")
        texts[base.with_suffix(".md")] = f"{note}\n{tables.markdown(shown)}"
        latex = shown.to_latex(index=False, escape=True).replace("α", r"$\alpha$").replace("–", "--")
        texts[base.with_suffix(".tex")] = f"% {note}{latex}"
        best = table.set_index("key")["variant"].to_dict()[BEST_K[number]]
        against = f"{title}: {best} against every other row. {COMPARISON_NOTE}\n\n"
        written.append((f"{base.name}_paired", paired_table(study, number), "key", against))
    for name, table, hidden, above in written:
        if len(table):
            base = study.tables / name
            texts[base.with_suffix(".csv")] = table.to_csv(index=False, lineterminator="\n")
            texts[base.with_suffix(".md")] = above + tables.markdown(table.drop(columns=hidden))
    if study.table_numbers:
        texts[study.folder / "claims.json"] = json.dumps(claims(study), indent=1, ensure_ascii=False) + "\n"
    return texts


def write_report(study: Study) -> list[Path]:
    """Write every text of the profile and the figures that need no weights; of evidence also the documents' blocks.

    Returns:
        The files written.
    """
    texts = report_texts(study)
    texts |= {study.folder / MANIFEST: study.evidence.manifest()} if study.updates_evidence else {}
    for path, text in texts.items():
        write_text(path, text)
    files = [*texts, *(update_blocks(study.evidence_root.parent) if study.updates_evidence else [])]
    for name, draw in drawn(study).items():
        figure = draw()
        files += save_figure(figure, study.figures, name)
        plt.close(figure)
    return files
