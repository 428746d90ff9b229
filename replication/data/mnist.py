"""MNIST from the official archives in ``MNIST/raw``, verified, offline (paper, section 4.1)."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np

from replication.data.base import DataConfig, DataError, Dataset, Source, check_sizes

TRAIN, VALIDATION, TEST = 50_000, 10_000, 10_000
# MD5 of the official archives, as torchvision has them.
_ARCHIVES = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}


def load(config: DataConfig, root: Path) -> Dataset:
    """MNIST with pixels in [0, 1] and the paper's random 50,000 / 10,000 / 10,000 split; smaller parts are its first.

    Args:
        config: which split, and how much of each part.
        root: folder with ``MNIST/raw``.

    Raises:
        DataError: a file is missing, truncated or altered.
        ValueError: a size is not available.
    """
    check_sizes(config, TRAIN, VALIDATION, TEST)
    files = [_content(root / "MNIST" / "raw" / name, md5) for name, md5 in _ARCHIVES.items()]
    images, labels, test_images, test_labels = files
    labels, test_labels = labels.astype(np.int64), test_labels.astype(np.int64)
    order = np.random.default_rng(config.split_seed).permutation(TRAIN + VALIDATION)
    train, validation = order[: config.train_size], order[TRAIN : TRAIN + config.validation_size]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.tobytes())
    return Dataset(
        train_x=_pixels(images[train]),
        train_y=labels[train],
        validation_x=_pixels(images[validation]),
        validation_y=labels[validation],
        test_x=_pixels(test_images[: config.test_size]),
        test_y=test_labels[: config.test_size],
        image_shape=(28, 28),
        preprocessing={"pixels": "uint8 / 255", "split_seed": config.split_seed},
        sha256=digest.hexdigest(),
    )


def _content(path: Path, md5: str) -> np.ndarray:
    """Images (shape: [images, 784], uint8) or labels (shape: [images], uint8) of an official archive."""
    remedy = "restore it with 'git checkout -- data/MNIST', or copy the official file there"
    try:
        archive = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} is missing or cannot be read ({error.strerror}): {remedy}.") from error
    if hashlib.md5(archive).hexdigest() != md5:
        raise DataError(f"{path} is not the official file (truncated or altered): delete it and {remedy}.")
    unpacked, are_images = gzip.decompress(archive), "images" in path.name
    # The header is a magic number and one size for each dimension, of four bytes each.
    entries = np.frombuffer(unpacked, np.uint8, offset=16 if are_images else 8)
    return entries.reshape(-1, 28 * 28) if are_images else entries


def _pixels(images: np.ndarray) -> np.ndarray:
    return images.astype(np.float32) / np.float32(255)


SOURCE = Source(title="MNIST", load=load, whole=(TRAIN, VALIDATION, TEST))
