"""MNIST from the official archives in ``MNIST/raw``, verified, offline (paper, section 4.1)."""

import gzip
import hashlib
from pathlib import Path

import numpy as np

from replication.data.base import DataConfig, Dataset, Source, read_published

TRAIN, VALIDATION, TEST = 50_000, 10_000, 10_000
# MD5 of the official archives, as torchvision has them.
_ARCHIVES = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
_REMEDY = "restore it with 'git checkout -- data/MNIST', or copy the official file there"


def load(config: DataConfig, root: Path) -> Dataset:
    """MNIST with pixels in [0, 1] and the paper's random 50,000 / 10,000 / 10,000 split; smaller parts are its first.

    More than 50,000 images for training take in those of validation: for encoders, which see no label.

    Raises:
        DataError: a file is missing, truncated or altered.
    """
    images, labels, test_images, test_labels = files = [
        _entries(root / "MNIST" / "raw" / name, md5) for name, md5 in _ARCHIVES.items()
    ]
    order = np.random.default_rng(config.split_seed).permutation(TRAIN + VALIDATION)
    train, validation = order[: config.train_size], order[TRAIN:][: config.validation_size]
    return Dataset(
        train_x=images[train] / np.float32(255),
        train_y=labels[train].astype(np.int64),
        validation_x=images[validation] / np.float32(255),
        validation_y=labels[validation].astype(np.int64),
        test_x=test_images[: config.test_size] / np.float32(255),
        test_y=test_labels[: config.test_size].astype(np.int64),
        image_shape=(28, 28),
        preprocessing={"pixels": "uint8 / 255", "split_seed": config.split_seed},
        sha256=hashlib.sha256(b"".join(file.tobytes() for file in files)).hexdigest(),
    )


def _entries(path: Path, md5: str) -> np.ndarray:
    unpacked = gzip.decompress(read_published(path, _REMEDY, md5=md5))
    # The header is a magic number and one size for each dimension, of four bytes each.
    if "images" in path.name:
        return np.frombuffer(unpacked, np.uint8, offset=16).reshape(-1, 28 * 28)
    return np.frombuffer(unpacked, np.uint8, offset=8)


SOURCE = Source(title="MNIST", load=load, whole=(TRAIN, VALIDATION, TEST))
