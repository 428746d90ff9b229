"""small NORB: official binary files or the MATLAB form that circulates, preprocessing and split (paper, section 4.1).

LeCun, Huang and Bottou, CVPR 2004: stereo pairs of 50 toys in 5 categories; other toys in training and test set.
"""

import gzip
import hashlib
import math
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate

from ksae_lib.io import atomic_path
from replication.data.base import DataConfig, DataError, Dataset, Source, read_published

TRAINING = "smallnorb-5x46789x9x18x6x2x96x96-training"
TESTING = "smallnorb-5x01235x9x18x6x2x96x96-testing"
MATLAB = "smallnorb-matlab.mat"
"""The MATLAB form's name in our folder."""
TOYS = {TRAINING: (4, 6, 7, 8, 9), TESTING: (0, 1, 2, 3, 5)}
"""Instances of each category in the two halves."""
WHOLE = 20_000, 4_300, 24_300
SIDE = 96
_INNER, _SMALL = 64, 32
_BLOCK = 300
_TIMEOUT_SECONDS = 30.0

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


def fetch(folder: Path, bases: Iterable[str] = BASES) -> None:
    """Bring the official files here from addresses that are tried in this order for each file; those here stay.

    A file takes its name when its SHA-256 is right and not before.

    Raises:
        DataError: no address gave a file, or what it gave is not the published one.
        OSError: the disk is full or must not be written.
    """
    import pooch

    # Otherwise a server may declare the archive a compressed page, and it arrives unpacked.
    as_it_is = {"Accept-Encoding": "identity"}
    http = pooch.HTTPDownloader(sys.stderr.isatty(), 1 << 20, timeout=_TIMEOUT_SECONDS, headers=as_it_is)
    for name, sha256 in OFFICIAL.items():
        reasons = []
        for base in bases:
            try:
                pooch.retrieve(f"{base.rstrip('/')}/{name}", sha256, name, folder, downloader=http)
                break
            except (OSError, ValueError) as error:
                # Errors of this machine have a number; those of the connection, though OSErrors too, have none.
                if isinstance(error, OSError) and error.errno:
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
    if others and not (source / f"{TRAINING}-dat.mat.gz").exists():
        _read_matlab(others[0])
        with atomic_path(folder / MATLAB) as copy:
            shutil.copyfile(others[0], copy)
        return
    for name, sha256 in OFFICIAL.items():
        content = read_published(source / name, "name a folder with the official files or MATLAB's", sha256=sha256)
        with atomic_path(folder / name) as copy:
            copy.write_bytes(content)


def read_matrix(path: Path, dtype: str, row: tuple[int, ...]) -> tuple[np.ndarray, str]:
    """A matrix file of type ``u1`` or ``<i4`` (shape: [pairs, *row]), and the SHA-256 of its unpacked bytes.

    The official archive, ``.gz`` beside the path of the unpacked file, is preferred and verified.

    Raises:
        DataError: the file is missing, not the published one, or of another size or type.
    """
    archive, remedy = path.with_suffix(".mat.gz"), "run 'ksae data get norb'"
    if path.exists() and not archive.exists():
        content = read_published(path, remedy)
    else:
        content = gzip.decompress(read_published(archive, remedy, sha256=OFFICIAL[archive.name]))
    # There are always at least three sizes, of which those past the number of dimensions mean nothing.
    start = 4 * (2 + max(3, 1 + len(row)))
    pairs, rest = divmod(len(content) - start, math.prod(row) * np.dtype(dtype).itemsize)
    header = np.array([_MAGIC[dtype], 1 + len(row), pairs, *row], "<i4").tobytes()
    if pairs < 1 or rest or not content.startswith(header):
        raise DataError(f"{path} is damaged or not NORB's matrix of {row} for each pair: get the official file again.")
    return np.frombuffer(content, dtype, offset=start).reshape(pairs, *row), hashlib.sha256(content).hexdigest()


def write_matrix(path: Path, matrix: np.ndarray) -> None:
    """Write a matrix file, whole or not at all; entries are of type ``u1`` or ``<i4``."""
    sizes = (*matrix.shape, *(1,) * (3 - matrix.ndim))
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(np.array([_MAGIC[matrix.dtype.str.lstrip("|")], matrix.ndim, *sizes], "<i4").tobytes())
        matrix.tofile(file)


def small_images(pairs: np.ndarray) -> np.ndarray:
    """Inner 64 × 64 pixels of each channel, resized to 32 × 32, both channels in one row (section 4.1).

    The resize is bicubic with antialiasing (the kernel is widened by the factor of two; the paper does not say), as
    Pillow does it but without rounding to whole grey levels (shape: [pairs, 2, 96, 96] to [pairs, 2048], float32).
    """
    edge = (SIDE - _INNER) // 2
    small = np.empty((len(pairs), 2 * _SMALL**2), np.float32)
    for start in range(0, len(pairs), _BLOCK):
        inner = pairs[start : start + _BLOCK, :, edge:-edge, edge:-edge].astype(np.float32)
        resized = interpolate(torch.from_numpy(inner), size=(_SMALL, _SMALL), mode="bicubic", antialias=True)
        small[start : start + _BLOCK] = resized.flatten(1).numpy()
    return small


