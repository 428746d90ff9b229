"""Every text the report writes for a profile: tables, paired comparisons and claims."""

import json
from pathlib import Path

from ksae_lib.io import write_text
from replication.report import tables
from replication.report.blocks import outdated
from replication.report.claims import claims
from replication.report.paired import BEST_K, COMPARISON_NOTE, paired_table
from replication.runs import MANIFEST
from replication.study import Study

_LATEX = str.maketrans({"α": r"$\alpha$", "ρ": r"$\rho$", "–": "--"})


def report_texts(study: Study) -> dict[Path, str]:
    """Every file of text of the profile and its content, from the stored runs."""
    sweeps, searches = tables.sweep_table(study), tables.search_table(study)
    written = [("what_it_takes", sweeps, "run_ids", ""), ("search", searches, "run_id", "")]
    texts: dict[Path, str] = {}
    for number in study.table_numbers:
        table, base = tables.error_table(study, number), study.tables / f"table{number}"
        title = f"{tables.table_title(study, number)}, profile {study.profile}"
        note, shown = f"{title}. {tables.INTERVAL_NOTE}\n", tables.readable(table)
        texts[base.with_suffix(".csv")] = table.to_csv(index=False, lineterminator="\n")
        texts[base.with_suffix(".md")] = f"{note}\n{tables.markdown(shown)}"
        latex = shown.to_latex(index=False, escape=True).translate(_LATEX)
        texts[base.with_suffix(".tex")] = f"% {note}{latex}"
        best = table.set_index("key")["variant"].get(BEST_K[number], "")
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
    """Write every text of the profile; of evidence also the manifest of its runs and the documents' blocks.

    Returns:
        The files written.

    Raises:
        KsaeError: a document has an unknown or lost marker; of evidence, a run that cannot be read.
    """
    for name in study.evidence.names() if study.updates_evidence else ():
        study.evidence.read(name)
    texts = report_texts(study)
    if study.updates_evidence:
        texts |= {study.folder / MANIFEST: study.evidence.manifest()} | outdated(study.evidence_root.parent)
    for path, text in texts.items():
        write_text(path, text)
    return list(texts)
