"""The study's verbs of the command ``ksae``: ``reproduce | run | notebook | data | report``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ksae_lib.io import KsaeError
from replication.lock import follow_owner
from replication.study import Study, project_root

_PARTS = "tables", "figures", "notebooks", "runs"


def add_verbs(commands: Any) -> None:
    """Add the study's verbs to the command's parser; called through the entry point ``ksae.verbs``."""

    def verb(name: str, function: Callable[..., None] | None, text: str, *examples: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = commands.add_parser(
            name, help=text, description=text, formatter_class=argparse.RawDescriptionHelpFormatter,
            epilog="examples:\n" + "\n".join(f"  {line}" for line in examples),
        )  # fmt: skip
        made.set_defaults(command=function)
        return made

    made = verb(
        "reproduce", _reproduce, "Carry out what is missing, execute the notebooks, write tables and compare.",
        "ksae reproduce", "ksae reproduce --only figure1", "ksae reproduce --profile quick --seeds 3",
        "ksae reproduce --profile full -- --executor slurm --jobs 20",
    )  # fmt: skip
    _where(made)
    made.add_argument(
        "--only", default="", help="experiments or notebooks, separated by commas (default: all on MNIST)"
    )
    made.add_argument("--jobs", type=_at_least_one, default=os.cpu_count() or 1, help="steps at a time")
    made.add_argument("--force", action="store_true", help="carry out every run again")
    made.add_argument(
        "--stale", action=argparse.BooleanOptionalAction,
        help="carry out stored runs of other code again (default: yes, not with --update-evidence)",
    )  # fmt: skip
    _resume(made)
    made.add_argument("snakemake", nargs="*", help="after --: further options of Snakemake")

    made = verb(
        "run", _run, "Carry out runs, alike ones at once on a GPU, or list them.",
        "ksae run --list", "ksae run --profile paper train-k25-zeros-e5000-s0-6f165dd083",
    )  # fmt: skip
    _where(made)
    made.add_argument("run_id", nargs="*", help="as --list shows it")
    made.add_argument("--list", action="store_true", help="list the profile's runs")
    made.add_argument("--force", action="store_true", help="carry them out even if they are stored")
    made.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU where there is one"
    )
    _resume(made)

    made = verb(
        "notebook", _notebook, "Execute one notebook into the results folder.",
        "ksae notebook 01_sparsity_sweep_filters --profile smoke",
    )  # fmt: skip
    _where(made)
    made.add_argument("name", help="file name in notebooks/ without .ipynb, or an experiment that has a notebook")

    made = verb("data", None, "Look after the data.", "ksae data verify", "ksae data get norb --from FOLDER")
    actions = made.add_subparsers(required=True, metavar="ACTION")
    check = actions.add_parser("verify", help="check that MNIST's files are the published ones")
    check.add_argument("--root", type=Path, help="folder that holds MNIST/raw (default: data/)")
    check.set_defaults(command=_data_verify)
    get = actions.add_parser("get", help="fetch small NORB (263 MB), verified")
    get.add_argument("name", choices=["norb"], help="the data set")
    origin = get.add_mutually_exclusive_group()
    origin.add_argument("--base-url", help="address of a folder that has the files, tried before the official ones")
    origin.add_argument("--from", dest="source", type=Path, help="copy from this folder instead")
    get.add_argument("--root", type=Path, help="folder that gets NORB/ (default: data/)")
    get.set_defaults(command=_data_get)

    made = verb(
        "report", _report, "Write tables, figures and README numbers from the stored runs.",
        "ksae report", "ksae report --check --verbose", "ksae report --profile paper --update-evidence",
    )  # fmt: skip
    _where(made)
    made.add_argument("--check", action="store_true", help="write nothing; fail if something committed is out of date")
    made.add_argument("--verbose", action="store_true", help="name the runs of other code")


def _where(made: argparse.ArgumentParser) -> None:
    made.add_argument("--profile", default="quick", help="smoke, quick, paper, full or search (default: quick)")
    made.add_argument("--seeds", type=int, help="seeds per table row (default: the profile's)")
    made.add_argument("--results", type=Path, help="folder of your results (default: results/local)")
    made.add_argument("--update-evidence", action="store_true", help="write the committed runs, tables and notebooks")


def _resume(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--resume", action=argparse.BooleanOptionalAction, default=True,
        help="go on from checkpoints of interrupted runs (default: yes)",
    )  # fmt: skip


def _at_least_one(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not possible: at least 1")
    return value


def _study(options: argparse.Namespace) -> Study:
    study = Study(options.profile, options.seeds, options.results)
    if options.update_evidence:
        study = Study(options.profile, options.seeds, study.evidence_root, study.evidence_root)
    os.environ |= study.environment
    return study


def _reproduce(options: argparse.Namespace) -> None:
    from replication.report.comparison import summary, write_comparison
    from replication.report.tables import error_table, markdown, readable, table_title
    from replication.report.write import write_report
    from replication.workflow import run_workflow

    study = _study(options)
    run_workflow(
        study, only=options.only, jobs=options.jobs, force=options.force, resume=options.resume,
        stale=not study.updates_evidence if options.stale is None else options.stale, extra=options.snakemake,
    )  # fmt: skip
    write_report(study)
    for number in study.table_numbers:
        print(f"\n{table_title(study, number)}, profile {study.profile} (errors in percent on the test set):\n")
        print(markdown(readable(error_table(study, number))))
    for part in _PARTS:
        print(f"{part + ':':12}{os.path.relpath(study.folder / part)}")
    if not study.updates_evidence:
        print(f"comparison: {os.path.relpath(write_comparison(study))}\n\n{summary(study)}")


def _run(options: argparse.Namespace) -> None:
    from replication.code_digest import is_current
    from replication.execute import carry_out
    from replication.experiments.base import PlanError

    study = _study(options)
    if options.list or not options.run_id:
        for one in study.experiments:
            for run in one.runs():
                where = "yours" if study.store.has(run) else "committed" if study.evidence.has(run) else "missing"
                print(f"{one.name:18} {run.run_id:48} {where}")
        return
    follow_owner()
    runs = [study.run(run_id) for run_id in options.run_id]
    stored = {run.run_id: study.store.find(run) for run in runs}
    todo = [
        run for run in runs
        if options.force or (found := stored[run.run_id]) is None or not (study.updates_evidence or is_current(found))
    ]  # fmt: skip
    try:
        carry_out(todo, study, device=options.device, resume=options.resume)
    except ValueError as error:
        raise PlanError(f"{' '.join(run.run_id for run in todo)} cannot be carried out: {error}") from error
    for run in runs:
        print(_line(study, run.run_id, study.store.load(run).metrics))


def _line(study: Study, run_id: str, metrics: dict[str, Any]) -> str:
    """What a run came to, beside the committed one."""
    before = None if study.updates_evidence else study.evidence.find(study.run(run_id))
    name, said = ("test_error", "test error {:.2f}%") if "test_error" in metrics else ("loss", "loss {:.4g}")
    text = said.format(metrics[name]) if name in metrics else "done"
    if "live_units" in metrics:
        text += f", {metrics['live_units']} live units"
    if before is not None and name in before.metrics:
        text += f" (committed: {before.metrics[name]:.4g})"
    return f"{run_id}: {text}, {metrics['wall_seconds']:.0f} s"


def _notebook(options: argparse.Namespace) -> None:
    from replication.experiments.base import PlanError
    from replication.notebook import execute_notebook

    study = _study(options)
    follow_owner()
    one = study.experiment(options.name)
    if one.notebook is None:
        raise PlanError(f"Experiment {one.name} has no notebook of its own: {', '.join(one.shown_in)} shows its runs.")
    execute_notebook(
        project_root() / "notebooks" / f"{one.notebook}.ipynb", study.notebooks / f"{one.executed}.ipynb",
        {"profile": study.profile, "dataset": one.data}, study.environment,
    )  # fmt: skip
    print(f"{options.name}: {os.path.relpath(study.notebooks / f'{one.executed}.ipynb')}")


def _data_verify(options: argparse.Namespace) -> None:
    from replication.data import DATASETS, data_root
    from replication.data.base import DataConfig

    DATASETS["mnist"].load(DataConfig(), options.root.resolve() if options.root else data_root())
    print("MNIST: the four official archives and their contents are as published.")


def _data_get(options: argparse.Namespace) -> None:
    from replication.data import data_root
    from replication.data.norb import BASES, fetch, take

    folder = (options.root.resolve() if options.root else data_root()) / "NORB"
    if options.source:
        take(folder, options.source)
    else:
        fetch(folder, [*([options.base_url] if options.base_url else []), *BASES])
    print(f"small NORB is in {os.path.relpath(folder)}.")


def _report(options: argparse.Namespace) -> None:
    from replication.report.fresh import code_state, stale
    from replication.report.write import write_report

    if not options.check:
        for path in write_report(_study(options)):
            print(os.path.relpath(path))
        return
    options.update_evidence = True
    study = _study(options)
    total, others = code_state(study.evidence)
    print(f"{study.profile}: {len(others)} of {total} committed runs are of other code than what is here.")
    if options.verbose:
        print("\n".join(others))
    if found := stale(study):
        raise KsaeError("\n".join(found))
