"""small NORB: official binary files or the MATLAB form that circulates, preprocessing and split (paper, section 4.1).

LeCun, Huang and Bottou, CVPR 2004: stereo pairs of 50 toys in 5 categories; other toys in training and test set.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import math
import shutil
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch.nn.functional import interpolate

from ksae_lib.io import atomic_path
from replication.data.base import DataConfig, DataError, Dataset, Source, check_sizes

TRAINING = "smallnorb-5x46789x9x18x6x2x96x96-training"
TESTING = "smallnorb-5x01235x9x18x6x2x96x96-testing"
MATLAB = "smallnorb-matlab.mat"
"""The MATLAB form's name in our folder."""
CATEGORIES = ("animal", "human", "airplane", "truck", "car")
TOYS = {TRAINING: (4, 6, 7, 8, 9), TESTING: (0, 1, 2, 3, 5)}
"""Instances of each category in the two halves."""
WHOLE = 20_000, 4_300, 24_300
RECIPES, SPLITS = ("printed", "author"), ("random", "instance")
SIDE = 96
_INNER, _SMALL = 64, 32
_BLOCK = 300
_TIMEOUT_SECONDS = 30.0
_OUR_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)

BASES = ("https://cs.nyu.edu/~ylclab/data/norb-v1.0-small/", "https://cs.nyu.edu/~yann/data/norb-v1.0-small/")
OFFICIAL = {
    f"{TRAINING}-dat.mat.gz": "5ffd6272a07d32695ee1082a26a41a93a37aab8c28da047f8c34ed348d214873",
    f"{TRAINING}-cat.mat.gz": "2784e542c1922060691090952b6cd6278879a216c90f81476f0f00256d42cdaa",
    f"{TRAINING}-info.mat.gz": "de7eb932ebe7a4ee16217fead60660d0eb3d23632c2f4d1c51f88c501c17bf32",
    f"{TESTING}-dat.mat.gz": "cf7104eed3e51174d2f65b66d1e5878b9da233b886f161b0d88f4510ba2c7474",
    f"{TESTING}-cat.mat.gz": "ecaf6d5bb8c3bc5eab9cf0258f6d2198dd474e016e374836fc097f2e5ff509ff",
    f"{TESTING}-info.mat.gz": "16adf314226327ee006d1a44db8cfef52773c06c829951d5653a9f6f310248a2",
}
"""SHA-256 of the published files by their names."""
_MAGIC = {"u1": 0x1E3D4C55, "<i4": 0x1E3D4C54}


class Part(NamedTuple):
    """Training or test half of NORB, preprocessed but not standardized."""

    x: np.ndarray
    """Both channels of each pair in one row, grey levels 0 … 255 (shape: [pairs, inputs], float32)."""
    y: np.ndarray
    """Categories (shape: [pairs], int64), see ``CATEGORIES``."""
    info: np.ndarray | None
    """instance, elevation, azimuth, lighting (shape: [pairs, 4], int32); the MATLAB form does not tell them."""
    sha256: str
    """Digest of the unpacked files."""


def fetch(folder: Path, bases: Sequence[str] = BASES, files: Mapping[str, str] = OFFICIAL) -> None:
    """Bring files here; one takes its name when its SHA-256 is right and not before. Files that are here stay.

    Args:
        folder: where they go; made if it is not there.
        bases: addresses or folders that have the files, tried in this order for each file.
        files: SHA-256 by name.

    Raises:
        DataError: no base gave a file, or what it gave is not the published one.
        OSError: the disk is full or must not be written.
    """
    import pooch

    # Otherwise a server may declare the archive a compressed page, and it arrives unpacked.
    as_it_is = {"Accept-Encoding": "identity"}
    http = pooch.HTTPDownloader(sys.stderr.isatty(), 1 << 20, timeout=_TIMEOUT_SECONDS, headers=as_it_is)

    def bring(address: str, path: str, _: Any) -> None:
        if "://" in address:
            http(address, path, None)
        else:
            shutil.copyfile(address, path)

    for name, sha256 in files.items():
        reasons = []
        for base in bases:
            try:
                pooch.retrieve(f"{base.rstrip('/')}/{name}", sha256, name, folder, downloader=bring)
                break
            except (OSError, ValueError) as error:
                if isinstance(error, OSError) and error.errno in _OUR_DISK:
                    raise
                reasons.append(f"{base}: {error}")
        else:
            raise DataError(
                f"{name} could not be fetched ({'; '.join(reasons)}): run the same command again, which keeps whole "
                "files, name another address (https://…) with --base-url, or a folder that has the files with --from."
            )


def take(folder: Path, source: Path) -> None:
    """Copy NORB from another folder: the official archives, verified, or a file of the MATLAB form.

    Raises:
        DataError: neither is there, or a file is not the published one or cannot be read.
        OSError: the disk is full or must not be written.
    """
    others = [source] if source.is_file() else sorted(p for p in source.glob("*.mat") if f"{p.name}.gz" not in OFFICIAL)
    if not others or (source / f"{TRAINING}-dat.mat.gz").exists():
        fetch(folder, [str(source)])
        return
    _matlab_halves(others[0], "printed")
    with atomic_path(folder / MATLAB) as copy:
        shutil.copyfile(others[0], copy)


