from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numba
import pandas as pd
import pytest
import torch

from ksae_lib.io import KsaeError
from replication.data.base import DataConfig
from replication.execute import carry_out
from replication.judge.finetune import FinetuneConfig
from replication.judge.readout import ReadoutConfig
from replication.methods.k_sparse import KSparse
from replication.methods.rbm import RBM
from replication.report.check import check_row, check_run
from replication.report.fresh import stale
from replication.report.verdicts import twice
from replication.report.write import write_report
from replication.runs import MANIFEST, EncoderRun, FinetuneRun, ReadoutRun, StoreError
from replication.study import Study
from tests.executed import copy_notebooks_without_runs

DATA = DataConfig(train_size=300, validation_size=100, test_size=100)
ENCODER = EncoderRun(
    data=DATA, method=KSparse(units=40, k=5, k_start=20, epochs=6, batch_size=50, learning_rate=0.003, momentum_end=0.5)
)
READOUT = ReadoutRun(data=DATA, encoder=ENCODER, readout=ReadoutConfig(alphas=(1, 2), l2=(0.01, 0.001)))
NET = FinetuneRun(data=DATA, encoder=ENCODER, finetune=FinetuneConfig(epochs=2))
TRIALS = pd.DataFrame({"alpha": [1.0], "l2": [0.1], "validation_error": [2.0], "test_error": [0.02]})


