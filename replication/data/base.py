"""What every data set has in common: its config, its place in the registry, and the arrays it hands on."""

import hashlib
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
        ValueError: there is no such data set, it has no such setting, or a size is not above 0.
    """

    name: str = "mnist"
    """``mnist``, ``norb`` or its stand-in ``toy_norb``, ``patches``."""
    split_seed: int = 0
    train_size: int = 50_000
    validation_size: int = 10_000
    test_size: int = 10_000
    share: int | None = None
    """toy NORB of every share-th pair alone, for tests."""
    source: str | None = None
    """The images that patches are of, see ``patches.load``."""

    def __post_init__(self) -> None:
        if self.name not in DATASETS:
            raise ValueError(f"There is no data set {self.name!r}: choose one of {', '.join(DATASETS)}.")
        if min(self.sizes) < 1:
            raise ValueError(f"Sizes {self.sizes} are not possible: name at least one example for each part.")
        if (self.source is None) == (DATASETS[self.name].whole is None):
            raise ValueError(f"source = {self.source!r} is not possible: patches have one, {self.name} data none.")
        if self.share is not None and (not self.is_stand_in or self.share < 1):
            raise ValueError(f"share = {self.share} is not possible: a whole number from 1, of toy NORB alone.")

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Examples for training, validation and test."""
        return self.train_size, self.validation_size, self.test_size

    @property
    def is_whole(self) -> bool:
        """Whether every example of the data set is used; of patches there is no end."""
        return DATASETS[self.name].whole in (None, self.sizes)

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
        whitening: of patches, the mean and the matrix of ``(x − mean) @ matrix``.
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
    whitening: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def classes(self) -> int:
        """Number of classes, labelled from 0."""
        return int(self.train_y.max()) + 1


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set as the registry knows it.

    Args:
        title: what tables call it.
        load: makes the arrays that a config asks for from the files in the folder of data sets.
        whole: examples for training, validation and test; None: a config says of which ``source`` and how many.
        is_stand_in: whether the data only stand in for those of the paper.
    """

    title: str
    load: Callable[[DataConfig, Path], Dataset]
    whole: tuple[int, int, int] | None = None
    is_stand_in: bool = False


DATASETS: dict[str, Source] = {}
"""Every data set by its name; ``replication.data`` fills it."""


def read_published(path: Path, remedy: str, **digest: str) -> bytes:
    """Content of a published file, verified by its ``md5=…`` or ``sha256=…`` if that is given.

    Raises:
        DataError: the file is missing, cannot be read, or is not the published one; the message ends with the remedy.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} is missing or cannot be read ({error.strerror}): {remedy}.") from error
    for algorithm, wanted in digest.items():
        if hashlib.new(algorithm, content).hexdigest() != wanted:
            raise DataError(f"{path} is not the official file (truncated or altered): delete it and {remedy}.")
    return content


def data_root() -> Path:
    """The folder of data sets: $KSAE_DATA, or ``data/`` of this checkout.

    A relative $KSAE_DATA is made absolute in the environment, so that programs started from here find the same folder.
    """
    named = os.environ.get("KSAE_DATA")
    if not named:
        return Path(__file__).resolve().parents[2] / "data"
    os.environ["KSAE_DATA"] = str(Path(named).absolute())
    return Path(os.environ["KSAE_DATA"])
