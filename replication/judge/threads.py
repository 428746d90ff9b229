"""One thread for work too small to share: on a busy machine, threads that wait for each other cost minutes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numba
import torch
from threadpoolctl import threadpool_limits

_FEW_EXAMPLES = 5_000


@contextmanager
def few_threads(examples: int) -> Iterator[None]:
    """One thread of torch, BLAS and numba within the block, if there are at most 5,000 examples to work on."""
    if examples > _FEW_EXAMPLES:
        yield
        return
    before = torch.get_num_threads(), numba.get_num_threads()
    try:
        torch.set_num_threads(1)
        numba.set_num_threads(1)
        with threadpool_limits(1, "blas"):
            yield
    finally:
        torch.set_num_threads(before[0])
        numba.set_num_threads(before[1])
