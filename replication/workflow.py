"""What Snakemake is told: batches of alike runs that are to be carried out, and the notebooks that show them."""

import hashlib
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from ksae_lib.io import KsaeError, write_text
from replication.execute import alike
from replication.experiments.base import Experiment
from replication.lock import owner
from replication.runs import EncoderRun, Run, requires
from replication.study import Study, project_root

PLAN = ".workflow.json"
"""File in the profile's folder that tells the Snakefile, and the jobs of a cluster, the same steps."""
_SNAKEMAKE = (
    "--resources gpu=1 --rerun-incomplete --keep-incomplete --nolock --keep-going --scheduler greedy "
    "--quiet rules host --rerun-triggers mtime"
)


class Step(NamedTuple):
    """What Snakemake runs; files are relative to the profile's folder."""

    name: str
    needs: list[str]
    makes: list[str]
    priority: int
    command: str
    on_gpu: bool = False
    all_cores: bool = False


def steps(study: Study, only: str, force: bool, stale: bool, resume: bool) -> tuple[list[Step], list[str], list[str]]:
    """Steps that carry out what is due and execute notebooks, the names of those that must run, and files of all runs.

    Arguments as of ``run_workflow``. A step's command carries its runs out whatever is stored: this decides.
    """
    experiments = selected(study, only)
    options = ["--profile", study.profile, *(["--seeds", str(study.seeds)] if study.seeds else [])]
    how = [*options, "--force", *([] if resume else ["--no-resume"])]
    runs = {run.run_id: run for one in experiments for run in one.runs()}
    due = {run_id for run_id, run in runs.items() if force or study.is_due(run, stale)}
    # Committed encoders stay: what has no weights is trained beside them, where a run is carried out on it.
    if not study.updates_evidence:
        needed = {one.run_id for run_id in due for one in requires(runs[run_id])}
        due |= {run_id for run_id in needed & runs.keys() if not study.store.is_ready(runs[run_id])}
    batches = list(_batches(study, [run for run_id, run in runs.items() if run_id in due]))
    made = []
    for batch in batches:
        names = [run.run_id for run in batch]
        needs = dict.fromkeys(_file(one.run_id) for run in batch for one in requires(run))
        name = f"{batch[0].step}_{hashlib.sha256(' '.join(names).encode()).hexdigest()[:12]}"
        # Others wait for encoders, so that the last steps are short ones and no core is idle.
        priority = 5 if isinstance(batch[0], EncoderRun) else 0
        files = [_file(run_id) for run_id in names]
        made.append(Step(name, list(needs), files, priority, _command("run", *names, *how), torch.cuda.is_available()))
    forced = [one.name for one in made]
    for one in experiments:
        if one.notebook:
            source = project_root() / "notebooks" / f"{one.notebook}.ipynb"
            shown = [_file(run.run_id) for run in study.shown(one) if run.run_id in runs]
            needs = dict.fromkeys([_literal(str(source)), *shown])
            output = [f"notebooks/{one.executed}.ipynb"]
            command = _command("notebook", str(one.executed), *options)
            made.append(Step(f"notebook_{one.executed}", list(needs), output, 10, command, all_cores=one.all_cores))
            forced += [made[-1].name] if force else []
    return made, forced, [_file(run_id) for run_id in runs]


def selected(study: Study, only: str) -> tuple[Experiment, ...]:
    """The experiments named, or all but those on NORB's files and on its stand-in; a ``KsaeError`` of unknown names."""
    if not only:
        return tuple(one for one in study.experiments if "norb" not in one.data)
    named = [study.experiment(name.strip()) for name in only.split(",")]
    return tuple({one.name: one for one in named}.values())


def _file(run_id: str) -> str:
    return f"runs/{run_id}/metrics.json"


def _batches(study: Study, runs: Sequence[Run]) -> Iterator[list[Run]]:
    # A GPU trains the runs of a batch together; a processor one after the other, so that few leave no core idle.
    most = 64 if torch.cuda.is_available() else 16 if study.profile == "smoke" else 2
    for group in alike(runs):
        parts = -(-len(group) // most)
        # Every so-manieth: neighbours in the plan cost alike, and the parts then do too.
        yield from (group[start::parts] for start in range(parts))


def run_workflow(
    study: Study, *, only: str, jobs: int, force: bool, stale: bool, resume: bool, extra: Sequence[str] = ()
) -> None:
    """Bring a study's store and notebooks up to date with Snakemake, in this process.

    Args:
        study, only: the profile, its ``environment`` set; names, separated by commas, empty for all but NORB's.
        jobs: steps at a time.
        force, stale: carry out every run again, or stored runs of other code.
        resume: go on from checkpoints.
        extra: further options of Snakemake, for example of an executor for a cluster.

    Raises:
        KsaeError: an unknown name, another workflow on the folder, a failed step.
    """
    from snakemake.cli import main

    made, forced, targets = steps(study, only, force, stale, resume)
    command = ["--snakefile", str(project_root() / "Snakefile"), "--directory", str(study.folder), "--cores", str(jobs)]
    command += ["--forcerun", *forced] if forced else []
    first = [output for step in made if step.name.startswith("notebook") for output in step.makes][:1]
    with owner(study.folder):
        plan = {"targets": targets, "steps": [step._asdict() for step in made]}
        write_text(study.folder / PLAN, json.dumps(plan))
        try:
            main([*command, *_SNAKEMAKE.split(), *(["--prioritize", *first] if first else []), *extra])
        except SystemExit as ended:
            if ended.code:
                advice = "What was finished is kept; the same command goes on from there."
                raise KsaeError(f"A step failed, see above. {advice}") from None


def _command(*words: str) -> str:
    return _literal(shlex.join([sys.executable, "-m", "ksae_lib.cli", *words]))


def _literal(text: str) -> str:
    """As Snakemake takes it without wildcards."""
    return text.replace("{", "{{").replace("}", "}}")
