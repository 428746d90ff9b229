"""The command line: ``ksae reproduce | run | notebook | data | report``."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from ksae_lib.training import DivergenceError, EngineName, choose_engine
from replication.data import DataError, load_mnist
from replication.data.download import fetch, take, verify
from replication.data.mnist import default_root
from replication.data.norb import BASES, OFFICIAL
from replication.notebook import NotebookError, execute_notebook
from replication.plan import NORB, PlanError, Run, TrainRun
from replication.runs import StoredRun, StoreError
from replication.study import Study, default_results, project_root
from replication.workflow import WorkflowError, run_workflow, write_stamp

_EXPECTED = (DataError, DivergenceError, NotebookError, PlanError, StoreError, WorkflowError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except _EXPECTED as error:
        print(f"ksae: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("ksae: interrupted. Finished steps are kept; the same command goes on from there.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of a pipe, say 'head', has seen enough; without this Python complains again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        print(
            f"ksae: {error.strerror}: {error.filename or 'a result'} could not be written. "
            "Nothing was left half-written: make room or allow writing there, then run the same command.",
            file=sys.stderr,
        )
        return 1
    return 0


def _reproduce(options: argparse.Namespace) -> None:
    study = _study(options)
    run_workflow(study, only=options.only, jobs=options.jobs, force=options.force, resume=options.resume)
    from replication.report import error_table, markdown
    from replication.report.tables import readable, table_title

    for number in sorted({row.table for e in study.plan.experiments for row in e.rows}):
        print(f"\n{table_title(study, number)}, profile {study.plan.profile} (errors in percent on the test set):\n")
        print(markdown(readable(error_table(study, number))))
    for what, folder in (
        ("tables", study.tables),
        ("figures", study.figures),
        ("executed notebooks", study.notebooks),
        ("runs", study.store.root),
    ):
        print(f"{what + ':':20}{os.path.relpath(folder)}")


def _run(options: argparse.Namespace) -> None:
    study = _study(options)
    if options.list or options.run_id is None:
        for experiment in study.plan.experiments:
            for run in experiment.runs():
                print(f"{experiment.name:10} {run.run_id:48} {'stored' if study.store.has(run) else 'missing'}")
        return
    from replication.execute import obtain

    run = study.plan.run(options.run_id)
    before = study.store.load(run) if study.store.has(run) else None
    try:
        engine = options.engine and _engine(options.engine, run)
        after = obtain(run, study.store, force=options.force, resume=options.resume, engine=engine)
    except ValueError as error:
        raise PlanError(f"{run.run_id} cannot be carried out: {error}") from error
    print(_line(before if options.force else None, after))
    if options.stamp:
        folder = study.store.folder(run)
        write_stamp(options.stamp, sorted(path for path in folder.iterdir()))


def _engine(wanted: EngineName, run: Run) -> EngineName:
    if not isinstance(run, TrainRun):
        raise PlanError(f"{run.run_id} trains no k-sparse autoencoder: leave --engine out.")
    name, why = choose_engine(replace(run.train, engine=wanted))
    print(f"engine: {name} ({why})")
    return name


def _runs_import(options: argparse.Namespace) -> None:
    from replication.campaign import import_runs

    study = _study(options)
    for archive in options.archive:
        added = import_runs(archive, study.store, options.force)
        print(f"{archive}: {len(added)} runs added to {os.path.relpath(study.store.root)}")


def _line(before: StoredRun | None, after: StoredRun) -> str:
    metrics = after.metrics
    if "test_error" in metrics:
        said = f"test error {metrics['test_error']:.2f}%"
        if before is not None:
            said += f" (stored before: {before.metrics['test_error']:.2f}%)"
    elif "live_units" in metrics:
        said = f"loss {metrics['loss']:.4g}, {metrics['live_units']} live units"
        if before is not None:
            said += f" (stored before: {before.metrics['loss']:.4g}, {before.metrics['live_units']})"
    else:
        said = f"loss {metrics['loss']:.4g}" if "loss" in metrics else "done"
    return f"{metrics['run_id']}: {said}, {metrics['wall_seconds']:.0f} s"


def _notebook(options: argparse.Namespace) -> None:
    study = _study(options)
    experiment = study.plan.experiment(options.name)
    if experiment.notebook is None:
        raise PlanError(f"Experiment {experiment.name} has no notebook: 'ksae report' shows what it found.")
    output = study.notebooks / f"{experiment.executed}.ipynb"
    execute_notebook(
        project_root() / "notebooks" / f"{experiment.notebook}.ipynb",
        output,
        {"profile": study.plan.profile, "seeds": study.plan.seeds, "dataset": study.data_name(experiment)},
        study.folder.parent,
    )
    print(f"{options.name}: {os.path.relpath(output)}")
    if options.stamp:
        figures = [path for name in experiment.figures for path in sorted(study.figures.glob(f"{name}.*"))]
        write_stamp(options.stamp, [output, *figures])


def _data_verify(options: argparse.Namespace) -> None:
    data = load_mnist(options.root)
    print(f"MNIST is complete and official: {len(data.train_x)} training, {len(data.validation_x)} validation, "
          f"{len(data.test_x)} test images, SHA-256 {data.sha256}.")  # fmt: skip


def _data_get(options: argparse.Namespace) -> None:
    folder = (options.root or default_root()) / "NORB"
    if options.source is not None:
        take(OFFICIAL, folder, options.source)
    else:
        fetch(OFFICIAL, folder, (options.base_url, *BASES) if options.base_url else BASES)
    verify(OFFICIAL, folder)
    print(f"small NORB is complete and official: {os.path.relpath(folder)}. For research only; it must not be sold.")


def _report(options: argparse.Namespace) -> None:
    from replication.report import stale, update_readme, write_texts
    from replication.report.figures import write_figures

    study = _study(options)
    if options.check:
        if found := stale(study):
            raise StoreError("\n".join(found))
        print(f"Tables, README and executed notebooks of profile {study.plan.profile} are fresh.")
        return
    written = write_texts(study) + write_figures(study)
    if study.folder.parent.resolve() == (project_root() / "results").resolve():
        update_readme(study.folder.parent)
    for path in written:
        print(os.path.relpath(path))
    if options.stamp:
        write_stamp(options.stamp, written)


def _study(options: argparse.Namespace) -> Study:
    study = Study(options.profile, options.results, options.seeds, options.dataset)
    if options.dataset and not any(experiment.dataset == "norb" for experiment in study.plan.experiments):
        raise PlanError(f"Profile {options.profile} has no experiment on NORB: leave --dataset out.")
    return study


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ksae", description="Replicates 'k-Sparse Autoencoders' (Makhzani & Frey, ICLR 2014)."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: object, text: str, *examples: str) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name,
            help=text,
            description=text,
            epilog="examples:\n" + "\n".join(f"  {example}" for example in examples),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        made.set_defaults(command=function)
        return made

    def where(made: argparse.ArgumentParser) -> None:
        made.add_argument("--profile", default="quick", help="smoke, quick, paper, full or search (default: quick)")
        made.add_argument("--seeds", type=int, help="seeds per table row (default: the profile's)")
        made.add_argument(
            "--results", type=Path, default=default_results(), help="folder of results (default: results/)"
        )
        made.add_argument(
            "--dataset",
            choices=NORB,
            help="what experiments on NORB run on (default: norb if it was used before)",
        )
        made.add_argument("--stamp", type=Path, help=argparse.SUPPRESS)

    made = command(
        "reproduce", _reproduce, "Train what is missing, execute the notebooks, write tables and figures.",
        "ksae reproduce", "ksae reproduce --only filters", "ksae reproduce --profile quick --seeds 3 --jobs 4",
    )  # fmt: skip
    where(made)
    made.add_argument("--only", help="experiments or notebooks, separated by commas")
    made.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="steps at a time (default: all cores)")
    made.add_argument("--force", action="store_true", help="run every step again")
    _resume_option(made)

    made = command(
        "run", _run, "Carry out one run of the plan, or list them.",
        "ksae run --list", "ksae run --profile paper train-k25-zeros-e5000-s0-6f165dd083",
    )  # fmt: skip
    where(made)
    made.add_argument("run_id", nargs="?", help="as --list shows it")
    made.add_argument("--list", action="store_true", help="list the profile's runs")
    made.add_argument("--force", action="store_true", help="carry it out even if it is stored")
    made.add_argument(
        "--engine",
        choices=get_args(EngineName),
        help="train a k-sparse autoencoder with this engine, auto: the fastest here; by default the one of its config",
    )
    _resume_option(made)

    made = command(
        "runs", None, "Bring in runs from elsewhere.", "ksae runs import --profile full archives/runs-*.tar.gz"
    )
    actions = made.add_subparsers(required=True, metavar="ACTION")
    bring = actions.add_parser("import", help="add the runs of archives that scripts/gpu_paper.py packed")
    where(bring)
    bring.add_argument("archive", type=Path, nargs="+", help="an archive")
    bring.add_argument("--force", action="store_true", help="replace runs that are there already")
    bring.set_defaults(command=_runs_import)

    made = command(
        "notebook", _notebook, "Execute one notebook into the results folder.",
        "ksae notebook 01_sparsity_sweep_filters --profile smoke",
    )  # fmt: skip
    where(made)
    made.add_argument(
        "name", help="file name in notebooks/ without .ipynb, for other data than MNIST with its name: …_norb"
    )

    made = command("data", None, "Look after the data.", "ksae data verify", "ksae data get norb")
    actions = made.add_subparsers(required=True, metavar="ACTION")
    verify = actions.add_parser("verify", help="check that the data files are the published ones")
    verify.add_argument("--root", type=Path, help="folder that holds MNIST/raw (default: data/)")
    verify.set_defaults(command=_data_verify)

    get = actions.add_parser("get", help="fetch small NORB (263 MB), verified; goes on where it was interrupted")
    get.add_argument("name", choices=["norb"], help="the data set")
    origin = get.add_mutually_exclusive_group()
    origin.add_argument("--base-url", help="address of a folder that has the files, tried before the official ones")
    origin.add_argument("--from", dest="source", type=Path, help="copy from this folder instead")
    get.add_argument("--root", type=Path, help="folder that gets NORB/ (default: data/)")
    get.set_defaults(command=_data_get)

    made = command(
        "report", _report, "Write tables, figures and README numbers from the stored runs.",
        "ksae report", "ksae report --profile paper --check",
    )  # fmt: skip
    where(made)
    made.add_argument("--check", action="store_true", help="write nothing; fail if something is out of date")
    return parser


def _resume_option(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="go on from checkpoints of interrupted training runs (default: yes)",
    )


if __name__ == "__main__":
    sys.exit(main())
