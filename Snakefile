"""The plan as a workflow: train and read out what changed, then notebooks, then the report.

`ksae reproduce` starts it. By hand, or on a cluster:
    snakemake --cores 2 --force-use-threads --config profile=quick
Rules write stamps, not results: a result folder is put in place by one rename, and an interrupted or failed job
leaves the earlier one as it was.
"""

from pathlib import Path

from replication.plan import BaselineRun, TrainRun, requires, shown, to_json
from replication.study import Study
from replication.workflow import code_digest, selected, stamp, step

PROFILE = config.get("profile", "quick")
SEEDS = int(config["seeds"]) if config.get("seeds") else None
RESULTS = Path(config["results"]) if config.get("results") else None
STUDY = Study(PROFILE, RESULTS, SEEDS, config.get("dataset"))
EXPERIMENTS = selected(STUDY.plan, config.get("only"))
RUNS = {run.run_id: run for experiment in EXPERIMENTS for run in experiment.runs()}
TRAIN = [name for name, run in RUNS.items() if isinstance(run, TrainRun | BaselineRun)]
SUPERVISED = [name for name in RUNS if name not in TRAIN]
NOTEBOOKS = {e.executed: e for e in EXPERIMENTS if e.executed}
WHERE = ("--profile", PROFILE, "--seeds", STUDY.plan.seeds, "--results", STUDY.folder.parent, "--dataset", STUDY.norb)
RESUME = "--resume" if config.get("resume", True) else "--no-resume"


wildcard_constraints:
    run="|".join(TRAIN + SUPERVISED) or "none",
    notebook="|".join(NOTEBOOKS) or "none",


localrules:
    everything,


# Every stamp is asked for by name: a missing one that only other steps read would not be made again.
rule everything:
    input:
        [stamp(STUDY, name) for name in [*RUNS, *NOTEBOOKS, "report"]],


def needed(wildcards):
    return [stamp(STUDY, run.run_id) for run in requires(RUNS[wildcards.run])]


def code(wildcards):
    return code_digest(to_json(RUNS[wildcards.run])["kind"])


rule train:
    input:
        needed,
    output:
        stamp(STUDY, "{run,train-.*}"),
    params:
        code=code,
    # Others wait for these, so that the last steps are short ones and no core is idle.
    priority: 5
    run:
        step("run", wildcards.run, *WHERE, "--force", RESUME, "--stamp", output)


rule supervised:
    input:
        needed,
    output:
        stamp(STUDY, "{run,(readout|finetune)-.*}"),
    params:
        code=code,
    run:
        step("run", wildcards.run, *WHERE, "--force", "--stamp", output)


rule notebook:
    input:
        source=lambda wildcards: f"notebooks/{NOTEBOOKS[wildcards.notebook].notebook}.ipynb",
        runs=lambda wildcards: [stamp(STUDY, run.run_id) for run in shown(NOTEBOOKS[wildcards.notebook], EXPERIMENTS)],
    output:
        stamp(STUDY, "{notebook,[0-9][0-9]_.*}"),
    params:
        code=code_digest("report"),
    priority: 10
    run:
        step("notebook", wildcards.notebook, *WHERE, "--stamp", output)


rule report:
    input:
        [stamp(STUDY, name) for name in [*RUNS, *NOTEBOOKS]],
    output:
        stamp(STUDY, "report"),
    params:
        code=code_digest("report"),
    run:
        step("report", *WHERE, "--stamp", output)
