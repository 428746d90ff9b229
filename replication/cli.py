"""The study's verbs of the command ``ksae``: reproduce, run, notebook, testbed, data, report, check, search."""

import argparse
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ksae_lib.io import KsaeError
from replication.execute import carry_out
from replication.lock import follow_owner
from replication.runs import StoredRun
from replication.study import Study, project_root


def add_verbs(commands: Any) -> None:
    """Add the study's verbs to the command's parser; called through the entry point ``ksae.verbs``."""
    made = _verb(
        commands, "reproduce", _reproduce, "Carry out what is missing, execute notebooks, write tables and compare.",
        "ksae reproduce", "ksae reproduce --only figure1", "ksae reproduce --profile quick --seeds 3",
        "ksae reproduce --profile full -- --executor slurm --jobs 20",
    )  # fmt: skip
    made.add_argument("--only", default="", help="experiments, separated by commas (default: all but those on NORB)")
    made.add_argument("--jobs", type=_at_least_one, default=os.cpu_count() or 1, help="steps at a time")
    made.add_argument("snakemake", nargs="*", help="after --: further options of Snakemake")
    stale = "stored runs of other code are carried out again (default: yes, not with --update-evidence)"
    made.add_argument("--stale", action=argparse.BooleanOptionalAction, help=stale)
    run = _verb(
        commands, "run", _run, "Carry out runs, alike ones at once on a GPU, or list them.",
        "ksae run --list", "ksae run --profile paper readout-k25-centered-e60-s0-ddb8b56c5d",
    )  # fmt: skip
    run.add_argument("run_id", nargs="*", help="as --list shows it")
    run.add_argument("--list", action="store_true", help="list the profile's runs")
    run.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if there is one")
    for one in (made, run):
        one.add_argument("--force", action="store_true", help="carry out again what is stored")
        resume = "interrupted runs go on from their checkpoints (default: yes)"
        one.add_argument("--resume", action=argparse.BooleanOptionalAction, default=True, help=resume)

    made = _verb(commands, "notebook", _notebook, "Execute one notebook into your results.", "ksae notebook figure1")
    made.add_argument("name", help="file name in notebooks/ without .ipynb, or an experiment that has a notebook")
    made = _verb(commands, "testbed", _notebook, "Try a method on known atoms.", "ksae testbed --method my_module:fit")
    made.add_argument("--method", required=True, help="module:function; the module is in the folder you are in")
    made.set_defaults(name="ground_truth")
    made = _verb(
        commands, "report", _report, "Write tables and README numbers from the stored runs.",
        "ksae report", "ksae report --check --verbose", "ksae report --profile quick,paper --update-evidence",
    )  # fmt: skip
    made.add_argument("--check", action="store_true", help="write nothing; fail if something committed is out of date")
    made.add_argument("--verbose", action="store_true", help="name the runs of other code")

    made = _verb(
        commands, "check", _check, "Compute a committed number again and compare.",
        "ksae check 'table1 k25'", "ksae check --epochs 2 train-k25-centered-e60-s0-bd4e896c48",
    )  # fmt: skip
    made.add_argument("what", help="a table and the key of a row, or a run as 'ksae run --list' shows it")
    made.add_argument("--epochs", type=_at_least_one, default=2, help="of an encoder, trained again (default: 2)")

    made = _verb(
        commands, "search", _search, "Search for settings with Optuna and write down what was tried.",
        "ksae search 'table1 denoising'",
    )  # fmt: skip
    made.set_defaults(profile="search")
    made.add_argument("name", help="a table and the key of a row")
    made.add_argument("--trials", type=_at_least_one, default=12, help="how many (default: 12)")

    data = commands.add_parser("data", help="Look after the data.").add_subparsers(required=True, metavar="ACTION")
    check = data.add_parser("verify", help="check that MNIST's files are the published ones")
    check.set_defaults(name="mnist")
    get = data.add_parser("get", help="fetch small NORB (263 MB), verified")
    get.add_argument("name", choices=["norb"], help="the data set")
    origin = get.add_mutually_exclusive_group()
    origin.add_argument("--base-url", help="address of a folder that has the files, tried before the official ones")
    origin.add_argument("--from", dest="source", type=Path, help="copy from this folder or MATLAB file instead")
    for parser in (check, get):
        parser.add_argument("--root", type=Path, help="folder of data sets (default: data/)")
        parser.set_defaults(command=_data)


def _verb(
    commands: Any, name: str, function: Callable[[argparse.Namespace], None], text: str, *examples: str
) -> argparse.ArgumentParser:
    layout, epilog = argparse.RawDescriptionHelpFormatter, "\n  ".join(("examples:", *examples))
    made: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text, formatter_class=layout, epilog=epilog
    )
    made.set_defaults(command=function)
    made.add_argument("--profile", default="quick", help="smoke, quick, paper, full or search (default: %(default)s)")
    made.add_argument("--seeds", type=int, help="seeds per table row (default: the profile's)")
    made.add_argument("--results", help="folder of your results (default: results/local)")
    made.add_argument("--update-evidence", action="store_true", help="write the committed runs, tables and notebooks")
    return made


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not possible: choose a whole number of at least 1")
    return int(text)


def _study(options: argparse.Namespace) -> Study:
    study = Study(options.profile, options.seeds, options.results and Path(options.results))
    if options.update_evidence:
        study = Study(options.profile, options.seeds, study.evidence_root, study.evidence_root)
    os.environ |= study.environment
    return study