@pytest.fixture(scope="module")
def carried_out(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Evidence with an encoder, its readout and a net that starts from it."""
    folder = tmp_path_factory.mktemp("checked") / "results"
    study = Study("quick", results=folder, evidence=folder)
    threads = torch.get_num_threads()
    # Numba's threads, once they start, set the number of torch's.
    numba.get_num_threads()
    torch.set_num_threads(2)
    carry_out([ENCODER, READOUT, NET], study, device="cpu")
    assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)
    return study


def test_what_a_gpu_trains_at_once_is_stored_and_leaves_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study("quick", results=tmp_path, evidence=tmp_path)
    runs = [replace(ENCODER, method=replace(ENCODER.method, seed=seed)) for seed in (0, 1)]

    def fit_many(methods: list[Any], xs: list[Any], checkpoints: list[Path], **_: Any) -> list[Any]:
        (shared,) = set(checkpoints)
        shared.parent.mkdir(parents=True)
        shared.touch()
        return [method.fit(x, "cpu", None) for method, x in zip(methods, xs, strict=True)]

    monkeypatch.setattr(KSparse, "used_engine", lambda self, device: "cpu" if device == "cpu" else "gpu")
    monkeypatch.setattr(KSparse, "fit_many", staticmethod(fit_many))
    assert [one.metrics["engine"] for one in carry_out(runs, study)] == ["gpu", "gpu"]
    assert len(study.store.names()) == 2 and not list((study.store.root / ".checkpoints").iterdir())


def change(study: Study, run: Any, file: str, old: str, new: str) -> None:
    path = study.store.folder(run) / file
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_the_first_epochs_are_trained_again_as_they_were_stored(carried_out: Study) -> None:
    for epochs, said in ((2, "2 of 6 epochs"), (9, "6 of 6 epochs")):
        (line,) = check_run(carried_out, ENCODER.run_id, epochs)
        assert line.startswith(said)
    path = carried_out.store.folder(ENCODER) / "history.csv"
    kept, table = path.read_text(encoding="utf-8"), pd.read_csv(path)
    code = carried_out.evidence.read(ENCODER.run_id).metrics["code_digest"]
    try:
        for name, change_by in (("loss", 1.01), ("k", 1.2), ("live_units", 0.8), ("learning_rate", 1.001)):
            table.assign(**{name: table[name] * change_by}).to_csv(path, index=False)
            with pytest.raises(KsaeError, match=rf"{name.replace('_', ' ')} of epoch 0 is .*committed is \d[\d.]*\.$"):
                list(check_run(carried_out, ENCODER.run_id, 1))
        table.assign(loss=table["loss"] * 1.01).to_csv(path, index=False)
        change(carried_out, ENCODER, "metrics.json", code, "of old")
        with pytest.raises(KsaeError, match="loss of epoch 0 is .* by other code than what is here: commit"):
            list(check_run(carried_out, ENCODER.run_id, 1))
        change(carried_out, ENCODER, "metrics.json", "of old", code)
        for cut, said in ((table.head(1), "row 2"), (table.drop(columns=["k", "loss"]), "k, loss")):
            cut.to_csv(path, index=False)
            with pytest.raises(StoreError, match=f"history.csv of {ENCODER.run_id} lacks {said}"):
                list(check_run(carried_out, ENCODER.run_id, 2))
    finally:
        path.write_text(kept, encoding="utf-8")


def test_a_readout_is_counted_and_fitted_again(carried_out: Study) -> None:
    said = list(check_run(carried_out, READOUT.run_id, 2))
    assert [line.split(":")[0] for line in said] == [
        "test error of its mistakes",
        "lowest validation error of its trials",
        "validation error of the selected trial",
        "test error of the selected trial",
        "test error fitted again from the stored weights",
    ]
    metrics, trials = carried_out.evidence.read(READOUT.run_id).metrics, "history.csv"
    wrong, alpha, best = (metrics["test_error"], metrics["selected"]["alpha"], metrics["validation_error"])
    for file, old, new, said in (
        ("metrics.json", f'"test_error": {wrong}', f'"test_error": {wrong + 1}', "test error of its mistakes is"),
        ("metrics.json", f'"alpha": {alpha}', '"alpha": 1.5', "validation error of the selected trial is nan"),
        ("metrics.json", '"test_mistakes"', '"mistakes"', "metrics.json of readout-.* lacks test_mistakes"),
        (trials, f",{best:g},{wrong:g},", f",{best:g},{wrong + 1:g},", "test error of the selected trial is"),
        (trials, "validation_error", "error", "history.csv of readout-.* lacks validation_error"),
    ):
        change(carried_out, READOUT, file, old, new)
        with pytest.raises((KsaeError, StoreError), match=said):
            list(check_run(carried_out, READOUT.run_id, 2))
        change(carried_out, READOUT, file, new, old)


def test_a_net_is_counted(carried_out: Study) -> None:
    said = [line.split(":")[0] for line in check_run(carried_out, NET.run_id, 2)]
    assert said == ["test error of its mistakes", "validation error of its last epoch"]
    error = carried_out.evidence.read(NET.run_id).metrics["validation_error"]
    kept, wrong = (f'"validation_error": {value}' for value in (error, error + 1))
    change(carried_out, NET, "metrics.json", kept, wrong)
    with pytest.raises(KsaeError, match="validation error of its last epoch is"):
        list(check_run(carried_out, NET.run_id, 2))
    change(carried_out, NET, "metrics.json", wrong, kept)


def test_what_cannot_be_checked_is_said_in_one_sentence(carried_out: Study) -> None:
    rival = EncoderRun(data=DATA, method=RBM(units=40, epochs=1))
    carried_out.store.save(rival, {}, TRIALS)
    with pytest.raises(KsaeError, match=f"{rival.run_id} is no k-sparse autoencoder on the data"):
        list(check_run(carried_out, rival.run_id, 1))
    for name in ("train-k25-zeros-e9-s0-0123456789", ".", "", "table1"):
        with pytest.raises(StoreError, match=f"No run '{name}' is committed in profile quick"):
            list(check_run(carried_out, name, 1))
    for table in (1, 9):
        with pytest.raises(KsaeError, match=f"Table {table} .* has no row 'k26' with committed runs; .*: none"):
            list(check_row(carried_out, table, "k26"))


def test_a_row_whose_key_has_a_sign_is_found() -> None:
    assert next(check_row(Study("paper"), 3, "k_sparse, α = 3")).startswith("test error of finetune-k25-")


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Evidence with three seeds of a row, and its tables."""
    study = Study("quick", results=tmp_path / "results", evidence=tmp_path / "results")
    (row,) = [one.row for one in study.rows(1) if one.row.key == "k25"]
    for seed in range(3):
        said = {"validation_error": 2.0, "test_images": 10_000, "selected": {"alpha": 1.0, "l2": 0.1}}
        mistakes = list(range(150 + seed))
        metrics = {**said, "test_error": len(mistakes) / 100, "test_mistakes": mistakes, "seed": seed}
        study.store.save(row.at(seed), metrics, TRIALS)
    write_report(study)
    copy_notebooks_without_runs(study)
    return study


def test_a_row_is_computed_again_from_mistakes_and_names_its_files(study: Study) -> None:
    said = list(check_row(study, 1, "k25"))
    assert "error_mean: 1.51, as committed" in said and "verdict: unresolved: length" in said
    files = [line for line in said if "/" in line]
    assert len(files) == 9 and all((study.evidence_root / line).exists() for line in files)
    path = study.tables / "table1.csv"
    for old, new in ((",1.51,", ",1.53,"), ("unresolved: length", "reproduced")):
        kept = path.read_text(encoding="utf-8")
        path.write_text(kept.replace(old, new), encoding="utf-8")
        with pytest.raises(KsaeError, match="committed is"):
            list(check_row(study, 1, "k25"))
        path.write_text(kept, encoding="utf-8")
    path.write_text(kept.replace("k25", "gone"), encoding="utf-8")
    with pytest.raises(KsaeError, match="error_mean is 1.51, committed is nan"):
        list(check_row(study, 1, "k25"))


def test_what_a_verdict_rests_on_is_counted_and_named_as_well(study: Study) -> None:
    rows = {one.row.key: one for one in study.rows(1)}
    mine, other = rows["k25"].committed[0], rows["k40"].row.at(0)
    longer: Any = twice(mine.run)
    for run, files in ((longer, 3), (other, 1)):
        study.store.save(run, mine.metrics | {"run_id": run.run_id}, TRIALS)
        assert sum(f"{run.run_id}/" in line for line in check_row(study, 1, "k25")) == files
        change(study, run, "metrics.json", '"test_error": 1.5', '"test_error": 1.6')
        with pytest.raises(KsaeError, match=f"test error of {run.run_id} is 1.5, committed is 1.6"):
            list(check_row(study, 1, "k25"))
        change(study, run, "metrics.json", '"test_error": 1.6', '"test_error": 1.5')


def test_a_changed_digit_of_any_run_is_found(study: Study) -> None:
    assert stale(study) == []
    (run, *_) = (study.evidence.read(name) for name in study.evidence.names())
    change(study, run.run, "metrics.json", '"validation_error": 2.0', '"validation_error": 2.0000001')
    found = [line for line in stale(study) if MANIFEST in line]
    assert len(found) == 1 and f"runs/{run.run.run_id}/metrics.json is not what runs.sha256 says" in found[0]
    change(study, run.run, "metrics.json", "2.0000001", "2.0")
    assert stale(study) == []
    (study.folder / MANIFEST).unlink()
    assert len([line for line in stale(study) if MANIFEST in line]) == 9
    write_report(study)
    shutil.rmtree(study.store.folder(run.run))
    assert len([line for line in stale(study) if f"{run.run.run_id}/" in line and MANIFEST in line]) == 3
    (study.folder / MANIFEST).write_text("<<<<<<<\n", encoding="utf-8")
    assert any("<<<<<<<" in line for line in stale(study)), "what is no manifest is told of"


def test_a_report_of_evidence_refuses_a_damaged_run(study: Study) -> None:
    before = (study.tables / "table1.md").read_text(encoding="utf-8")
    name = study.store.names()[0]
    (study.store.root / name / "history.csv").unlink()
    with pytest.raises(StoreError, match=f"{name} cannot be read"):
        write_report(study)
    assert (study.tables / "table1.md").read_text(encoding="utf-8") == before


def test_the_command_checks_runs_and_rows(study: Study, carried_out: Study, capsys: pytest.CaptureFixture[str]) -> None:
    from ksae_lib.cli import main

    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("KSAE_EVIDENCE", str(study.evidence_root))
        patched.setenv("KSAE_RESULTS", str(study.root.parent / "own"))
        for spelled in ("table1 k25", "table1 k=25"):
            assert main(["check", spelled]) == 0
            assert "verdict: unresolved: length" in capsys.readouterr().out
        for unknown in ("table1 k26", "table² k25"):
            assert main(["check", unknown]) == 1
        assert main(["check", "no-such-run"]) == 1
        stored = carried_out.evidence.read(ENCODER.run_id)
        study.store.save(ENCODER, stored.metrics, stored.history)
        assert main(["check", ENCODER.run_id, "--epochs", "1"]) == 0
        assert "1 of 6 epochs trained again" in capsys.readouterr().out
