from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ksae_lib.io import KsaeError
from replication.lock import owner

STEP = """
import time
from replication.lock import follow_owner
follow_owner()
print("at work", flush=True)
time.sleep(600)
"""
OWNER = """
import subprocess, sys, time
from pathlib import Path
from replication.lock import owner
with owner(Path(sys.argv[1])):
    step = subprocess.Popen([sys.executable, "-c", sys.argv[2]])
    print(step.pid, flush=True)
    time.sleep(600)
"""


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not Path(f"/proc/{pid}/stat").exists() or Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_steps_die_with_a_killed_workflow_and_the_next_one_starts_without_them(tmp_path: Path, how: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path), STEP], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = {process.stdout.readline().strip(), process.stdout.readline().strip()}
    step = int((said - {"at work"}).pop())
    with pytest.raises(KsaeError, match="Another 'ksae reproduce' is at work"), owner(tmp_path):
        pass
    process.send_signal(how)
    process.wait()
    with owner(tmp_path):
        assert not is_alive(step), "the lock is held until every step is gone"


def test_a_step_by_hand_needs_no_workflow() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from replication.lock import follow_owner; follow_owner()"], check=False
    )
    assert done.returncode == 0


def test_the_lock_is_free_after_the_workflow(tmp_path: Path) -> None:
    for _ in range(2):
        with owner(tmp_path):
            assert "KSAE_OWNER" in os.environ
    assert "KSAE_OWNER" not in os.environ