def are_official(folder: Path) -> bool:
    """Whether the files in a folder are the published archives; of unpacked files there is no telling.

    Raises:
        DataError: an archive is not the published one.
    """
    packed = [folder / name for name in OFFICIAL if (folder / name).is_file()]
    for path in packed:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != OFFICIAL[path.name]:
                raise DataError(f"{path} is not the official file: delete it and run 'ksae data get norb'.")
    return len(packed) == len(OFFICIAL)


def read_matrix(
    path: Path, dtype: str, row: tuple[int, ...], digest: Any, length: int = _BLOCK
) -> Iterator[np.ndarray]:
    """A matrix file, compressed (``.gz``) or not, in blocks along its first dimension.

    Args:
        path: the file.
        dtype: of its entries, ``u1`` or ``<i4``.
        row: its sizes but the first.
        digest: takes in the unpacked bytes.
        length: rows of a block.

    Raises:
        DataError: the file is missing, damaged, or of another size or type.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            # There are always at least three sizes, of which those past the number of dimensions mean nothing.
            header = file.read(4 * (2 + max(3, 1 + len(row))))
            digest.update(header)
            magic, dimensions, pairs, *sizes = np.frombuffer(header, "<i4").tolist()
            is_norb = (magic, dimensions, *sizes[: len(row)]) == (_MAGIC[dtype], 1 + len(row), *row)
            if not is_norb or not 1 <= pairs <= WHOLE[2]:
                raise DataError(
                    f"{path} is not NORB's matrix of {row} for each pair: it starts with {magic:#x}, {dimensions}, "
                    f"{pairs}, {sizes}. Get the official file again."
                )
            for start in range(0, pairs, length):
                rows = min(length, pairs - start)
                data = file.read(rows * math.prod(row) * np.dtype(dtype).itemsize)
                digest.update(data)
                yield np.frombuffer(data, dtype).reshape(rows, *row)
            if file.read(1):
                raise DataError(f"{path} is longer than its header says: get the official file again.")
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: 'ksae data get norb' fetches it.") from error
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path} is truncated or damaged ({error}): get the official file again.") from error


def write_matrix(path: Path, shape: tuple[int, ...], dtype: str, blocks: Iterable[ArrayLike]) -> None:
    """Write a matrix file of a shape and type, block after block; whole or not at all."""
    sizes = (*shape, *(1,) * (3 - len(shape)))
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(np.array([_MAGIC[dtype], len(shape), *sizes], "<i4").tobytes())
        for block in blocks:
            file.write(np.asarray(block).astype(dtype).tobytes())


def small_images(pairs: np.ndarray, recipe: str = "printed") -> np.ndarray:
    """Inner 64 × 64 pixels of each channel, resized to 32 × 32, both channels in one row (section 4.1).

    The resize is bicubic with antialiasing (the kernel is widened by the factor of two; the paper does not say), as
    Pillow does it but without rounding to whole grey levels. ``author``: bilinear, as the first author's later code.

    Args:
        pairs: grey levels 0 … 255 (shape: [pairs, 2, 96, 96]).
        recipe: which preprocessing.

    Returns:
        Grey levels (shape: [pairs, 2048], float32).
    """
    edge = (SIDE - _INNER) // 2
    inner = torch.from_numpy(pairs[:, :, edge : edge + _INNER, edge : edge + _INNER].astype(np.float32))
    mode = "bicubic" if recipe == "printed" else "bilinear"
    small = interpolate(inner, size=(_SMALL, _SMALL), mode=mode, antialias=True)
    return small.reshape(len(pairs), -1).numpy()


def read_part(folder: Path, name: str, recipe: str = "printed") -> Part:
    """Read and preprocess one half, block by block, so that full-size images are never all in memory.

    Args:
        folder: where the three files are, compressed or not.
        name: ``TRAINING`` or ``TESTING``.
        recipe: which preprocessing.

    Raises:
        DataError: a file is missing, damaged, or not of this half of NORB.
    """
    digests = {kind: hashlib.sha256() for kind in ("dat", "cat", "info")}

    def blocks(kind: str, dtype: str, *row: int) -> Iterator[np.ndarray]:
        packed, unpacked = folder / f"{name}-{kind}.mat.gz", folder / f"{name}-{kind}.mat"
        path = unpacked if unpacked.exists() and not packed.exists() else packed
        return read_matrix(path, dtype, row, digests[kind])

    y, info = np.concatenate(list(blocks("cat", "<i4"))), np.concatenate(list(blocks("info", "<i4", 4)))
    x = np.concatenate([small_images(block, recipe) for block in blocks("dat", "u1", 2, SIDE, SIDE)])
    for kind, fits in (
        ("cat", len(y) == len(x) and set(y) <= set(range(len(CATEGORIES)))),
        ("info", len(info) == len(x) and set(info[:, 0]) <= set(TOYS[name])),
    ):
        if not fits:
            raise DataError(f"{name}-{kind}.mat in {folder} is not of these images: get the official files again.")
    sha256 = hashlib.sha256("".join(digest.hexdigest() for digest in digests.values()).encode()).hexdigest()
    return Part(x, y.astype(np.int64), info, sha256)


def _matlab_halves(path: Path, recipe: str) -> tuple[Part, Part]:
    """Both halves of the MATLAB form: square images of any size as columns or rows; smaller than NORB's they stay."""
    from scipy.io import loadmat

    parts = []
    try:
        held = loadmat(path, appendmat=False)
        for half in ("train", "test"):
            kinds, y = np.unique(held[f"{half}_cat_s"].ravel(), return_inverse=True)
            if not np.array_equal(kinds, np.unique(held["train_cat_s"])):
                raise ValueError("its halves are of other categories")
            views = [held[f"{half}_{camera}_s"] for camera in ("left", "right")]
            columns = [view if view.shape[-1] == len(y) else view.T for view in views]
            side = math.isqrt(columns[0].size // len(y))
            # MATLAB runs through an image column by column.
            pairs = np.stack([c.reshape(side, side, len(y), order="F").transpose(2, 0, 1) for c in columns], axis=1)
            grey = pairs.astype(np.float32) * (255 if pairs.max() <= 1 else 1)
            x = small_images(grey, recipe) if side == SIDE else grey.reshape(len(y), -1)
            parts.append(Part(x, y.astype(np.int64), None, hashlib.sha256(path.read_bytes()).hexdigest()))
    # A damaged file leads SciPy's reader into errors of any kind.
    except Exception as error:
        raise DataError(
            f"{path} is not NORB's MATLAB form ({error}): it holds train_left_s, train_right_s, train_cat_s and the "
            "same of test, saved with MATLAB's -v7."
        ) from error
    return parts[0], parts[1]


def load_norb(folder: Path, config: DataConfig) -> Dataset:
    """NORB's two halves, the first separated into training and validation pairs (section 4.1).

    Recipe ``printed``: bicubic, each dimension standardized by the training pairs; ``author``: bilinear, grey levels
    divided by 255. Split ``random`` separates pairs at random as the paper does, 20,000 to 4,300. Every toy is then in
    both parts, so the validation error says little about the toys of the test set, none of which is in the training
    half; ``instance`` validates on all pairs of one toy of each category instead.

    Args:
        folder: where the files are.
        config: recipe, split, its seed, and how many pairs of each part to take, drawn at random.

    Raises:
        DataError: a file is missing or damaged.
        ValueError: a size is not available, a dimension never varies, or the files do not say which toys they show.
    """
    recipe, split, seed = config.recipe or RECIPES[0], config.split or SPLITS[0], config.split_seed
    if (folder / MATLAB).exists() and not any(folder.glob(f"{TRAINING}-*")):
        first, second = _matlab_halves(folder / MATLAB, recipe)
        side = math.isqrt(first.x.shape[1] // 2)
        files = f"matlab form, {side} × {side}, as circulated, not verified"
    else:
        side, files = _SMALL, "official archives" if are_official(folder) else "unpacked, not verified"
        first, second = read_part(folder, TRAINING, recipe), read_part(folder, TESTING, recipe)
    order = np.random.default_rng(seed).permutation(len(first.x))
    if split == "random":
        border = len(first.x) * WHOLE[0] // sum(WHOLE[:2])
        train, validation = order[:border], order[border:]
    elif first.info is None:
        raise ValueError("split = 'instance' is not possible: NORB's MATLAB form does not say which toy a pair shows.")
    else:
        toys = np.unique(first.info[:, 0])
        held_out = first.info[order, 0] == toys[seed % len(toys)]
        train, validation = order[~held_out], order[held_out]
    check_sizes(config, len(train), len(validation), len(second.x))
    train, validation = train[: config.train_size], validation[: config.validation_size]
    # Neighbours in the files may be of one toy.
    test = np.sort(np.random.default_rng(seed).permutation(len(second.x))[: config.test_size])
    parts = first.x[train], first.x[validation], second.x[test]
    mean, scale = np.zeros(1, np.float32), np.full(1, 255, np.float32)
    if recipe == "printed":
        mean, scale = (moment(axis=0, dtype=np.float64).astype(np.float32) for moment in (parts[0].mean, parts[0].std))
    if scale.min() == 0:
        raise ValueError("A pixel is the same in all training pairs and cannot be standardized: take more pairs.")
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
        image_shape=(2, side, side),
        preprocessing={"recipe": recipe, "split": split, "split_seed": seed, "files": files},
        sha256=hashlib.sha256((first.sha256 + second.sha256).encode()).hexdigest(),
    )


SOURCE = Source(
    title="NORB",
    load=lambda config, root: load_norb(root / "NORB", config),
    whole=WHOLE,
    recipes=RECIPES,
    splits=SPLITS,
)
