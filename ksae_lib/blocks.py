"""Examples that are read block by block, for data larger than memory."""

import mmap
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from torch import Tensor

BLOCK_BYTES = 2**28
_SAMPLE = 2_000


def is_mapped(x: Any) -> bool:
    """Whether an array is a part of a file: copies of such arrays have their type, and are in memory."""
    return isinstance(x, np.memmap) and getattr(x, "_mmap", None) is not None


class Blocks:
    """Examples that are read anew in every pass: two blocks at most are in memory, and their non-zero entries.

    Args:
        source: a memory-mapped array, or batches of examples, which are joined and cut into blocks: an object that
            gives the same ones each time it is iterated over, or a function that returns an iterator over them.
        batch_size: of training; a block is a whole number of batches, 256 MiB at most, but for the last.

    Attributes:
        shape: examples, features.
        size, count: of a block in examples, of all in blocks.
        mean: of the examples (shape: [features]).
        sample: evenly spaced examples, all or 1000 … 2000 (shape: [sample, features]).
        prepare: makes what ``read`` gives, float32, of a block of the source; not of ``mean`` and ``sample``.

    Raises:
        ValueError: as ``read``, no examples, or an iterator, which gives its batches only once.
    """

    def __init__(self, source: np.memmap | Iterable[Any] | Callable[[], Iterable[Any]], batch_size: int) -> None:
        if isinstance(source, Iterator):
            raise ValueError("An iterator gives its batches only once: pass a function that returns a new one.")
        self._source, self._batch_size = source, batch_size
        self.shape: tuple[int, ...] = ()
        self.prepare: Callable[[np.ndarray], np.ndarray] = lambda block: np.asarray(block, np.float32)
        examples, step, total, sample = 0, 1, np.zeros(1), None
        for _, block in self._raw():
            total = total + block.sum(0, dtype=np.float64)
            sample = block[:0] if sample is None else sample
            while len(sample) + len(rows := block[-examples % step :: step]) > _SAMPLE:
                sample, step = sample[::2], 2 * step
            sample = np.concatenate([sample, rows])
            examples += len(block)
        if sample is None:
            raise ValueError("There are no examples: the iterable gave no batch.")
        self.shape, self.mean, self.sample = (examples, sample.shape[1]), total / examples, sample
        self.size = self._size(sample.shape[1])
        self.count = -(-examples // self.size)

    def read(self, order: Iterable[int] | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Each block and its number: of an array in this order, of batches as they come.

        Raises:
            ValueError: NaN, a batch that is not a row an example, or another number of examples than in the first pass.
        """
        yield from ((number, self.prepare(block)) for number, block in self._raw(order))

    def _raw(self, order: Iterable[int] | None = None) -> Iterator[tuple[int, np.ndarray]]:
        for number, block in self._of_array(order) if is_mapped(self._source) else enumerate(self._of_batches()):
            if not np.isfinite(block).all():
                raise ValueError("Examples hold NaN or infinite values: remove or replace them first.")
            yield number, block

    def _size(self, features: int) -> int:
        return max(1, BLOCK_BYTES // (4 * max(1, features) * self._batch_size)) * self._batch_size

    def _of_array(self, order: Iterable[int] | None) -> Iterator[tuple[int, np.ndarray]]:
        x: Any = self._source
        size = self._size(x.shape[1])
        for number in range(-(-len(x) // size)) if order is None else order:
            block = np.array(x[number * size : (number + 1) * size], order="C")
            # What was read would stay in this process's memory. A private mapping would forget what was written to it.
            if x.mode != "c" and hasattr(mmap, "MADV_DONTNEED"):
                x._mmap.madvise(mmap.MADV_DONTNEED)
            yield number, block

    def _of_batches(self) -> Iterator[np.ndarray]:
        source: Any = self._source
        block, filled, seen = np.empty((0, 0)), 0, 0
        for given in source() if callable(source) else source:
            batch = given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
            if batch.ndim != 2 or (seen and batch.shape[1] != block.shape[1]):
                raise ValueError(
                    f"A batch has shape {batch.shape}: give each one row an example, all of the same length."
                )
            seen += len(batch)
            while len(batch):
                if filled == len(block):
                    block, filled = np.empty((self._size(batch.shape[1]), batch.shape[1]), batch.dtype), 0
                taken = batch[: len(block) - filled]
                block[filled : filled + len(taken)] = taken
                filled, batch = filled + len(taken), batch[len(taken) :]
                if filled == len(block):
                    yield block
        if filled < len(block):
            yield block[:filled]
        if self.shape and seen != self.shape[0]:
            raise ValueError(
                f"The batches held {seen} examples, {self.shape[0]} before: they must be the same each time."
            )
