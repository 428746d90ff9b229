from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("settings", "spins"), [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "0")]
)
def test_threads_that_wait_give_way_unless_told_otherwise(settings: dict[str, str], spins: str) -> None:
    kept = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    script = "import ksae_lib, torch; torch.rand(10**6).exp()"
    told = subprocess.run(
        [sys.executable, "-c", script], env={**kept, **settings, "OMP_DISPLAY_ENV": "VERBOSE"},
        capture_output=True, text=True, check=True,
    ).stderr  # fmt: skip
    found = re.findall(r"GOMP_SPINCOUNT = '(\d+)'", told)
    if not found:
        pytest.skip("torch does not use GNU OpenMP here")
    assert set(found) == {spins}