def _reproduce(options: argparse.Namespace) -> None:
    from replication.report.comparison import write_comparison
    from replication.report.tables import error_table, markdown, readable, table_title
    from replication.report.write import write_report
    from replication.workflow import run_workflow, selected

    study = _study(options)
    stale = not study.updates_evidence if options.stale is None else options.stale
    how = {name: getattr(options, name) for name in ("only", "jobs", "force", "resume")}
    run_workflow(study, **how, stale=stale, extra=options.snakemake)
    write_report(study)
    chosen = selected(study, options.only)
    for number, data in sorted({(row.table, row.data.name) for one in chosen for row in one.rows}):
        print(f"\n{table_title(study, number, data)}, profile {study.profile} (errors in percent on the test set):\n")
        print(markdown(readable(error_table(study, number, data))))
    print(f"Tables, figures, notebooks and runs are in {os.path.relpath(study.folder)}.")
    if not study.updates_evidence:
        path, said = write_comparison(study)
        print(f"{said} Details, to keep or to send: {os.path.relpath(path)}.")


def _run(options: argparse.Namespace) -> None:
    study = _study(options)
    if options.list or not options.run_id:
        for one in study.experiments:
            for run in one.runs():
                where = "yours" if study.store.has(run) else "committed" if study.evidence.has(run) else "missing"
                print(f"{one.name:18} {run.run_id:48} {where}")
        return
    follow_owner()
    runs = [study.run(run_id) for run_id in options.run_id]
    todo = [run for run in runs if options.force or study.is_due(run, stale=not study.updates_evidence)]
    try:
        carry_out(todo, study, device=options.device, resume=options.resume)
    except ValueError as error:
        raise KsaeError(f"{' '.join(options.run_id)} cannot be carried out: {error}") from error
    for run in runs:
        committed = None if study.updates_evidence else study.evidence.find(run)
        print(_line(study.store.read(run.run_id), committed))


def _line(stored: StoredRun, committed: StoredRun | None) -> str:
    """What a run came to, beside the committed one."""
    metrics, name = stored.metrics, "test_error" if "test_error" in stored.metrics else "loss"
    text = "test error {:.2f}%" if name == "test_error" else "loss {:.4g}"
    said = [text.format(metrics[name]) if name in metrics else "done"]
    said += [f"{metrics['live_units']} live units"] if "live_units" in metrics else []
    beside = f" (committed: {committed.metrics[name]:.4g})" if committed and name in committed.metrics else ""
    return f"{stored.run.run_id}: {', '.join(said)}{beside}, {metrics['wall_seconds']:.0f} s"


def _notebook(options: argparse.Namespace) -> None:
    from replication.notebook import execute_notebook

    study = _study(options)
    follow_owner()
    one = study.experiment(options.name)
    if one.notebook is None:
        raise KsaeError(f"Experiment {one.name} has no notebook of its own: {', '.join(one.shown_in)} shows its runs.")
    output = study.notebooks / f"{one.executed}.ipynb"
    parameters, environment = {"profile": study.profile, "dataset": one.data}, dict(study.environment)
    if "method" in options:
        if study.updates_evidence:
            raise KsaeError("What your method scores is not evidence: leave --update-evidence out.")
        parameters["method"] = options.method
        output = study.notebooks / "testbed.ipynb"
        environment["PYTHONPATH"] = f"{Path.cwd()}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    execute_notebook(project_root() / "notebooks" / f"{one.notebook}.ipynb", output, parameters, environment)
    print(f"{options.name}: {os.path.relpath(output)}")


def _data(options: argparse.Namespace) -> None:
    from replication.data import DATASETS, data_root, norb
    from replication.data.base import DataConfig

    root = options.root.resolve() if options.root else data_root()
    if options.name == "mnist":
        DATASETS["mnist"].load(DataConfig(), root)
        print("MNIST: the four official archives and their contents are as published.")
        return
    if options.source:
        norb.take(root / "NORB", options.source)
    else:
        norb.fetch(root / "NORB", [*([options.base_url] if options.base_url else []), *norb.BASES])
    print(f"small NORB is in {os.path.relpath(root / 'NORB')}.")


def _check(options: argparse.Namespace) -> None:
    from replication.report.check import check_row, check_run

    study = _study(options)
    row = re.fullmatch(r"table([0-9]) (.+)", options.what)
    for said in check_row(study, int(row[1]), row[2]) if row else check_run(study, options.what, options.epochs):
        print(said)


def _search(options: argparse.Namespace) -> None:
    from replication.search import run_search

    follow_owner()
    run_search(_study(options), options.name, options.trials)


def _report(options: argparse.Namespace) -> None:
    from replication.report.fresh import code_state, stale, stale_documents
    from replication.report.write import write_report

    options.update_evidence |= options.check
    found = []
    for profile in options.profile.split(","):
        options.profile = profile
        study = _study(options)
        if not options.check:
            print("\n".join(map(os.path.relpath, write_report(study))))
            continue
        total, others = code_state(study.evidence)
        print(f"{study.profile}: {len(others)} of {total} committed runs were made by another version of the code.")
        if options.verbose:
            print("\n".join(others))
        found += stale(study)
    if options.check:
        found += stale_documents(study.evidence_root.parent)
    if found:
        raise KsaeError("\n".join(found))
