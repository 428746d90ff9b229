from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from ksae_lib import KSparseAutoencoder, TrainConfig
from replication.plan import TrainRun
from replication.runs import RunStore, StoreError

RUN = TrainRun(train=TrainConfig(units=8, k=2, k_start=None, epochs=1))
HISTORY = pd.DataFrame({"epoch": [0], "loss": [1.5]})


def model() -> KSparseAutoencoder:
    return KSparseAutoencoder(5, 8, 2)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    store, saved = RunStore(tmp_path), model()
    assert not store.has(RUN)
    folder = store.save(RUN, {"loss": 1.5}, HISTORY, saved)
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json", "history.csv", "metrics.json", "weights.safetensors",
    ]  # fmt: skip
    stored = store.load(RUN)
    assert (stored.run, stored.metrics) == (RUN, {"loss": 1.5})
    assert stored.history.equals(HISTORY)
    assert all(torch.equal(a, b) for a, b in zip(store.load_model(RUN).parameters(), saved.parameters(), strict=True))
    assert [path.name for path in tmp_path.iterdir()] == [RUN.run_id]


def test_a_run_is_never_replaced_unasked(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.save(RUN, {"loss": 1.0}, HISTORY)
    with pytest.raises(StoreError, match="replaced only with --force"):
        store.save(RUN, {"loss": 2.0}, HISTORY)
    assert store.load(RUN).metrics == {"loss": 1.0}
    store.save(RUN, {"loss": 2.0}, HISTORY, replace=True)
    assert store.load(RUN).metrics == {"loss": 2.0}
    assert [path.name for path in tmp_path.iterdir()] == [RUN.run_id]


def test_a_failure_while_writing_leaves_the_earlier_run(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.save(RUN, {"loss": 1.0}, HISTORY)
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.save(RUN, {"loss": float("nan")}, HISTORY, replace=True)
    assert store.load(RUN).metrics == {"loss": 1.0}
    assert [path.name for path in tmp_path.iterdir()] == [RUN.run_id]


def test_a_replacement_killed_between_its_renames_is_completed(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    folder = store.save(RUN, {"loss": 1.0}, HISTORY)
    folder.rename(folder.with_name(f".replaced-{folder.name}"))
    assert store.load(RUN).metrics == {"loss": 1.0}
    assert [path.name for path in tmp_path.iterdir()] == [RUN.run_id]


WRITER = """
import sys
from pathlib import Path
import pandas as pd
from ksae_lib import TrainConfig
from replication.plan import TrainRun
from replication.runs import RunStore
run = TrainRun(train=TrainConfig(units=8, k=2, k_start=None, epochs=1))
history = pd.DataFrame({"epoch": range(20000), "loss": 1.5})
store = RunStore(Path(sys.argv[1]))
for i in range(10**9):
    store.save(run, {"loss": i}, history, replace=True)
    print(i, flush=True)
"""


def test_kill_9_while_writing_leaves_a_whole_run(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for delay in (0.0, 0.013, 0.029):
        process.stdout.readline()
        time.sleep(delay)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    stored = RunStore(tmp_path).load(RUN)
    assert len(stored.history) == 20000
    assert stored.metrics["loss"] >= 2


def test_missing_broken_and_misnamed_runs_say_what_to_do(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    with pytest.raises(StoreError, match=r"is missing: 'ksae reproduce' trains it"):
        store.load(RUN)
    with pytest.raises(StoreError, match=r"weights.safetensors is missing: 'ksae run"):
        store.load_model(RUN)
    folder = store.save(RUN, {"loss": 1.0}, HISTORY)
    config = json.loads((folder / "config.json").read_text())
    config["train"]["seed"] = 7
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(StoreError, match="another run than its name says"):
        store.load(RUN)
    (folder / "metrics.json").write_text('{"loss": ')
    with pytest.raises(StoreError, match="delete it to have it trained again"):
        store.load(RUN)
