"""What Snakemake is told: batches of alike runs that are to be carried out, and the notebooks that show them."""

import json
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Self

import torch

from ksae_lib.io import KsaeError
from replication.execute import alike
from replication.experiments.base import Experiment
from replication.lock import owner
from replication.runs import Run, requires
from replication.study import Study, project_root

_REQUEST = "KSAE_WORKFLOW"
_SNAKEMAKE = (
    "--resources gpu=1 --rerun-incomplete --keep-incomplete --nolock --keep-going --scheduler greedy "
    "--quiet rules host --rerun-triggers mtime"
)


class WorkflowError(KsaeError):
    """A step of the workflow failed."""


class Batch(NamedTuple):
    """A step: alike runs in one process; files are relative to the profile's folder."""

    name: str
    runs: list[str]
    files: list[str]
    needs: list[str]
    """Files of other runs."""


class Workflow:
    """The steps that bring a study's store up to date; arguments as of ``run_workflow``."""

    def __init__(
        self, study: Study, only: str = "", force: bool = False, stale: bool = True, resume: bool = True
    ) -> None:
        self.experiments = selected(study, only)
        self.options = ["--profile", study.profile, *(["--seeds", str(study.seeds)] if study.seeds else [])]
        self.how = [*(["--force"] if force else []), *([] if resume else ["--no-resume"])]
        runs = {run.run_id: run for one in self.experiments for run in one.runs()}
        self.runs = [_file(run_id) for run_id in runs]
        due = {run_id for run_id, run in runs.items() if force or study.is_due(run, stale)}
        needed = {one.run_id for run_id in due for one in requires(runs[run_id])}
        due |= {run_id for run_id in needed & runs.keys() if not study.store.has(runs[run_id], weights=True)}
        self.batches = list(_batches(study, [run for run_id, run in runs.items() if run_id in due]))
        self.notebooks = {one.executed: one for one in self.experiments if one.executed}

    @classmethod
    def from_environment(cls) -> Self:
        """The workflow that ``run_workflow`` asked for; by default profile ``quick``."""
        request: dict[str, Any] = {"profile": "quick", "seeds": None} | json.loads(os.environ.get(_REQUEST, "{}"))
        return cls(Study(request.pop("profile"), request.pop("seeds")), **request)

    def shown(self, one: Experiment) -> list[str]:
        """Files of the runs that an experiment's notebook shows: its own, and those of others here that it shows."""
        others = [other for other in self.experiments if one.name in other.shown_in]
        return list(dict.fromkeys(_file(run.run_id) for shown in (one, *others) for run in shown.runs()))


def selected(study: Study, only: str) -> tuple[Experiment, ...]:
    """The experiments named, or all but those on NORB's files and on its stand-in; a ``PlanError`` of unknown names."""
    if not only:
        return tuple(one for one in study.experiments if "norb" not in one.data)
    return tuple(study.experiment(name.strip()) for name in only.split(","))


def _file(run_id: str) -> str:
    return f"runs/{run_id}/metrics.json"


def _batches(study: Study, runs: Sequence[Run]) -> Iterable[Batch]:
    # A GPU trains the runs of a batch together; a processor one after the other, so that few leave no core idle.
    most = 64 if torch.cuda.is_available() else 16 if study.profile == "smoke" else 2
    for number, group in enumerate(alike(runs)):
        for start in range(0, len(group), most):
            batch = group[start : start + most]
            names = [run.run_id for run in batch]
            needs = dict.fromkeys(_file(one.run_id) for run in batch for one in requires(run))
            title = f"{batch[0].step}_{number}_{start // most}"
            yield Batch(title, names, [_file(name) for name in names], list(needs))


def run_workflow(
    study: Study, *, only: str, jobs: int, force: bool, stale: bool, resume: bool, extra: Sequence[str] = ()
) -> None:
    """Bring a study's store and notebooks up to date with Snakemake, in this process.

    Args:
        study, only: the profile; experiments or notebooks, separated by commas, empty for all but NORB's.
        jobs: steps at a time.
        force, stale: carry out every run again, or stored runs of other code.
        resume: go on from checkpoints.
        extra: further options of Snakemake, for example of an executor for a cluster.

    Raises:
        PlanError, BusyError, WorkflowError: an unknown name, another workflow on the folder, a failed step.
    """
    from snakemake.cli import main

    first = [f"notebooks/{one.executed}.ipynb" for one in selected(study, only) if one.executed][:1]
    request = {"profile": study.profile, "seeds": study.seeds, "only": only, "force": force, "stale": stale}
    os.environ |= study.environment | {_REQUEST: json.dumps({**request, "resume": resume})}
    command = ["--snakefile", str(project_root() / "Snakefile"), "--directory", str(study.folder), "--cores", str(jobs)]
    with owner(study.folder):
        try:
            main([*command, *_SNAKEMAKE.split(), *(["--prioritize", *first] if first else []), *extra])
        except SystemExit as ended:
            if ended.code:
                advice = "What was finished is kept; the same command goes on from there."
                raise WorkflowError(f"A step failed, see above. {advice}") from None


def step(*words: str) -> str:
    """The shell command of a step."""
    return shlex.join([sys.executable, "-m", "ksae_lib.cli", *words])
