"""One workflow at a time on a folder of results, and no step that outlives its workflow."""

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
    path = folder / ".lock"
    busy = KsaeError(f"Another 'ksae reproduce' is at work on {folder}: wait for it or stop it.")
    with path.open("a") as held, (folder / ".steps").open("a") as steps:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        # A step that looks whether its workflow is gone holds the lock for a moment.
        while not _taken(held, fcntl.LOCK_EX):
            if time.monotonic() > deadline or psutil.pid_exists(int(path.read_text(encoding="ascii") or -1)):
                raise busy
            time.sleep(_POLL_SECONDS)
        held.truncate(0)
        held.write(str(os.getpid()))
        held.flush()
        # Steps of a workflow that was killed see that the lock is another's, and end.
        while not _taken(steps, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                raise busy
            time.sleep(_POLL_SECONDS)
        fcntl.flock(steps, fcntl.LOCK_UN)
        os.environ[_OWNER] = f"{os.getpid()} {gethostname()} {path}"
        try:
            yield
        finally:
            del os.environ[_OWNER]


def follow_owner() -> None:
    """End this process, whatever it does, as soon as the workflow that started it is gone; without one do nothing."""
    if _OWNER not in os.environ:
        return
    number, host, name = os.environ[_OWNER].split(" ", 2)
    if host != gethostname():
        # A job of a cluster: its scheduler ends it, and locks need not reach from one machine to the next.
        return
    path = Path(name)
    steps = path.with_name(".steps").open("a")
    fcntl.flock(steps, fcntl.LOCK_SH)

    def watch() -> None:
        with steps, path.open("r") as lock:
            while not _taken(lock, fcntl.LOCK_SH) and path.read_text(encoding="ascii") == number:
                time.sleep(_POLL_SECONDS)
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _taken(file: IO[str], how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
