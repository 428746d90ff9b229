"""What every data set has in common: its config, its place in the registry, and the arrays it hands on."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ksae_lib.io import KsaeError


class DataError(KsaeError):
    """A data file is missing or not the published one; the message names it and the remedy."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which data, how much of it, and its split.

    Raises:
        ValueError: there is no such data set, or it has no such recipe or split.
    """

    name: str = "mnist"
    """``mnist``, ``norb`` or its stand-in ``toy_norb``, ``patches``."""
    split_seed: int = 0
    train_size: int = 50_000
    validation_size: int = 10_000
    test_size: int = 10_000
    recipe: str | None = None
    """How NORB's pairs are prepared, see ``norb.load``; None: as printed."""
    split: str | None = None
    """How NORB's pairs are separated, see ``norb.load``; None: at random."""
    share: int | None = None
    """toy NORB of every share-th pair alone, for tests."""
    source: str | None = None
    """The images that patches are of, see ``patches.load``."""

    def __post_init__(self) -> None:
        if self.name not in DATASETS:
            raise ValueError(f"There is no data set {self.name!r}: choose one of {', '.join(DATASETS)}.")
        known = DATASETS[self.name]
        for name, choices in (("recipe", known.recipes), ("split", known.splits)):
            value = getattr(self, name)
            if value is not None and value not in choices:
                has = f"NORB has {', '.join(choices)}" if choices else f"{self.title} has none"
                raise ValueError(f"{name} = {value!r} is not possible: {has}.")
        if (self.source is None) == known.of_images:
            raise ValueError(f"source = {self.source!r} is not possible: patches have one, {self.name} data none.")
        if self.share is not None and (not self.is_stand_in or self.share < 1):
            raise ValueError(f"share = {self.share} is not possible: a whole number from 1, of toy NORB alone.")

    @property
    def is_whole(self) -> bool:
        """Whether every example of the data set is used; of patches there is no end."""
        return DATASETS[self.name].whole in (None, (self.train_size, self.validation_size, self.test_size))

    @property
    def is_stand_in(self) -> bool:
        """Whether the data only stand in for those of the paper."""
        return DATASETS[self.name].is_stand_in

    @property
    def title(self) -> str:
        """What tables call it."""
        return DATASETS[self.name].title


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


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set as the registry knows it.

    Args:
        title: what tables call it.
        load: makes the arrays that a config asks for from the files in the folder of data sets.
        whole: examples for training, validation and test; None where their number is the reader's choice.
        recipes, splits: what a config's ``recipe`` and ``split`` may be.
        of_images: whether a config names the ``source`` of its images.
        is_stand_in: whether the data only stand in for those of the paper.
    """

    title: str
    load: Callable[[DataConfig, Path], Dataset]
    whole: tuple[int, int, int] | None = None
    recipes: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    of_images: bool = False
    is_stand_in: bool = False


DATASETS: dict[str, Source] = {}
"""Every data set by its name; ``replication.data`` fills it."""


def check_sizes(config: DataConfig, *there: int) -> None:
    """Refuse a config that asks for more examples for training, validation or test than there are, or for none.

    Raises:
        ValueError: a size is not available.
    """
    for name, most in zip(("train_size", "validation_size", "test_size"), there, strict=True):
        if not 1 <= getattr(config, name) <= most:
            raise ValueError(f"{name} = {getattr(config, name)} is not available: choose a number from 1 to {most}.")


def data_root() -> Path:
    """The folder of data sets: $KSAE_DATA, or ``data/`` of this checkout.

    A relative $KSAE_DATA is made absolute in the environment, so that programs started from here find the same folder.
    """
    named = os.environ.get("KSAE_DATA")
    if not named:
        return Path(__file__).resolve().parents[2] / "data"
    os.environ["KSAE_DATA"] = str(Path(named).absolute())
    return Path(os.environ["KSAE_DATA"])
