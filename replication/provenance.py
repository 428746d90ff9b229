"""Where a number comes from: hardware, versions, commit, time and memory, stored with every run."""

import os
import platform
import re
import resource
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numba
import torch

_PACKAGES = ("numpy", "torch", "numba", "scikit-learn", "scipy")


def provenance() -> dict[str, Any]:
    """Hardware, package versions, git commit and peak memory of this process (MiB) as JSON-ready values."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return {
        "hardware": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": numba.config.NUMBA_NUM_THREADS,
            "machine": platform.machine(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
        "git_commit": _git_commit(),
        "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit),
    }


def _git_commit() -> str | None:
    """With ``-dirty`` if the library differs from it; None outside a checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True, stderr=subprocess.DEVNULL).strip()
        changed = subprocess.check_output([*git, "status", "--porcelain", "--", ":/ksae_lib", ":/replication"])
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + "-dirty" if changed else commit


def _processor() -> str:
    with suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        if named := re.search(r"^model name\s*: (.*)$", text, re.MULTILINE):
            return named[1].strip()
    return platform.processor() or platform.machine()
