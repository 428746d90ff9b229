"""The study as a workflow: batches of alike runs, then notebooks.

`ksae reproduce` starts it; `ksae reproduce --profile full -- --executor slurm --jobs 20` runs it on a cluster.
"""

import torch

from replication.workflow import Workflow, step

WORK = Workflow.from_environment()


localrules:
    everything,


rule everything:
    input:
        WORK.runs,
        [f"notebooks/{name}.ipynb" for name in WORK.notebooks],


for batch in WORK.batches:

    rule:
        name:
            batch.name
        input:
            batch.needs,
        output:
            update(batch.files),
        # Others wait for encoders, so that the last steps are short ones and no core is idle.
        priority: 5 if batch.name.startswith("train") else 0
        threads: 1
        resources:
            gpu=int(torch.cuda.is_available()),
        params:
            command=step("run", *batch.runs, *WORK.options, *WORK.how),
        shell:
            "NUMBA_NUM_THREADS={threads} {params.command}"


for name, one in WORK.notebooks.items():

    rule:
        name:
            f"notebook_{name}"
        input:
            WORK.shown(one),
        output:
            update(f"notebooks/{name}.ipynb"),
        priority: 10
        params:
            command=step("notebook", name, *WORK.options),
        shell:
            "NUMBA_NUM_THREADS={threads} {params.command}"
