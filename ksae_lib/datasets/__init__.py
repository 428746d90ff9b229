"""Data sets: arrays, splits, preprocessing and checksums."""

from ksae_lib.datasets.base import DataError, Dataset
from ksae_lib.datasets.mnist import load_mnist

__all__ = ["DataError", "Dataset", "load_mnist"]
