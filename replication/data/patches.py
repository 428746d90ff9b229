"""Patches of natural images, normalized and whitened as by Coates, Lee and Ng, AISTATS 2011 (paper, section 4.1)."""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from replication.data.base import DataConfig, DataError, Dataset, Source

CONTRAST, ZCA_EPSILON = 10.0, 0.1
"""Coates et al.'s constants, for grey levels 0 … 255: added to a patch's variance, and to the eigenvalues."""
SIDE = 8
_BLOCK = 20_000
_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}


def load(config: DataConfig, root: Path) -> Dataset:
    """Random 8 × 8 colour patches of natural images; there are no labels, so every label is 0.

    Args:
        config: which patches and how many. Its ``source`` is ``cifar10`` (the 50,000 training images, through
            torchvision), ``samples`` (scikit-learn's two photographs), or the path of an ``.npz`` file with an array
            ``images`` or of a folder of image files, from the folder of data sets if it is not absolute.
        root: the folder of data sets.

    Raises:
        DataError: the images are missing, cannot be read, or are smaller than a patch.
        ValueError: not one patch is wanted.
    """
    sizes, source = (config.train_size, config.validation_size, config.test_size), config.source or "samples"
    if min(sizes) < 1:
        raise ValueError(f"{sizes} patches are not possible: name at least one of each part.")
    images = _images(source, root)
    digest = hashlib.sha256()
    for image in images:
        digest.update(image.tobytes())
    x = random_patches(images, sum(sizes), SIDE, np.random.default_rng(config.split_seed))
    for start in range(0, len(x), _BLOCK):
        x[start : start + _BLOCK] = normalize_contrast(x[start : start + _BLOCK])
    mean, matrix = zca(x[: config.train_size])
    for start in range(0, len(x), _BLOCK):
        x[start : start + _BLOCK] = (x[start : start + _BLOCK] - mean) @ matrix
    train_x, validation_x, test_x = np.split(x, np.cumsum(sizes)[:2])
    train_y, validation_y, test_y = (np.zeros(size, np.int64) for size in sizes)
    made = {"source": Path(source).name, "contrast": CONTRAST, "zca_epsilon": ZCA_EPSILON, "side": SIDE}
    return Dataset(
        *(train_x, train_y, validation_x, validation_y, test_x, test_y),
        image_shape=(SIDE, SIDE, 3),
        preprocessing={**made, "split_seed": config.split_seed},
        sha256=digest.hexdigest(),
    )


def random_patches(images: list[np.ndarray], count: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """Patches at random places of random images, larger images more often (shape: [count, side · side · 3], float32).

    Args:
        images: grey levels 0 … 255 (shape of each: [height, width, 3], uint8).
        count: how many.
        side: in pixels.
        rng: decides which.

    Raises:
        DataError: an image is smaller than a patch.
    """
    room = np.array([(image.shape[0] - side + 1, image.shape[1] - side + 1) for image in images])
    if room.min() < 1:
        raise DataError(f"An image is smaller than a patch of {side} × {side} pixels: leave it out.")
    places = room.prod(axis=1)
    which = rng.choice(len(images), count, p=places / places.sum())
    top, left = rng.integers(room[which, 0]), rng.integers(room[which, 1])
    patches = np.empty((count, side, side, 3), np.float32)
    for patch, image, row, column in zip(patches, which, top, left, strict=True):
        patch[:] = images[image][row : row + side, column : column + side]
    return patches.reshape(count, -1)


def normalize_contrast(patches: np.ndarray) -> np.ndarray:
    """``(x − mean) / √(variance + 10)`` of each patch, all three channels together (shape as given, float32)."""
    centred = patches - patches.mean(axis=1, keepdims=True)
    return centred / np.sqrt(centred.var(axis=1, ddof=1, keepdims=True) + np.float32(CONTRAST))


def zca(patches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and matrix of the whitening ``(x − mean) @ matrix``.

    The matrix is ``V (D + 0.1)^(−1/2) Vᵀ`` of the patches' covariance ``V D Vᵀ`` (shape: [inputs, inputs], symmetric).
    """
    mean = patches.mean(axis=0, dtype=np.float64)
    covariance = np.zeros((len(mean), len(mean)))
    for start in range(0, len(patches), _BLOCK):
        block = patches[start : start + _BLOCK] - mean
        covariance += block.T @ block
    values, vectors = np.linalg.eigh(covariance / max(1, len(patches) - 1))
    matrix = vectors / np.sqrt(np.maximum(values, 0) + ZCA_EPSILON) @ vectors.T
    return mean.astype(np.float32), matrix.astype(np.float32)


def _images(source: str, root: Path) -> list[np.ndarray]:
    if source == "samples":
        from sklearn.datasets import load_sample_images

        return list(load_sample_images().images)
    if source == "cifar10":
        from torchvision.datasets import CIFAR10

        try:
            return list(CIFAR10(str(root), train=True).data)
        except RuntimeError as error:
            raise DataError(
                f"CIFAR-10 is missing or damaged in {root}: unpack the official cifar-10-python.tar.gz there."
            ) from error
    return _archive(root / source) if source.endswith(".npz") else _folder(root / source)


def _archive(path: Path) -> list[np.ndarray]:
    try:
        with np.load(path) as archive:
            images: Any = archive["images"]
    except (OSError, KeyError, TypeError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path} is missing or cannot be read ({error}): name an .npz file with an array 'images'; data/README.md "
            "tells how to make that of CIFAR-10."
        ) from error
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or not len(images):
        raise DataError(f"{path} holds {images.dtype} {images.shape}: images are uint8 of [n, height, width, 3].")
    return list(images)


def _folder(path: Path) -> list[np.ndarray]:
    from PIL import Image

    files = sorted(file for file in path.glob("*") if file.suffix.lower() in _SUFFIXES) if path.is_dir() else []
    if not files:
        raise DataError(f"{path} is not a folder of images: name one, an .npz file, 'cifar10' or 'samples'.")
    images = []
    for file in files:
        try:
            with Image.open(file) as image:
                images.append(np.asarray(image.convert("RGB")))
        # Pillow tells what is no image by an OSError too.
        except OSError as error:
            raise DataError(f"{file} cannot be read as an image ({error}): leave it out.") from error
    return images


SOURCE = Source(title="natural patches", load=load, of_images=True)
