"""What the Snakefile and the command line share: stamps, code digests, and starting Snakemake."""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import json
import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Empty, SimpleQueue

from ksae_lib.io import write_text
from replication.environment import inherited
from replication.plan import Experiment, Plan
from replication.study import Study, project_root

_SHARED = (
    "model.py", "selection.py", "metrics.py", "encoding.py", "engines/cpu.py", "engines/kernels.py", "readout.py",
    "logistic.py", "execute.py", "datasets/*.py",
)  # fmt: skip
_CODE = {
    "train": (*_SHARED, "schedule.py", "engines/*.py", "gabor.py"),
    "baseline": (*_SHARED, "schedule.py", "baselines/*.py"),
    "readout": (*_SHARED, "baselines/base.py"),
    "finetune": (*_SHARED, "schedule.py", "engines/*.py", "baselines/*.py", "finetune.py"),
    "report": (
        "metrics.py",
        "encoding.py",
        "engines/kernels.py",
        "plan.py",
        "study.py",
        "notebooks.py",
        "report/*.py",
        "../experiments.yaml",
        "../benchmarks/results/*.json",
    ),
}
_PATIENCE_SECONDS = 3.0
_ONE_THREAD = dict.fromkeys(("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
_PROCESSES = multiprocessing.get_context("spawn")


class WorkflowError(RuntimeError):
    """A step of the workflow failed, or the workflow is already running."""


def selected(plan: Plan, only: str | Sequence[str] | None) -> tuple[Experiment, ...]:
    """The experiments named in ``only`` (names or notebooks, also separated by commas), or all.

    Names of experiments that only other profiles have are passed over.

    Raises:
        PlanError: a name is unknown, or this profile has none of them.
    """
    if not only:
        return plan.experiments
    names = [name.strip() for name in (only.split(",") if isinstance(only, str) else only)]
    here = [name for name in names if name not in plan.elsewhere] or names
    return tuple(plan.experiment(name) for name in here)


def code_digest(part: str) -> str:
    """Digest of the source files that decide a step's result: a step is run again when it changes."""
    digest = hashlib.sha256()
    for pattern in _CODE[part]:
        for path in sorted((project_root() / "ksae_lib").glob(pattern)):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def stamp(study: Study, name: str) -> str:
    """The file that says a step is done; stamps are never committed."""
    return str(study.folder / ".state" / f"{name}.json")


def write_stamp(path: Path, files: Sequence[Path]) -> None:
    """Record that a step is done, with digests of the files it made."""
    record = {os.path.relpath(file, path.parent): _digest(file) for file in files}
    write_text(path, json.dumps(record, indent=1) + "\n")


def drop_stale_stamps(study: Study) -> None:
    """Remove the stamps of steps whose files were deleted or changed since, so that the steps run again."""
    for path in (study.folder / ".state").glob("*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        for name, digest in record.items():
            file = path.parent / name
            if not file.exists() or _digest(file) != digest:
                path.unlink()
                break


class _Worker:
    """A process that runs one command after the other: libraries are imported and data are read once."""

    def __init__(self) -> None:
        self._commands, theirs = _PROCESSES.Pipe()
        self._process = _PROCESSES.Process(target=_work, args=(theirs,))
        with inherited(_ONE_THREAD):
            self._process.start()
        theirs.close()
        # Before multiprocessing, at exit, waits for the process to end.
        atexit.register(self._commands.close)

    def is_alive(self) -> bool:
        """Whether it still waits for commands: one that idled may have been killed."""
        return self._process.is_alive()

    def run(self, words: Sequence[str]) -> int | None:
        """Exit status of a ``ksae`` command; None: the process is gone."""
        try:
            self._commands.send(words)
            status: int = self._commands.recv()
        except (EOFError, OSError):
            return None
        return status


_idle: SimpleQueue[_Worker] = SimpleQueue()


def _work(commands: Connection) -> None:
    from replication.cli import main

    with suppress(EOFError, OSError, KeyboardInterrupt):
        while True:
            words = commands.recv()
            _forget_peak_memory()
            status = main(words)
            sys.stdout.flush()
            commands.send(status)


def _forget_peak_memory() -> None:
    """Count the peak that a run records from now on, data of earlier runs that are kept included; only Linux can."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def step(*arguments: object) -> None:
    """Run one ``ksae`` command, on one core, in a process that is kept for the next.

    Args:
        arguments: the command line after ``ksae``, word by word.

    Raises:
        WorkflowError: it failed, or was killed.
    """
    words = [str(argument) for argument in arguments]
    try:
        while not (worker := _idle.get_nowait()).is_alive():
            pass
    except Empty:
        worker = _Worker()
    status = worker.run(words)
    if status is None:
        reason = "broken off; if nothing is said above, killed, perhaps for lack of memory"
        raise WorkflowError(f"'ksae {shlex.join(words)}' failed: {reason}.")
    _idle.put(worker)
    if status != 0:
        raise WorkflowError(f"'ksae {shlex.join(words)}' failed: status {status}.")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _first_figure(study: Study, only: str | None) -> str | None:
    """The stamp of the first notebook: a reader who waits wants to see something soon."""
    notebooks = [e.executed for e in selected(study.plan, only) if e.executed]
    return stamp(study, notebooks[0]) if notebooks else None


@contextmanager
def _only_one(study: Study) -> Iterator[None]:
    path = study.folder / ".state" / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WorkflowError(
                f"Another 'ksae reproduce' is at work on profile {study.plan.profile}: wait for it or stop it."
            ) from None
        yield


def run_workflow(study: Study, *, only: str | None, jobs: int, force: bool, resume: bool) -> None:
    """Bring a profile's results up to date with Snakemake.

    Args:
        study: the profile.
        only: experiments, separated by commas; None: all.
        jobs: steps at a time.
        force: run every step again.
        resume: let interrupted training runs go on from their checkpoints.

    Raises:
        WorkflowError: a step failed, or another workflow is at work on the same profile.
    """
    settings = {
        "profile": study.plan.profile,
        "seeds": study.plan.seeds,
        "results": study.folder.parent,
        "dataset": study.norb,
        "resume": resume,
        **({"only": only} if only else {}),
    }
    command = [
        sys.executable, "-m", "snakemake", "--snakefile", str(project_root() / "Snakefile"),
        "--directory", str(project_root()), "--cores", str(jobs), "--rerun-incomplete", "--nolock",
        "--scheduler", "greedy", "--force-use-threads",
        "--quiet", "rules", "host", *(["--forceall"] if force else []),
        *(["--prioritize", first] if (first := _first_figure(study, only)) else []),
        "--config", *(f"{key}={value}" for key, value in settings.items()),
    ]  # fmt: skip
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    with _only_one(study):
        drop_stale_stamps(study)
        process = subprocess.Popen(command, env={**os.environ, "PATH": path})
        try:
            status = process.wait()
        except KeyboardInterrupt:
            try:
                process.wait(timeout=_PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                # Snakemake loses an interrupt that comes while it writes its log.
                process.send_signal(signal.SIGINT)
                process.wait()
            raise
    if status != 0:
        raise WorkflowError("A step failed, see above. What was finished is kept; the same command goes on from there.")
