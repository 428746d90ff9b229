"""Environment variables for processes that are about to start."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_one_at_a_time = threading.Lock()


@contextmanager
def inherited(variables: Mapping[str, str]) -> Iterator[None]:
    """Have variables in the environment for the length of the block, for processes that it starts.

    Threads take turns; blocks cannot be nested.
    """
    with _one_at_a_time:
        before = {name: os.environ.get(name) for name in variables}
        os.environ.update(variables)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