def read_half(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray, str]:
    """Small images, categories and the files' digest of one half, ``TRAINING`` or ``TESTING``.

    Raises:
        DataError: a file is missing, damaged, or not of this half of NORB.
    """
    y, of_y = read_matrix(folder / f"{name}-cat.mat", "<i4", ())
    info, of_info = read_matrix(folder / f"{name}-info.mat", "<i4", (4,))
    pairs, of_pairs = read_matrix(folder / f"{name}-dat.mat", "u1", (2, SIDE, SIDE))
    for kind, said, possible in (("cat", y, range(5)), ("info", info[:, 0], TOYS[name])):
        if len(said) != len(pairs) or not np.isin(said, possible).all():
            raise DataError(f"{name}-{kind}.mat in {folder} is not of these images: get the official files again.")
    sha256 = hashlib.sha256(f"{of_pairs}{of_y}{of_info}".encode()).hexdigest()
    return small_images(pairs), y.astype(np.int64), sha256


def _read_matlab(path: Path) -> list[tuple[np.ndarray, np.ndarray, str]]:
    """Both halves of the MATLAB form: square images of any size as columns or rows; smaller than NORB's they stay."""
    from scipy.io import loadmat

    halves = []
    try:
        held, sha256 = loadmat(path, appendmat=False), hashlib.sha256(path.read_bytes()).hexdigest()
        for half in ("train", "test"):
            kinds, y = np.unique(held[f"{half}_cat_s"].ravel(), return_inverse=True)
            if not np.array_equal(kinds, np.unique(held["train_cat_s"])):
                raise ValueError("its halves are of other categories")
            views = [held[f"{half}_{camera}_s"] for camera in ("left", "right")]
            columns = [view if view.shape[-1] == len(y) else view.T for view in views]
            side = math.isqrt(columns[0].size // len(y))
            # MATLAB runs through an image column by column.
            pairs = np.stack([c.reshape(side, side, len(y), order="F").transpose(2, 0, 1) for c in columns], axis=1)
            x = small_images(pairs) if side == SIDE else pairs.reshape(len(y), -1).astype(np.float32)
            halves.append((x, y.astype(np.int64), sha256))
    # A damaged file leads SciPy's reader into errors of any kind.
    except Exception as error:
        raise DataError(
            f"{path} is not NORB's MATLAB form ({error}): it holds train_left_s, train_right_s, train_cat_s and the "
            "same of test, saved with MATLAB's -v7."
        ) from error
    return halves


def load_norb(folder: Path, config: DataConfig) -> Dataset:
    """NORB's two halves, the first separated at random into training and validation pairs, 20,000 to 4,300.

    Each dimension is standardized by the training pairs (section 4.1). Every toy is in both parts of the first half and
    none of them in the test set, so the validation error says little about the toys of the test set.

    Raises:
        DataError: a file is missing or damaged.
        ValueError: a dimension never varies.
    """
    if (folder / MATLAB).exists() and not any(folder.glob(f"{TRAINING}-*")):
        halves, files = _read_matlab(folder / MATLAB), "matlab form, as circulated, not verified"
    else:
        is_official = all((folder / name).exists() for name in OFFICIAL)
        halves = [read_half(folder, name) for name in TOYS]
        files = "official archives" if is_official else "unpacked, not verified"
    (first_x, first_y, first_sha256), (second_x, second_y, second_sha256) = halves
    order = np.random.default_rng(config.split_seed).permutation(len(first_x))
    border, side = len(first_x) * WHOLE[0] // sum(WHOLE[:2]), math.isqrt(first_x.shape[1] // 2)
    train, validation = order[:border][: config.train_size], order[border:][: config.validation_size]
    # Neighbours in the files may be of one toy.
    test = np.sort(np.random.default_rng(config.split_seed).permutation(len(second_x))[: config.test_size])
    parts = first_x[train], first_x[validation], second_x[test]
    mean, scale = (moment(axis=0, dtype=np.float64).astype(np.float32) for moment in (parts[0].mean, parts[0].std))
    if scale.min() == 0:
        raise ValueError("A pixel is the same in all training pairs and cannot be standardized: take more pairs.")
    pixels = f"{side} × {side}, standardized by the training pairs"
    for x in parts:
        x -= mean
        x /= scale
    return Dataset(
        train_x=parts[0],
        train_y=first_y[train],
        validation_x=parts[1],
        validation_y=first_y[validation],
        test_x=parts[2],
        test_y=second_y[test],
        image_shape=(2, side, side),
        preprocessing={"pixels": pixels, "split_seed": config.split_seed, "files": files},
        sha256=hashlib.sha256((first_sha256 + second_sha256).encode()).hexdigest(),
    )


SOURCE = Source(title="NORB", load=lambda config, root: load_norb(root / "NORB", config), whole=WHOLE)
