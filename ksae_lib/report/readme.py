"""Numbers in the README: generated from stored runs between markers."""

from __future__ import annotations

import re
from pathlib import Path

from ksae_lib.files import write_text
from ksae_lib.report.tables import INTERVAL_NOTE, epoch_table, error_table, markdown, readable
from ksae_lib.study import Study, project_root


def blocks(results: Path) -> dict[str, str]:
    """The generated parts of the README by name, from the runs under ``results``."""
    quick, paper = Study("quick", results), Study("paper", results)
    curve = epoch_table(paper).drop(columns=["val_error", "run_id"], errors="ignore")
    return {
        "table1": markdown(readable(error_table(quick, 1))) + "\n" + INTERVAL_NOTE + "\n",
        "epochs": markdown(curve),
    }


def filled(text: str, generated: dict[str, str]) -> str:
    """``text`` with each part between ``<!-- name:begin -->`` and ``<!-- name:end -->`` replaced.

    Raises:
        ValueError: a marker is missing.
    """
    for name, block in generated.items():
        pattern = re.compile(rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", re.DOTALL)
        match = pattern.search(text)
        if match is None:
            raise ValueError(
                f"README.md has no markers '<!-- {name}:begin -->' and '<!-- {name}:end -->': restore them."
            )
        begin, end = match.span()
        text = text[:begin] + match.group(1) + block + match.group(2) + text[end:]
    return text


def update_readme(results: Path) -> Path:
    """Rewrite the generated parts of the checkout's README."""
    path = project_root() / "README.md"
    write_text(path, filled(path.read_text(encoding="utf-8"), blocks(results)))
    return path
