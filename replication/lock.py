"""One workflow at a time on a folder of results, and no step that outlives its workflow."""

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import gethostname
from typing import IO

import psutil

from ksae_lib.io import KsaeError

_OWNER = "KSAE_OWNER"
_PATIENCE_SECONDS = 10.0
_POLL_SECONDS = 0.3


@contextmanager
def owner(folder: Path) -> Iterator[None]:
    """Hold a folder of results, which started steps learn from the environment; a ``KsaeError`` if it is held."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as held, (folder / ".steps").open("a") as steps:
        is_busy, deadline = not _taken(held), time.monotonic() + _PATIENCE_SECONDS
        # Steps of a workflow that was killed see that it is gone, and end.
        while not is_busy and not _taken(steps):
            time.sleep(_POLL_SECONDS)
            is_busy = time.monotonic() > deadline
        if is_busy:
            raise KsaeError(f"Another 'ksae reproduce' is at work on {folder}: wait for it or stop it.")
        fcntl.flock(steps, fcntl.LOCK_UN)
        os.environ[_OWNER] = f"{os.getpid()} {gethostname()} {folder}"
        try:
            yield
        finally:
            del os.environ[_OWNER]


def follow_owner() -> None:
    """End this process, whatever it does, as soon as the workflow that started it is gone; without one do nothing."""
    if _OWNER not in os.environ:
        return
    number, host, folder = os.environ[_OWNER].split(" ", 2)
    if host != gethostname():
        # A job of a cluster: its scheduler ends it, and locks need not reach from one machine to the next.
        return
    path = Path(folder, ".steps")
    steps = path.open("a")
    fcntl.flock(steps, fcntl.LOCK_SH)

    def watch() -> None:
        with steps:
            with suppress(psutil.NoSuchProcess):
                workflow = psutil.Process(int(number))
                while workflow.is_running() and workflow.status() != psutil.STATUS_ZOMBIE:
                    time.sleep(_POLL_SECONDS)
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _taken(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
