"""The paper's runs of a profile on one GPU, in slices of a few minutes, and archives to take home.

    python scripts/gpu_paper.py --minutes 9 --pack archives     # again and again until it says that nothing is left
    ksae runs import --profile full archives/runs-*.tar.gz      # at home

Runs that are alike are trained at once. A slice needs the disk of the one before: training of k-sparse autoencoders
goes on from its checkpoint, what else was begun is begun again. Needs torch and Triton, and of this project the library
alone: no notebooks, no Snakemake.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from ksae_lib.engines.gpu import Precision
from replication.campaign import carry_out, pack
from replication.data import DataError
from replication.plan import PlanError
from replication.runs import StoreError
from replication.study import Study, default_results
from replication.workflow import selected

EXPERIMENTS = "filters,features,finetuning,activities,norb_filters,norb_features,norb_finetuning"
_MEBIBYTE = 2**20


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status: 0 nothing is left to do, 3 something is, 1 failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--profile", default="full", help="profile of the plan (default: full, the paper's settings)")
    parser.add_argument("--seeds", type=int, help="seeds per table row (default: the profile's)")
    parser.add_argument("--only", default=EXPERIMENTS, help=f"experiments (default: {EXPERIMENTS})")
    parser.add_argument("--results", type=Path, default=default_results(), help="folder of results")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="where (default: cuda)")
    parser.add_argument(
        "--precision", choices=get_args(Precision), default="float32", help="of products (default: float32)"
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="begin nothing after these (default: 9)")
    parser.add_argument("--pack", type=Path, help="then write the finished runs into archives in this folder")
    parser.add_argument("--archive-mib", type=float, default=16.0, help="size of an archive at most (default: 16)")
    options = parser.parse_args(arguments)
    try:
        study = Study(options.profile, options.results, options.seeds)
        experiments = selected(study.plan, options.only)
        left = carry_out(
            experiments, study.store, device=options.device, precision=options.precision,
            until=time.monotonic() + 60 * options.minutes,
        )  # fmt: skip
        if options.pack is not None:
            for path in pack(experiments, study.store, options.pack, int(options.archive_mib * _MEBIBYTE)):
                print(path)
    except (DataError, PlanError, StoreError, ValueError) as error:
        print(f"gpu_paper: {error}", file=sys.stderr)
        return 1
    print(f"{len(left)} runs are left." if left else "Nothing is left.")
    return 3 if left else 0


if __name__ == "__main__":
    sys.exit(main())
