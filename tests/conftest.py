from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

from replication.data import load_data
from replication.data.base import DataConfig, Dataset

settings.register_profile("ksae", deadline=None, derandomize=True, database=None)
settings.load_profile("ksae")


@pytest.fixture(scope="session", autouse=True)
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads the runs of whoever works here, or the folders that their shell names."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("KSAE_RESULTS", str(tmp_path_factory.mktemp("results")))
        patched.setenv("KSAE_EVIDENCE", "")
        patched.delenv("KSAE_OWNER", raising=False)
        yield


@pytest.fixture(scope="session")
def mnist() -> Dataset:
    return load_data(DataConfig(train_size=1000, validation_size=100, test_size=100))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if path is None:
        pytest.skip("there is no Chromium: 'apt-get install chromium' brings it on Debian")
    with sync_api.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path)
        yield browser
        browser.close()
