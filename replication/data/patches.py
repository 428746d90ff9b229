"""Patches of natural images, normalized and whitened as by Coates, Lee and Ng, AISTATS 2011 (paper, section 4.1)."""

import hashlib
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from replication.data.base import DataConfig, DataError, Dataset, Source

CONTRAST, ZCA_EPSILON = 10.0, 0.1
"""Coates et al.'s constants, for grey levels 0 … 255: added to a patch's variance, and to the eigenvalues."""
SIDE = 8
_BLOCK = 20_000


def load(config: DataConfig, root: Path) -> Dataset:
    """Random 8 × 8 patches of natural images; there are no labels, so every label is 0.

    New patches are made alike by ``(normalize_contrast(patches) − mean) @ matrix`` of the data's ``whitening``.

    Args:
        config: which patches and how many. Its ``source`` is ``cifar10`` (the 50,000 training images, through
            torchvision), ``samples`` (scikit-learn's two photographs), or the path of an ``.npz`` file with an array
            ``images`` (shape: [images, height, width, 3] or grey [images, height, width], uint8), from the folder of
            data sets if it is not absolute.
        root: the folder of data sets.

    Raises:
        DataError: the images are missing, cannot be read, or are smaller than a patch.
    """
    assert config.source is not None
    images = _images(config.source, root)
    x = random_patches(images, sum(config.sizes), np.random.default_rng(config.split_seed))
    for block in _blocks(x):
        block[:] = normalize_contrast(block)
    mean, matrix = zca(x[: config.train_size])
    for block in _blocks(x):
        block[:] = (block - mean) @ matrix
    train_x, validation_x, test_x = np.split(x, np.cumsum(config.sizes)[:2])
    train_y, validation_y, test_y = (np.zeros(size, np.int64) for size in config.sizes)
    made = {"source": Path(config.source).name, "contrast": CONTRAST, "zca_epsilon": ZCA_EPSILON, "side": SIDE}
    return Dataset(
        *(train_x, train_y, validation_x, validation_y, test_x, test_y),
        image_shape=(SIDE, SIDE, *images.shape[3:]),
        preprocessing={**made, "split_seed": config.split_seed},
        sha256=hashlib.sha256(images.tobytes()).hexdigest(),
        whitening=(mean, matrix),
    )


def random_patches(images: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Patches at random places of random images (shape: [count, 192], grey [count, 64], float32).

    Raises:
        DataError: the images are smaller than a patch.
    """
    height, width = images.shape[1] - SIDE + 1, images.shape[2] - SIDE + 1
    if min(height, width) < 1:
        raise DataError(f"The images are smaller than a patch of {SIDE} × {SIDE} pixels: take larger ones.")
    # Probabilities and limits of their own for each patch: others would change the patches of committed runs.
    which = rng.choice(len(images), count, p=np.full(len(images), 1 / len(images)))
    top, left = rng.integers(np.full(count, height)), rng.integers(np.full(count, width))
    windows = np.lib.stride_tricks.sliding_window_view(images, (SIDE, SIDE), axis=(1, 2))
    patches = windows[which, top, left]
    # Windows put the colours before the pixels.
    patches = patches.transpose(0, 2, 3, 1) if patches.ndim == 4 else patches
    return patches.reshape(count, -1).astype(np.float32)


def normalize_contrast(patches: np.ndarray) -> np.ndarray:
    """``(x − mean) / √(variance + 10)`` of each patch, all channels together (shape as given, float32)."""
    centred = patches - patches.mean(axis=1, keepdims=True)
    return centred / np.sqrt(centred.var(axis=1, ddof=1, keepdims=True) + np.float32(CONTRAST))


def zca(patches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and matrix of the whitening ``(x − mean) @ matrix``.

    The matrix is ``V (D + 0.1)^(−1/2) Vᵀ`` of the patches' covariance ``V D Vᵀ`` (shape: [inputs, inputs], symmetric).
    """
    mean = patches.mean(axis=0, dtype=np.float64)
    covariance = np.zeros((len(mean), len(mean)))
    for block in _blocks(patches):
        centred = block - mean
        covariance += centred.T @ centred
    values, vectors = np.linalg.eigh(covariance / max(1, len(patches) - 1))
    matrix = vectors / np.sqrt(np.maximum(values, 0) + ZCA_EPSILON) @ vectors.T
    return mean.astype(np.float32), matrix.astype(np.float32)


def _blocks(x: np.ndarray) -> Iterator[np.ndarray]:
    yield from (x[start : start + _BLOCK] for start in range(0, len(x), _BLOCK))


def _images(source: str, root: Path) -> np.ndarray:
    images: Any
    try:
        if source == "samples":
            from sklearn.datasets import load_sample_images

            images = np.array(load_sample_images().images)
        elif source == "cifar10":
            from torchvision.datasets import CIFAR10

            images = CIFAR10(str(root), train=True).data
        else:
            with np.load(root / source) as archive:
                images = archive["images"]
        if images.shape[3:] not in ((), (3,)) or images.ndim < 3 or images.dtype != np.uint8 or not len(images):
            raise ValueError(f"its images are {images.dtype} {images.shape}, not uint8 [n, height, width(, 3)]")
    except (OSError, KeyError, TypeError, ValueError, EOFError, RuntimeError, BadZipFile, zlib.error) as error:
        raise DataError(
            f"{source} is missing in {root} or cannot be read ({error}): name an .npz file with an array 'images', "
            "'cifar10' or 'samples'; data/README.md tells how to get CIFAR-10."
        ) from error
    return images


SOURCE = Source(title="natural patches", load=load)
