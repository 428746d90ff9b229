"""Data sets by name: a new one is a module here with a ``SOURCE``, and its name below."""

from functools import lru_cache
from importlib import import_module

from replication.data.base import DATASETS, DataConfig, Dataset, data_root

__all__ = ["DATASETS", "data_root", "load_data"]

# By name: a run's code is then that of its own data set, and a change of another leaves the run up to date.
for _name in ("mnist", "norb", "toy_norb", "patches"):
    DATASETS[_name] = import_module(f"replication.data.{_name}").SOURCE

# Before anybody changes the working directory.
data_root()


@lru_cache(maxsize=2)
def load_data(config: DataConfig) -> Dataset:
    """The data set that a config names; the last two stay in memory.

    Raises:
        DataError: a file is missing or altered.
        ValueError: a size is not available.
    """
    data = DATASETS[config.name].load(config, data_root())
    for part, size in zip(("train", "validation", "test"), config.sizes, strict=True):
        if (there := len(getattr(data, f"{part}_x"))) < size:
            raise ValueError(f"{part}_size = {size} is not available: choose a number from 1 to {there}.")
    return data
