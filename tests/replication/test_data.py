from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replication.data import DATASETS, data_root, load_data
from replication.data.base import DataConfig, Dataset, Source


def test_a_data_set_that_is_registered_is_loaded_and_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def load(config: DataConfig, root: Path) -> Dataset:
        x, y = np.full((3, 4), config.split_seed, np.float32), np.arange(3)
        return Dataset(x, y, x, y, x, y, image_shape=(2, 2), preprocessing={"root": root}, sha256="0")

    monkeypatch.setenv("KSAE_DATA", str(tmp_path))
    with pytest.raises(
        ValueError, match="There is no data set 'stripes': choose one of mnist, norb, toy_norb, patches"
    ):
        DataConfig(name="stripes")
    monkeypatch.setitem(DATASETS, "stripes", Source(title="Stripes", load=load, whole=(3, 2, 1)))
    config = DataConfig(name="stripes", train_size=3, validation_size=2, test_size=1, split_seed=7)
    data = load_data(config)
    assert data is load_data(config), "it stays in memory"
    assert data.preprocessing["root"] == tmp_path and data.classes == 3 and data.train_x[0, 0] == 7
    assert (config.title, config.is_whole, config.is_stand_in) == ("Stripes", True, False)
    with pytest.raises(ValueError, match="train_size = 4 is not available: choose a number from 1 to 3"):
        load_data(DataConfig(name="stripes", train_size=4, validation_size=2, test_size=1))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": "cifar"}, "There is no data set 'cifar'"),
        ({"train_size": 0}, "Sizes .0, 10000, 10000. are not possible"),
        ({"name": "patches", "source": "samples", "test_size": -1}, "name at least one example"),
        ({"name": "norb", "share": 2}, "share = 2 is not possible"),
        ({"name": "toy_norb", "share": 0}, "share = 0 is not possible"),
        ({"name": "patches"}, "source = None is not possible"),
        ({"source": "samples"}, "source = 'samples' is not possible"),
    ],
)
def test_impossible_data_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataConfig(**wrong)


@pytest.mark.parametrize(
    ("config", "title", "is_whole"),
    [
        (DataConfig(), "MNIST", True),
        (DataConfig(test_size=9_999), "MNIST", False),
        (DataConfig(name="norb", train_size=20_000, validation_size=4_300, test_size=24_300), "NORB", True),
        (DataConfig(name="toy_norb"), "toy NORB (stand-in)", False),
        (DataConfig(name="patches", source="samples", train_size=3), "natural patches", True),
    ],
)
def test_tables_learn_title_and_completeness(config: DataConfig, title: str, is_whole: bool) -> None:
    assert (config.title, config.is_whole) == (title, is_whole)
    assert config.is_stand_in == (config.name == "toy_norb")


def test_a_relative_folder_is_that_of_the_caller_even_for_programs_started_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    code = (
        "import os, subprocess, sys; import replication.data; os.chdir('elsewhere'); "
        "from replication.data.base import data_root; print(data_root()); sys.stdout.flush(); "
        "subprocess.run([sys.executable, '-c', 'from replication.data.base import data_root; print(data_root())'])"
    )
    checkout = str(Path(__file__).resolve().parents[2])
    made = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "KSAE_DATA": "mine", "PYTHONPATH": checkout},
        capture_output=True,
        text=True,
        check=True,
    )
    assert made.stdout.split() == [str(tmp_path / "mine")] * 2


@pytest.mark.parametrize("named", [None, ""])
def test_without_a_name_data_are_in_the_checkout(monkeypatch: pytest.MonkeyPatch, named: str | None) -> None:
    monkeypatch.delenv("KSAE_DATA", raising=False)
    if named is not None:
        monkeypatch.setenv("KSAE_DATA", named)
    assert (data_root() / "MNIST" / "raw").is_dir()
