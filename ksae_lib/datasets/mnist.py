"""MNIST from the official files in ``data/MNIST/raw``, verified, offline (paper, section 4.1)."""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path

import numpy as np

from ksae_lib.datasets.base import DataError, Dataset

SHA256 = "06b0d1f124c4e5fa796686ade41a9b778edacc8622f2195a352ef479ad44fc16"
TRAIN, VALIDATION, TEST = 50_000, 10_000, 10_000


def default_root() -> Path:
    """The folder that holds ``MNIST/raw``: $KSAE_DATA, or ``data/`` of this checkout."""
    return Path(os.environ.get("KSAE_DATA") or Path(__file__).resolve().parents[2] / "data")


def load_mnist(
    root: Path | None = None,
    *,
    split_seed: int = 0,
    train_size: int = TRAIN,
    validation_size: int = VALIDATION,
    test_size: int = TEST,
) -> Dataset:
    """MNIST with pixels in [0, 1] and the paper's random 50,000 / 10,000 / 10,000 split.

    Args:
        root: folder with ``MNIST/raw``, see ``default_root``.
        split_seed: seed of the random separation of the 60,000 training images.
        train_size, validation_size, test_size: take only the first images of each part (for tests).

    Raises:
        DataError: a file is missing, truncated or altered.
        ValueError: a size is not available.
    """
    for name, size, most in (
        ("train_size", train_size, TRAIN),
        ("validation_size", validation_size, VALIDATION),
        ("test_size", test_size, TEST),
    ):
        if not 1 <= size <= most:
            raise ValueError(f"{name} = {size} is not available: choose a number from 1 to {most}.")
    (images, labels), (test_images, test_labels), digest = _verified(root or default_root())
    order = np.random.default_rng(split_seed).permutation(TRAIN + VALIDATION)
    train, validation = order[:train_size], order[TRAIN : TRAIN + validation_size]
    return Dataset(
        train_x=_pixels(images[train]),
        train_y=labels[train],
        validation_x=_pixels(images[validation]),
        validation_y=labels[validation],
        test_x=_pixels(test_images[:test_size]),
        test_y=test_labels[:test_size],
        image_shape=(28, 28),
        preprocessing={"pixels": "uint8 / 255", "split_seed": split_seed},
        sha256=digest,
    )


def _pixels(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float32) / np.float32(255)


def _verified(root: Path) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray], str]:
    from torchvision.datasets import MNIST
    from torchvision.datasets.utils import check_integrity

    raw = root / "MNIST" / "raw"
    for name, md5 in MNIST.resources:
        path = raw / name
        if not path.exists():
            raise DataError(
                f"{path} is missing: restore it with 'git checkout -- data/MNIST', or copy the official file there."
            )
        if not check_integrity(str(path), md5):
            raise DataError(
                f"{path} is not the official file (truncated or altered): delete it and restore it with "
                "'git checkout -- data/MNIST', or copy the official file there."
            )
    parts = []
    digest = hashlib.sha256()
    altered = DataError(
        f"An unpacked file in {raw} was altered: delete the files there that do not end in .gz, "
        "they are unpacked again from the verified archives."
    )
    for train in (True, False):
        try:
            # One process at a time unpacks; the others wait and find the files.
            with (raw / MNIST.resources[0][0]).open("rb") as archive:
                fcntl.flock(archive, fcntl.LOCK_EX)
                part = MNIST(str(root), train=train, download=True)
        except OSError as error:
            raise DataError(
                f"{raw} cannot be unpacked ({error}): free disk space or make the folder writable."
            ) from error
        except (AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise altered from error
        images, labels = part.data.numpy(), part.targets.numpy()
        digest.update(images.tobytes())
        digest.update(labels.astype(np.uint8).tobytes())
        parts.append((images, labels))
    if digest.hexdigest() != SHA256:
        raise altered
    return parts[0], parts[1], digest.hexdigest()
