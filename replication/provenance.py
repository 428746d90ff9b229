"""Where a number comes from: hardware, versions, commit, time and memory, stored with every run."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numba
import torch

_PACKAGES = ("numpy", "torch", "numba", "scikit-learn", "scipy")


def provenance() -> dict[str, Any]:
    """Hardware, package versions, git commit and peak memory of this process (MiB) as JSON-ready values."""
    return {
        "hardware": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": numba.config.NUMBA_NUM_THREADS,
            "machine": platform.machine(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
        "git_commit": git_commit(),
        "peak_memory_mib": _peak_memory_mib(),
    }


def git_commit() -> str | None:
    """Commit of the code, with ``-dirty`` if the library differs from it; None outside a checkout."""
    root = Path(__file__).resolve().parents[1]
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit + "-dirty" if _git(root, "status", "--porcelain", "--", "ksae_lib") else commit
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _peak_memory_mib() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10))


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
