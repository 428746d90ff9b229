"""small NORB from its official binary files: format, preprocessing and split (paper, section 4.1).

LeCun, Huang and Bottou, CVPR 2004: stereo pairs of 50 toys in 5 categories; other toys in training and test set.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch.nn.functional import interpolate

from ksae_lib.io import atomic_path
from replication.data.base import DataError, Dataset, check_sizes
from replication.data.download import PublishedFile, verify

TRAINING = "smallnorb-5x46789x9x18x6x2x96x96-training"
TESTING = "smallnorb-5x01235x9x18x6x2x96x96-testing"
CATEGORIES = ("animal", "human", "airplane", "truck", "car")
INFO = ("instance", "elevation", "azimuth", "lighting")
TOYS = {TRAINING: (4, 6, 7, 8, 9), TESTING: (0, 1, 2, 3, 5)}
"""Instances of each category in the two halves."""
SIDE, TRAIN, VALIDATION = 96, 20_000, 4_300
_INNER, _SMALL = 64, 32
_BLOCK = 300
_COLUMNS = 256
# NORB's largest matrix has 448 MB.
_MOST_BYTES = 1 << 30

Recipe = Literal["printed", "author"]
Split = Literal["random", "instance"]
RECIPES, SPLITS = get_args(Recipe), get_args(Split)

BASES = (
    "https://cs.nyu.edu/~ylclab/data/norb-v1.0-small/",
    "https://cs.nyu.edu/~yann/data/norb-v1.0-small/",
)
OFFICIAL = {
    f"{TRAINING}-dat.mat.gz": PublishedFile(
        131_896_188, "5ffd6272a07d32695ee1082a26a41a93a37aab8c28da047f8c34ed348d214873"
    ),
    f"{TRAINING}-cat.mat.gz": PublishedFile(348, "2784e542c1922060691090952b6cd6278879a216c90f81476f0f00256d42cdaa"),
    f"{TRAINING}-info.mat.gz": PublishedFile(
        71_052, "de7eb932ebe7a4ee16217fead60660d0eb3d23632c2f4d1c51f88c501c17bf32"
    ),
    f"{TESTING}-dat.mat.gz": PublishedFile(
        130_799_817, "cf7104eed3e51174d2f65b66d1e5878b9da233b886f161b0d88f4510ba2c7474"
    ),
    f"{TESTING}-cat.mat.gz": PublishedFile(347, "ecaf6d5bb8c3bc5eab9cf0258f6d2198dd474e016e374836fc097f2e5ff509ff"),
    f"{TESTING}-info.mat.gz": PublishedFile(10_428, "16adf314226327ee006d1a44db8cfef52773c06c829951d5653a9f6f310248a2"),
}

_BYTE, _INT = 0x1E3D4C55, 0x1E3D4C54
_TYPES: dict[int, np.dtype[Any]] = {_BYTE: np.dtype("u1"), _INT: np.dtype("<i4")}


class Matrix:
    """One open matrix file; ``shape`` and ``dtype`` come from its header."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file, self._path = file, path
        self.digest = hashlib.sha256()
        magic, dimensions = struct.unpack("<ii", self._read(8))
        if magic not in _TYPES or not 1 <= dimensions <= 8:
            raise DataError(
                f"{path} is not a NORB matrix: it starts with {magic:#x} and {dimensions} dimensions. "
                "Get the official file again."
            )
        # There are always at least three sizes, of which those past the number of dimensions mean nothing.
        written = max(dimensions, 3)
        self.shape = struct.unpack(f"<{written}i", self._read(4 * written))[:dimensions]
        self.dtype = _TYPES[magic]
        if min(self.shape) < 1 or math.prod(self.shape) * self.dtype.itemsize > _MOST_BYTES:
            raise DataError(f"{path} is not a NORB matrix: its sizes are {self.shape}. Get the official file again.")

    def blocks(self, length: int) -> Iterator[np.ndarray]:
        """The matrix in blocks along its first dimension.

        Raises:
            DataError: the file is longer or shorter than its header says, or damaged.
        """
        for start in range(0, self.shape[0], length):
            block = np.empty((min(length, self.shape[0] - start), *self.shape[1:]), self.dtype)
            block.reshape(-1).view(np.uint8)[:] = np.frombuffer(self._read(block.nbytes), np.uint8)
            yield block
        if self._file.read(1):
            raise DataError(f"{self._path} is longer than its header says: get the official file again.")

    def _read(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) != size:
            raise DataError(f"{self._path} is truncated: get the official file again.")
        self.digest.update(data)
        return data


