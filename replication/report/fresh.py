"""Whether what is committed is what the committed runs and the sources give, and all of it."""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from replication.experiments.base import Experiment
from replication.report.blocks import outdated
from replication.report.write import report_texts
from replication.runs import FILES, MANIFEST, WEIGHTS, RunStore, StoreError
from replication.study import Study, project_root


def stale(study: Study) -> list[str]:
    """One sentence for each committed table or executed notebook that is out of date, or that nothing writes.

    An executed notebook is due once every run it shows is committed. What the reader's own runs wrote is not looked at.
    """
    study = Study(study.profile, study.seeds, results=study.evidence_root, evidence=study.evidence_root)
    root = study.evidence_root.parent
    texts = report_texts(study)
    rewrite = f"ksae report --profile {study.profile} --update-evidence"
    found = [
        f"{path.relative_to(root)} is missing or out of date: run '{rewrite}'."
        for path, text in texts.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    manifest = study.folder / MANIFEST
    listed = manifest.read_text(encoding="utf-8").splitlines() if manifest.exists() else []
    altered = {line.split("  ")[-1] for line in {*listed} ^ {*study.evidence.manifest().splitlines()}}
    remedy = f"restore it, or, if it is meant, run '{rewrite}'"
    found += [
        f"{study.folder.relative_to(root) / name} is not what {MANIFEST} says: {remedy}." for name in sorted(altered)
    ]
    stored = set(study.evidence.names())
    for one in study.experiments:
        executed = study.notebooks / f"{one.executed}.ipynb"
        due = one.notebook and all(run.run_id in stored for run in study.shown(one))
        if (due or executed.exists()) and (reason := _notebook_fault(one, study.profile, executed)):
            command = f"ksae notebook {one.name} --profile {study.profile} --update-evidence"
            found.append(f"{executed.relative_to(root)} {reason}: run '{command}'.")
    found += [
        f"{path.relative_to(root)} is written by nothing: delete it." for path in _orphans(study, {*texts, manifest})
    ]
    return found


def stale_documents(root: Path) -> list[str]:
    """One sentence for each document whose generated parts are not what the committed runs give."""
    said = "shows other numbers than the committed runs: run 'ksae report --update-evidence'."
    return [f"{path.relative_to(root)} {said}" for path in outdated(root)]


def code_state(store: RunStore) -> tuple[int, list[str]]:
    """How many runs a store has, and the ids of those that are of other code than what is here."""
    names = store.names()
    return len(names), [name for name in names if not store.read(name).is_current]


def _notebook_fault(experiment: Experiment, profile: str, executed: Path) -> str | None:
    if not executed.exists():
        return "is missing"
    done = json.loads(executed.read_text(encoding="utf-8"))
    source = json.loads((project_root() / "notebooks" / f"{experiment.notebook}.ipynb").read_text(encoding="utf-8"))
    injected = [cell for cell in done["cells"] if "injected-parameters" in cell["metadata"].get("tags", [])]
    own = [cell for cell in done["cells"] if cell not in injected]
    if ["".join(cell["source"]) for cell in source["cells"]] != ["".join(cell["source"]) for cell in own]:
        return "was executed from another version of the notebook"
    text = "\n".join("".join(cell["source"]) for cell in done["cells"])
    for name, wanted in (("profile", profile), ("dataset", experiment.data)):
        # The injected parameters come after those of the source.
        named = re.findall(rf'^{name}(?:: *\w+)? = "(\w+)"', text, re.MULTILINE)
        if named and named[-1] != wanted:
            return f"was executed on {named[-1]}, not on {wanted}"
    code = [cell for cell in done["cells"] if cell["cell_type"] == "code" and "".join(cell["source"]).strip()]
    if any(output["output_type"] == "error" for cell in code for output in cell["outputs"]):
        return "holds an error"
    if any(cell["execution_count"] is None for cell in code):
        return "did not run to its end"
    return None


def _orphans(study: Study, texts: set[Path]) -> Iterator[Path]:
    """Files of the profile that no run, table, figure or notebook accounts for; work in progress is left out."""
    names = {name for one in study.experiments for name in one.figures}
    known = texts | {study.figures / f"{name}{suffix}" for name in names for suffix in (".png", ".svg")}
    known |= {study.notebooks / f"{one.executed}.ipynb" for one in study.experiments}
    for path in sorted(study.folder.rglob("*")):
        first, *rest = path.relative_to(study.folder).parts
        if not path.is_file() or path in known or first.startswith(".") or (first == "runs" and rest[0][0] == "."):
            continue
        with suppress(StoreError):
            if first == "runs" and len(rest) == 2 and rest[1] in (*FILES, WEIGHTS) and study.evidence.read(rest[0]):
                continue
        yield path
