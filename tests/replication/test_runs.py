from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from replication.data.base import DataConfig
from replication.judge.finetune import FinetuneConfig
from replication.judge.readout import ReadoutConfig
from replication.methods.k_sparse import KSparse
from replication.methods.rbm import RBM
from replication.runs import EncoderRun, FinetuneRun, ReadoutRun, Run, RunStore, StoreError, from_json, to_json

RUN = EncoderRun(method=KSparse(units=8, k=2, k_start=None, epochs=1))
HISTORY = pd.DataFrame({"epoch": [0], "loss": [1.5]})
PAPER = EncoderRun(method=KSparse())


def model() -> torch.nn.Module:
    return RUN.method.build(5)


def test_ids_do_not_change_from_one_version_to_the_next() -> None:
    assert PAPER.run_id == "train-k25-zeros-e5000-s0-6f165dd083"
    assert ReadoutRun(encoder=PAPER).run_id == "readout-k25-zeros-e5000-s0-922a3ac54a"


@pytest.mark.parametrize(
    "run",
    [
        PAPER,
        EncoderRun(method=KSparse(selection="batch_topk"), below=PAPER, below_alpha=3.0),
        EncoderRun(method=RBM(cd_steps=5)),
        ReadoutRun(),
        ReadoutRun(encoder=PAPER, readout=ReadoutConfig(dense_relu=True, alphas=(1, 2))),
        FinetuneRun(
            encoder=EncoderRun(method=KSparse(), below=PAPER, below_alpha=3.0), finetune=FinetuneConfig(alpha=6.0)
        ),
    ],
)
def test_a_run_survives_json(run: Run) -> None:
    assert from_json(json.loads(json.dumps(to_json(run)))) == run


def test_any_change_of_a_setting_changes_the_id() -> None:
    changes = [{"k": 24}, {"seed": 1}, {"learning_rate": 0.011}, {"k_start": None}, {"selection": "threshold"}]
    ids = {replace(PAPER, method=replace(PAPER.method, **change)).run_id for change in changes}
    assert len(ids | {PAPER.run_id}) == len(changes) + 1


def test_later_settings_are_part_of_the_id_only_where_they_say_something() -> None:
    base = ReadoutRun(encoder=PAPER)
    assert "refit" not in to_json(base)["readout"]
    assert "selection" not in to_json(PAPER)["train"]
    changed = [replace(base, readout=replace(base.readout, **{name: True})) for name in ("refit", "dense_relu")]
    assert len({run.run_id for run in (base, *changed)}) == 3


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    store, saved = RunStore(tmp_path), model()
    assert not store.has(RUN)
    store.save(RUN, {"loss": 1.5}, HISTORY, saved)
    assert sorted(path.name for path in store.folder(RUN).iterdir()) == [
        "config.json", "history.csv", "metrics.json", "weights.safetensors",
    ]  # fmt: skip
    stored = store.read(RUN.run_id)
    assert (stored.run, stored.metrics) == (RUN, {"run_id": RUN.run_id, "loss": 1.5})
    assert stored.history.equals(HISTORY)
    assert all(torch.equal(a, b) for a, b in zip(store.load_model(RUN).parameters(), saved.parameters(), strict=True))
    assert [path.name for path in tmp_path.iterdir()] == [RUN.run_id]


