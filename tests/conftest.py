from __future__ import annotations

import pytest
from hypothesis import settings

from replication.data import load_data
from replication.data.base import DataConfig, Dataset

settings.register_profile("ksae", deadline=None, derandomize=True, database=None)
settings.load_profile("ksae")


@pytest.fixture(scope="session")
def mnist() -> Dataset:
    return load_data(DataConfig(train_size=1000, validation_size=100, test_size=100))
