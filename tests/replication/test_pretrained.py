import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ksae_lib.estimator import PRETRAINED
from ksae_lib.io import load_tensors
from replication.data import load_data
from replication.data.base import DataConfig
from replication.experiments.profiles import settings
from replication.pretrained import write

NAMES = ["mnist-k10", "mnist-k25", "mnist-k40", "mnist-k70", "patches-k50"]


def data_of(name: str) -> DataConfig:
    known = settings("quick", name.split("-")[0])
    assert known is not None
    return known.data


def test_files_and_cards_are_what_the_committed_runs_give(tmp_path: Path) -> None:
    assert sorted(write(tmp_path)) == NAMES
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == sorted(path.name for path in PRETRAINED.iterdir())
    for name in NAMES:
        card = f"{name}.json"
        assert (tmp_path / card).read_text() == (PRETRAINED / card).read_text()
        (made, about), (here, said) = (
            load_tensors(folder / f"{name}.safetensors") for folder in (tmp_path, PRETRAINED)
        )
        assert about == said
        assert made.keys() == here.keys()
        assert all(torch.equal(made[part], here[part]) for part in made if part != "threshold")


def test_a_fresh_process_finds_the_fvu_and_live_units_of_the_cards() -> None:
    code = f"""
from ksae_lib import load_pretrained
from replication.data import load_data
from replication.data.base import DataConfig
for name, config in {[(name, data_of(name)) for name in NAMES]!r}:
    coder = load_pretrained(name)
    print(1 - coder.score(load_data(config).test_x), coder.live_units_)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600)
    for name, line in zip(NAMES, done.stdout.splitlines(), strict=True):
        fvu, live = map(float, line.split())
        card = json.loads((PRETRAINED / f"{name}.json").read_text())
        assert fvu == pytest.approx(card["test_fvu"], abs=1e-4)
        assert live == card["live_units"]


def test_the_data_of_the_cards_are_the_data_here() -> None:
    for name in NAMES:
        card = json.loads((PRETRAINED / f"{name}.json").read_text())
        assert card["data_sha256"] == load_data(data_of(name)).sha256