def test_what_one_reader_changes_no_other_sees(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.save(RUN, {"loss": 1.5}, HISTORY)
    mine = store.read(RUN.run_id)
    mine.metrics["loss"] = 0.0
    mine.history.loc[:, "loss"] = 0.0
    other = store.read(RUN.run_id)
    assert other.metrics["loss"] == 1.5
    assert other.history.equals(HISTORY)


def test_committed_evidence_is_not_written(tmp_path: Path) -> None:
    RunStore(tmp_path).save(RUN, {"loss": 1.0}, HISTORY)
    with pytest.raises(StoreError, match="only --update-evidence writes there"):
        RunStore(tmp_path, read_only=True).save(RUN, {"loss": 2.0}, HISTORY)
    assert RunStore(tmp_path).read(RUN.run_id).metrics["loss"] == 1.0


def test_a_failure_while_writing_leaves_the_earlier_run(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.save(RUN, {"loss": 1.0}, HISTORY)
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.save(RUN, {"loss": float("nan")}, HISTORY)
    assert store.read(RUN.run_id).metrics["loss"] == 1.0
    assert [path.name for path in tmp_path.iterdir()] == [RUN.run_id]


WRITER = """
import sys
from pathlib import Path
import pandas as pd
from replication.methods.k_sparse import KSparse
from replication.runs import EncoderRun, RunStore
run = EncoderRun(method=KSparse(units=8, k=2, k_start=None, epochs=1))
history = pd.DataFrame({"epoch": range(20000), "loss": 1.5})
store = RunStore(Path(sys.argv[1]))
for i in range(int(sys.argv[2])):
    store.save(run, {"loss": i}, history)
    print(i, flush=True)
"""


def test_kill_9_while_writing_leaves_a_whole_run_and_the_next_writer_cleans_up(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path), "1000000"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for delay in (0.0, 0.013, 0.029):
        process.stdout.readline()
        time.sleep(delay)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    store = RunStore(tmp_path)
    assert len(store.read(RUN.run_id).history) == 20000
    assert store.read(RUN.run_id).metrics["loss"] >= 2
    store.save(RUN, {"loss": 0}, HISTORY)
    assert [path.name for path in tmp_path.iterdir()] == [RUN.run_id]


def test_readers_see_whole_runs_while_two_writers_replace_them(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.save(RUN, {"loss": -1}, HISTORY)
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), "15"], stdout=subprocess.DEVNULL) for _ in "ab"
    ]
    seen: list[int | str] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            try:
                seen.append(len(store.read(RUN.run_id).history))
            except StoreError as error:
                seen.append(str(error))

    reader = threading.Thread(target=read)
    reader.start()
    assert [writer.wait() for writer in writers] == [0, 0]
    stop.set()
    reader.join()
    assert len(seen) > 20 and set(seen) <= {1, 20000}, "a history of one version or the other, never none"
    assert store.read(RUN.run_id).metrics["loss"] == 14
    assert [path.name for path in tmp_path.iterdir()] == [RUN.run_id]


def test_missing_broken_and_misnamed_runs_say_what_to_do(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    with pytest.raises(StoreError, match=r"is missing: 'ksae run train-k2"):
        store.read(RUN.run_id)
    with pytest.raises(StoreError, match=r"weights.safetensors is missing: 'ksae run"):
        store.load_model(RUN)
    store.save(RUN, {"loss": 1.0}, HISTORY, model())
    folder = store.folder(RUN)
    (folder / "weights.safetensors").write_bytes(b"damaged")
    with pytest.raises(StoreError, match="is damaged"):
        store.load_model(RUN)
    config = json.loads((folder / "config.json").read_text())
    config["train"]["seed"] = 7
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(StoreError, match="another run than its name says"):
        store.read(RUN.run_id)
    (folder / "metrics.json").write_text('{"loss": ')
    with pytest.raises(StoreError, match="delete it to have it carried out again"):
        store.read(RUN.run_id)
    assert not store.has(RUN), "what cannot be read is carried out again"
    store.save(RUN, {"loss": 2.0}, HISTORY)
    assert store.read(RUN.run_id).metrics["loss"] == 2.0


def test_metrics_without_an_id_are_not_a_run(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.save(RUN, {"loss": 1.0}, HISTORY)
    (store.folder(RUN) / "metrics.json").write_text("{}")
    assert not store.has(RUN)


def test_a_readout_is_not_fitted_to_the_images_that_choose_it() -> None:
    with pytest.raises(ValueError, match="train_size is at most 50000"):
        ReadoutRun(data=DataConfig(train_size=50_001))
    encoder = EncoderRun(method=KSparse(), data=DataConfig(train_size=60_000))
    assert ReadoutRun(encoder=encoder).run_id != ReadoutRun(encoder=EncoderRun(method=KSparse())).run_id
