"""Data sets: arrays, splits, preprocessing and checksums."""

from replication.data.base import DataError, Dataset
from replication.data.mnist import load_mnist

__all__ = ["DataError", "Dataset", "load_mnist"]
