import signal
import subprocess
import sys
import time
from pathlib import Path


def kill_at_first_checkpoint(script: str, checkpoint: Path, *arguments: str) -> None:
    """Run a script in a process of its own, and kill that once the checkpoint is there."""
    process = subprocess.Popen([sys.executable, "-c", script, *arguments])
    deadline = time.monotonic() + 300
    try:
        while not checkpoint.exists():
            assert process.poll() is None and time.monotonic() < deadline, "no checkpoint was written"
            time.sleep(0.01)
    finally:
        process.kill()
    assert process.wait(60) == -signal.SIGKILL
