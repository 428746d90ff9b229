"""What a data set hands to the rest of the library: arrays, a split, and how they were prepared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


class DataError(RuntimeError):
    """A data file is missing or not the published one; the message names it and the remedy."""


def check_sizes(sizes: Mapping[str, tuple[int | None, int]]) -> None:
    """Refuse to take more examples than there are, or none.

    Args:
        sizes: by the name of a part's size, the wanted number (None: all) and that of those there are.

    Raises:
        ValueError: a size is not available.
    """
    for name, (size, most) in sizes.items():
        if size is not None and not 1 <= size <= most:
            raise ValueError(f"{name} = {size} is not available: choose a number from 1 to {most}.")


@dataclass(frozen=True)
class Dataset:
    """Images as rows, split for training, choosing and testing.

    Args:
        train_x, validation_x, test_x: preprocessed images (shape: [examples, inputs], float32).
        train_y, validation_y, test_y: labels (shape: [examples], int64).
        image_shape: of a row: (height, width), (height, width, 3) in colour, (2, height, width) of a stereo pair.
        preprocessing: what was done to the pixels, saved with every run.
        sha256: digest of the published files' contents, before split and preprocessing.
    """

    train_x: np.ndarray
    train_y: np.ndarray
    validation_x: np.ndarray
    validation_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    image_shape: tuple[int, ...]
    preprocessing: dict[str, Any]
    sha256: str

    @property
    def classes(self) -> int:
        """Number of classes, labelled from 0."""
        return int(self.train_y.max()) + 1

    @property
    def is_colour(self) -> bool:
        """Whether rows are images of three colours."""
        return len(self.image_shape) == 3 and self.image_shape[-1] == 3
