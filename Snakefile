"""The study as a workflow: batches of alike runs, then notebooks.

`ksae reproduce` decides on the steps and starts it; `ksae reproduce --profile full -- --executor slurm --jobs 20` runs
it on a cluster.
"""

import json
from pathlib import Path

PLAN = json.loads(Path(".workflow.json").read_text(encoding="utf-8"))


localrules:
    everything,


rule everything:
    input:
        PLAN["targets"],
        [file for step in PLAN["steps"] for file in step["makes"]],


for step in PLAN["steps"]:

    rule:
        name:
            step["name"]
        input:
            step["needs"],
        output:
            update(step["makes"]),
        priority: step["priority"]
        threads: workflow.cores if step["on_gpu"] or step["all_cores"] else 1
        resources:
            gpu=int(step["on_gpu"]),
        params:
            command=step["command"],
            # Where a notebook has processes on all cores, each has one thread; Snakemake gives each all of them.
            each=workflow.cores if step["on_gpu"] else 1,
        shell:
            "for library in NUMBA OMP MKL OPENBLAS; do export ${{library}}_NUM_THREADS={params.each}; done; "
            "LOKY_MAX_CPU_COUNT={threads} {params.command}"
