"""What Snakemake is told: batches of alike runs that are to be carried out, and the notebooks that show them."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch

from ksae_lib.io import KsaeError
from replication.execute import alike
from replication.experiments.base import Experiment
from replication.lock import owner
from replication.runs import EncoderRun, Run, requires
from replication.study import Study, project_root

_REQUEST = "KSAE_WORKFLOW"
_AT_ONCE_GPU, _AT_ONCE_SMOKE, _AT_ONCE = 64, 16, 2
"""Runs of a batch: a GPU trains them together; a processor one after the other, so that few leave no core idle."""


class WorkflowError(KsaeError):
    """A step of the workflow failed."""


class Batch(NamedTuple):
    """A step: alike runs in one process."""

    name: str
    runs: list[str]
    needs: list[str]
    """Files of other runs, relative to the profile's folder."""
    trains: bool

    @property
    def files(self) -> list[str]:
        """What the step makes, relative to the profile's folder."""
        return [_file(name) for name in self.runs]


class Workflow:
    """The steps that bring a study's store up to date.

    Args:
        study: the profile and its folders.
        only: names of experiments or notebooks, separated by commas; empty: those of ``default_experiments``.
        force: carry out every run again.
        stale: carry out stored runs of other code again.
        resume: go on from checkpoints.
    """

    def __init__(self, study: Study, only: str, force: bool, stale: bool, resume: bool) -> None:
        self.study = study
        self.experiments = selected(study, only)
        self.options = " ".join(
            ["--profile", study.profile, *(["--seeds", str(study.seeds)] if study.seeds else []),
             *(["--force"] if force else []), *([] if resume else ["--no-resume"])]
        )  # fmt: skip
        runs = list({run.run_id: run for one in self.experiments for run in one.runs()}.values())
        self.runs = [_file(run.run_id) for run in runs]
        self.batches = list(_batches(study, _todo(study, runs, force, stale)))
        self.notebooks = {one.executed: one for one in self.experiments if one.executed}

    @classmethod
    def from_environment(cls) -> Workflow:
        """The workflow that ``run_workflow`` asked for; by default profile ``quick``."""
        request: dict[str, Any] = {"profile": "quick", "seeds": None, "only": ""}
        request |= {"force": False, "stale": True, "resume": True} | json.loads(os.environ.get(_REQUEST, "{}"))
        return cls(Study(request.pop("profile"), request.pop("seeds")), **request)

    def shown(self, one: Experiment) -> list[str]:
        """Files of the runs that an experiment's notebook shows: its own, and those of others here that it shows."""
        others = [other for other in self.experiments if one.name in other.shown_in]
        return list(dict.fromkeys(_file(run.run_id) for shown in (one, *others) for run in shown.runs()))


def selected(study: Study, only: str) -> tuple[Experiment, ...]:
    """The experiments named, or all but those on NORB's files and on its stand-in.

    Raises:
        PlanError: a name is unknown.
    """
    if not only:
        return tuple(one for one in study.experiments if "norb" not in one.data)
    return tuple(study.experiment(name.strip()) for name in only.split(","))


def _file(run_id: str) -> str:
    return f"runs/{run_id}/metrics.json"


def _todo(study: Study, runs: Sequence[Run], force: bool, stale: bool) -> list[Run]:
    """Runs that are due, and encoders without weights that those need."""
    due = {run.run_id: force or study.is_due(run, stale) for run in runs}
    needed = {one.run_id for run in runs if due[run.run_id] for one in requires(run)}
    return [run for run in runs if due[run.run_id] or (run.run_id in needed and not study.store.has(run, weights=True))]


def _batches(study: Study, runs: Sequence[Run]) -> Iterable[Batch]:
    on_gpu = torch.cuda.is_available()
    most = _AT_ONCE_GPU if on_gpu else _AT_ONCE_SMOKE if study.profile == "smoke" else _AT_ONCE
    for number, group in enumerate(alike(runs)):
        for start in range(0, len(group), most):
            batch = group[start : start + most]
            kind = batch[0].run_id.partition("-")[0]
            needs = dict.fromkeys(_file(one.run_id) for run in batch for one in requires(run))
            trains = isinstance(batch[0], EncoderRun)
            yield Batch(f"{kind}_{number}_{start // most}", [run.run_id for run in batch], list(needs), trains)


def run_workflow(
    study: Study, *, only: str, jobs: int, force: bool, stale: bool, resume: bool, extra: Sequence[str] = ()
) -> None:
    """Bring a study's store and notebooks up to date with Snakemake, in this process.

    Args:
        study: the profile and its folders.
        only: experiments or notebooks, separated by commas; empty: all but NORB's.
        jobs: steps at a time.
        force: carry out every run again.
        stale: carry out stored runs of other code again.
        resume: go on from checkpoints.
        extra: further options of Snakemake, for example of an executor for a cluster.

    Raises:
        PlanError: a name in ``only`` is unknown.
        BusyError: another workflow is at work on the same folder.
        WorkflowError: a step failed.
    """
    from snakemake.cli import main

    first = next((one.executed for one in selected(study, only) if one.executed), None)
    request = {"profile": study.profile, "seeds": study.seeds, "only": only, "force": force, "stale": stale}
    os.environ |= study.environment | {_REQUEST: json.dumps({**request, "resume": resume})}
    with owner(study.folder):
        try:
            main(
                [
                    "--snakefile", str(project_root() / "Snakefile"), "--directory", str(study.folder),
                    "--cores", str(jobs), "--resources", "gpu=1", "--rerun-incomplete", "--keep-incomplete",
                    "--nolock", "--keep-going",
                    "--scheduler", "greedy", "--quiet", "rules", "host", "--rerun-triggers", "mtime",
                    *(["--prioritize", f"notebooks/{first}.ipynb"] if first else []), *extra,
                ]
            )  # fmt: skip
        except SystemExit as ended:
            if ended.code:
                raise WorkflowError(
                    "A step failed, see above. What was finished is kept; the same command goes on from there."
                ) from None


def step(*words: str) -> str:
    """The shell command of a step."""
    return shlex.join([sys.executable, "-m", "ksae_lib.cli", *words])
