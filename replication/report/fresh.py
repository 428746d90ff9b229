"""Whether what is committed is what the stored runs and the sources give."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from replication.notebook import SENTINEL
from replication.plan import shown
from replication.report.readme import readme_text
from replication.report.texts import report_texts
from replication.study import Study, project_root


def stale(study: Study) -> list[str]:
    """One sentence for each table, README part or executed notebook that is missing or out of date.

    An executed notebook is due once every run it reads is stored.
    """
    found = [
        f"{_name(path)} is missing or out of date: run 'ksae report --profile {study.plan.profile}'."
        for path, text in report_texts(study).items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    readme, text = readme_text(study.folder.parent)
    if readme.read_text(encoding="utf-8") != text:
        found.append("README.md shows other numbers than the stored runs: run 'ksae report'.")
    for experiment in study.plan.experiments:
        executed = study.notebooks / f"{experiment.executed}.ipynb"
        due = experiment.notebook and all(study.store.has(run) for run in shown(experiment, study.plan.experiments))
        source = project_root() / "notebooks" / f"{experiment.notebook}.ipynb"
        if (due or executed.exists()) and (reason := _notebook_fault(source, executed, study.data_name(experiment))):
            found.append(f"{_name(executed)} {reason}: run 'ksae reproduce --profile {study.plan.profile}'.")
    return found


def _notebook_fault(source: Path, executed: Path, dataset: str) -> str | None:
    if not executed.exists():
        return "is missing"
    done = json.loads(executed.read_text(encoding="utf-8"))
    if _sources(json.loads(source.read_text(encoding="utf-8"))) != _sources(done):
        return "was executed from another version of the notebook"
    # The injected parameters come after those of the source.
    named = re.findall(
        r'^dataset = "(\w+)"', "\n".join("".join(cell["source"]) for cell in done["cells"]), re.MULTILINE
    )
    if named and named[-1] != dataset:
        return f"was executed on {named[-1]}, not on {dataset}"
    outputs = [output for cell in done["cells"] for output in cell.get("outputs", [])]
    if any(output["output_type"] == "error" for output in outputs):
        return "holds an error"
    if SENTINEL not in "".join("".join(output.get("text", "")) for output in outputs):
        return "did not run to its end"
    return None


def _sources(notebook: dict[str, Any]) -> list[str]:
    def text(cells: list[dict[str, Any]]) -> Iterator[str]:
        for cell in cells:
            if "injected-parameters" not in cell["metadata"].get("tags", []):
                yield "".join(cell["source"])

    return list(text(notebook["cells"]))


def _name(path: Path) -> str:
    return str(path.relative_to(path.parents[3]))
