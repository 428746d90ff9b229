"""MNIST from the official files in ``data/MNIST/raw``, verified, offline (paper, section 4.1)."""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
from pathlib import Path

import numpy as np

from replication.data.base import DataError, Dataset, check_sizes

SHA256 = "06b0d1f124c4e5fa796686ade41a9b778edacc8622f2195a352ef479ad44fc16"
TRAIN, VALIDATION, TEST = 50_000, 10_000, 10_000
# Digests of the official files, as torchvision has them.
_ARCHIVES = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
_HEADERS = [
    header
    for n in (TRAIN + VALIDATION, TEST)
    for header in (struct.pack(">4i", 0x803, n, 28, 28), struct.pack(">2i", 0x801, n))
]
"""What each unpacked file starts with: its type and sizes."""


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
    check_sizes(
        {
            "train_size": (train_size, TRAIN),
            "validation_size": (validation_size, VALIDATION),
            "test_size": (test_size, TEST),
        }
    )
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
    """Images and labels of both parts, and their digest; what is wrong with a file is told apart."""
    raw = root / "MNIST" / "raw"
    for name, md5 in _ARCHIVES.items():
        path = raw / name
        if not path.exists():
            raise DataError(
                f"{path} is missing: restore it with 'git checkout -- data/MNIST', or copy the official file there."
            )
        if hashlib.md5(path.read_bytes()).hexdigest() != md5:
            raise DataError(
                f"{path} is not the official file (truncated or altered): delete it and restore it with "
                "'git checkout -- data/MNIST', or copy the official file there."
            )
    paths = [raw / name.removesuffix(".gz") for name in _ARCHIVES]
    _unpack(root, paths)
    files = [path.read_bytes() for path in paths]
    # A view: a slice of bytes is a copy.
    contents = [
        memoryview(data)[len(header) if data.startswith(header) else 0 :]
        for data, header in zip(files, _HEADERS, strict=True)
    ]
    whole = hashlib.sha256()
    for content in contents:
        whole.update(content)
    digest = whole.hexdigest()
    if digest != SHA256:
        raise DataError(
            f"An unpacked file in {raw} was altered: delete the files there that do not end in .gz, "
            "they are unpacked again from the verified archives."
        )
    images, labels, test_images, test_labels = (np.frombuffer(content, np.uint8) for content in contents)
    parts = [(x.reshape(-1, 28, 28), y.astype(np.int64)) for x, y in ((images, labels), (test_images, test_labels))]
    return parts[0], parts[1], digest


def _unpack(root: Path, paths: list[Path]) -> None:
    """Have torchvision unpack the archives; one process at a time does, the others wait and find the files."""
    try:
        with (paths[0].parent / next(iter(_ARCHIVES))).open("rb") as archive:
            fcntl.flock(archive, fcntl.LOCK_EX)
            if not all(path.exists() for path in paths):
                # Importing torchvision takes longer than reading MNIST.
                from torchvision.datasets import MNIST

                MNIST(str(root), download=True)
    except OSError as error:
        raise DataError(
            f"{paths[0].parent} cannot be unpacked ({error}): free disk space or make the folder writable."
        ) from error