@contextmanager
def open_matrix(path: Path) -> Iterator[Matrix]:
    """Open a matrix file, compressed (``.gz``) or not.

    Raises:
        DataError: it is missing, not a matrix, truncated or damaged.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            yield Matrix(file, path)  # type: ignore[arg-type]
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: 'ksae data get norb' fetches it.") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is truncated or damaged ({error}): get the official file again.") from error


def write_matrix(
    path: Path, shape: tuple[int, ...], dtype: type[np.uint8 | np.int32], blocks: Iterable[np.ndarray]
) -> None:
    """Write a matrix file, compressed if its name ends in ``.gz``, block after block; whole or not at all.

    Args:
        path: the file.
        shape: of the whole matrix.
        dtype: of its entries.
        blocks: parts along the first dimension.

    Raises:
        ValueError: the blocks do not make up the shape.
    """
    magic = {"uint8": _BYTE, "int32": _INT}[np.dtype(dtype).name]
    sizes = (*shape, *(1,) * (3 - len(shape)))
    entries = 0
    with atomic_path(path) as temporary:
        with temporary.open("wb") as raw:
            # Without a time stamp and a name the same matrix gives the same bytes.
            packed = gzip.GzipFile("", "wb", 1, raw, mtime=0) if path.suffix == ".gz" else None
            file = packed or raw
            file.write(struct.pack(f"<{2 + len(sizes)}i", magic, len(shape), *sizes))
            for block in blocks:
                file.write(block.astype(_TYPES[magic]).tobytes())
                entries += block.size
            if packed is not None:
                packed.close()
        if entries != math.prod(shape):
            raise ValueError(f"Blocks hold {entries} entries, the shape {shape} wants {math.prod(shape)}.")


class Part(NamedTuple):
    """Training or test half of NORB, preprocessed but not standardized."""

    x: np.ndarray
    """Both channels of each pair in one row (shape: [pairs, 2048], float32)."""
    y: np.ndarray
    """Categories (shape: [pairs], int64), see ``CATEGORIES``."""
    info: np.ndarray
    """instance, elevation, azimuth, lighting (shape: [pairs, 4], int32), see ``INFO``."""
    sha256: str
    """Digest of the unpacked files."""


def small_images(pairs: np.ndarray, recipe: Recipe = "printed") -> np.ndarray:
    """Inner 64 × 64 pixels of each channel, resized to 32 × 32, both channels in one row (section 4.1).

    The resize is bicubic with antialiasing (the kernel is widened by the factor of two; the paper does not say), as
    Pillow does it but without rounding to whole grey levels. ``author``: bilinear, as the first author's later code.

    Args:
        pairs: grey levels 0 … 255 (shape: [pairs, 2, 96, 96]).
        recipe: which preprocessing.

    Returns:
        Grey levels (shape: [pairs, 2048], float32).
    """
    edge = (pairs.shape[-1] - _INNER) // 2
    inner = torch.from_numpy(pairs[:, :, edge : edge + _INNER, edge : edge + _INNER].astype(np.float32))
    mode = "bicubic" if recipe == "printed" else "bilinear"
    small = interpolate(inner, size=(_SMALL, _SMALL), mode=mode, antialias=True)
    return small.reshape(len(pairs), -1).numpy()


def read_part(folder: Path, name: str, recipe: Recipe = "printed") -> Part:
    """Read and preprocess one half, block by block, so that full-size images are never all in memory.

    Args:
        folder: where the three files are, compressed or not.
        name: ``TRAINING`` or ``TESTING``.
        recipe: which preprocessing.

    Raises:
        DataError: a file is missing, damaged, or its sizes are not NORB's.
    """
    paths = {kind: _find(folder, f"{name}-{kind}.mat") for kind in ("dat", "cat", "info")}
    with open_matrix(paths["dat"]) as images:
        pairs = images.shape[0]
        if images.shape[1:] != (2, SIDE, SIDE) or images.dtype != np.uint8:
            raise DataError(
                f"{paths['dat']} holds a matrix of {images.shape}, not NORB's images: get the official file again."
            )
        y, category_digest = _entries(paths["cat"], (pairs,))
        info, info_digest = _entries(paths["info"], (pairs, len(INFO)))
        if y.min() < 0 or y.max() >= len(CATEGORIES):
            raise DataError(
                f"{paths['cat']} names categories beyond 0 … {len(CATEGORIES) - 1}: get the official file again."
            )
        if not set(info[:, 0]) <= set(TOYS[name]):
            raise DataError(
                f"{paths['info']} names other toys than {TOYS[name]}, which this half has: "
                "get the official files again."
            )
        x = np.empty((pairs, 2 * _SMALL * _SMALL), np.float32)
        start = 0
        for block in images.blocks(_BLOCK):
            x[start : start + len(block)] = small_images(block, recipe)
            start += len(block)
        image_digest = images.digest.hexdigest()
    sha256 = hashlib.sha256((image_digest + category_digest + info_digest).encode()).hexdigest()
    return Part(x, y.astype(np.int64), info, sha256)


def _entries(path: Path, shape: tuple[int, ...]) -> tuple[np.ndarray, str]:
    """A matrix of whole numbers, known by its shape before it is read, and the digest of its bytes."""
    with open_matrix(path) as matrix:
        if matrix.shape != shape or matrix.dtype != np.int32:
            raise DataError(
                f"{path} holds a matrix of {matrix.shape}, not one entry for each of {shape[0]} pairs: "
                "get the official file again."
            )
        return np.concatenate(list(matrix.blocks(shape[0]))), matrix.digest.hexdigest()


def are_official(folder: Path) -> bool:
    """Whether the files in a folder are the published archives; of unpacked files there is no telling.

    Raises:
        DataError: an archive is not the published one.
    """
    packed = {name: file for name, file in OFFICIAL.items() if (folder / name).exists()}
    verify(packed, folder)
    return len(packed) == len(OFFICIAL)


def load_norb(
    folder: Path,
    *,
    recipe: Recipe = "printed",
    split: Split = "random",
    split_seed: int = 0,
    train_size: int | None = None,
    validation_size: int | None = None,
    test_size: int | None = None,
) -> Dataset:
    """NORB's two halves, the first separated into training and validation pairs (section 4.1).

    ``random`` separates pairs at random as the paper does, 20,000 to 4,300. Every toy is then in both parts, so the
    validation error says little about the toys of the test set, none of which is in the training half; ``instance``
    validates on all pairs of one toy of each category instead.

    Args:
        folder: where the files are.
        recipe: ``printed``: bicubic, each dimension standardized by the training pairs; ``author``: bilinear, grey
            levels divided by 255.
        split: how training and validation pairs are separated.
        split_seed: decides the separation, and which test pairs are drawn.
        train_size, validation_size, test_size: take only so many pairs of each part, drawn at random.

    Raises:
        DataError: a file is missing or damaged.
        ValueError: a size is not available, or a dimension never varies.
    """
    first, second = read_part(folder, TRAINING, recipe), read_part(folder, TESTING, recipe)
    order = np.random.default_rng(split_seed).permutation(len(first.x))
    if split == "random":
        border = len(first.x) * TRAIN // (TRAIN + VALIDATION)
        train, validation = order[:border], order[border:]
    else:
        toys = np.unique(first.info[:, 0])
        held_out = first.info[order, 0] == toys[split_seed % len(toys)]
        train, validation = order[~held_out], order[held_out]
    check_sizes(
        {
            "train_size": (train_size, len(train)),
            "validation_size": (validation_size, len(validation)),
            "test_size": (test_size, len(second.x)),
        }
    )
    train, validation = train[:train_size], validation[:validation_size]
    # Neighbours in the files may be of one toy.
    test = np.sort(np.random.default_rng(split_seed).permutation(len(second.x))[:test_size])
    if recipe == "printed":
        mean, scale = _statistics(first.x[train])
    else:
        mean, scale = np.zeros(1, np.float32), np.full(1, 255, np.float32)
    parts = first.x[train], first.x[validation], second.x[test]
    for x in parts:
        x -= mean
        x /= scale
    return Dataset(
        train_x=parts[0],
        train_y=first.y[train],
        validation_x=parts[1],
        validation_y=first.y[validation],
        test_x=parts[2],
        test_y=second.y[test],
        image_shape=(2, _SMALL, _SMALL),
        preprocessing={"recipe": recipe, "split": split, "split_seed": split_seed},
        sha256=hashlib.sha256((first.sha256 + second.sha256).encode()).hexdigest(),
    )


def _statistics(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each dimension, in float32.

    Raises:
        ValueError: a dimension never varies.
    """
    mean = x.mean(axis=0, dtype=np.float64)
    # In float64 the whole of x would be a copy of twice its size.
    scale = np.concatenate(
        [x[:, c : c + _COLUMNS].std(axis=0, dtype=np.float64) for c in range(0, x.shape[1], _COLUMNS)]
    )
    if scale.min() == 0:
        raise ValueError(
            "A pixel has the same value in all training pairs and cannot be standardized: take more pairs."
        )
    return mean.astype(np.float32), scale.astype(np.float32)


def _find(folder: Path, name: str) -> Path:
    """The file, compressed or unpacked; the compressed one if both or neither are there."""
    packed, unpacked = folder / f"{name}.gz", folder / name
    return unpacked if unpacked.exists() and not packed.exists() else packed
