from __future__ import annotations

import json
import math
import tarfile
import time
from pathlib import Path

import pytest

from ksae_lib import campaign
from ksae_lib.campaign import carry_out, import_runs, pack
from ksae_lib.cli import main
from ksae_lib.engines.many import OutOfTimeError
from ksae_lib.plan import Experiment
from ksae_lib.runs import RunStore, StoreError
from ksae_lib.study import Study


def wanted() -> tuple[Experiment, ...]:
    """One experiment with every kind of run: encoders and encoders on those, readouts, fine-tuned nets."""
    plan = Study("smoke").plan
    return (plan.experiment("filters"), plan.experiment("finetuning"), plan.experiment("features"))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    store = RunStore(tmp_path_factory.mktemp("campaign") / "runs")
    messages: list[str] = []
    left = carry_out(wanted(), store, device="cpu", until=math.inf, report=messages.append)
    assert not left, messages
    return store


def test_every_run_of_a_profile_is_carried_out_and_about_as_good_as_one_by_one(done: RunStore) -> None:
    committed = Study("smoke").store
    for experiment in wanted():
        for run in experiment.runs():
            ours = done.load(run)
            assert ours.metrics["run_id"] == run.run_id
            if "test_error" in ours.metrics and committed.has(run):
                assert ours.metrics["test_error"] == pytest.approx(committed.load(run).metrics["test_error"], abs=3)
            if run.run_id.startswith("train-k"):
                assert ours.metrics["trained_at_once"] > 1


def test_what_is_done_is_not_done_again_and_time_is_kept(done: RunStore, tmp_path: Path) -> None:
    assert carry_out(wanted(), done, device="cpu", until=-math.inf, report=pytest.fail) == []
    messages: list[str] = []
    left = carry_out(wanted(), RunStore(tmp_path), device="cpu", until=time.monotonic() - 1, report=messages.append)
    assert len(left) == len({run.run_id for experiment in wanted() for run in experiment.runs()})
    assert messages == ["Time is over: 0 of 6 epochs of 8 runs are done."] or messages[0].startswith("Time is over")


def test_packed_runs_come_home_whole(done: RunStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archives = pack(wanted(), done, tmp_path / "archives", 4 * 2**20)
    assert len(archives) > 1
    assert all(path.stat().st_size <= 4 * 2**20 for path in archives)
    paths = [str(path) for path in archives]
    assert main(["runs", "import", "--profile", "smoke", "--results", str(tmp_path / "results"), *paths]) == 0
    assert "runs added to" in capsys.readouterr().out
    home = RunStore(tmp_path / "results" / "smoke" / "runs")
    for experiment in wanted():
        for run in experiment.runs():
            assert home.load(run).metrics == done.load(run).metrics
    shown = wanted()[0].filters[0]
    assert home.load_model(shown).weight.detach().numpy() == pytest.approx(
        done.load_model(shown).weight.detach().numpy(), abs=1e-3
    )
    assert import_runs(archives[0], home) == [], "what is there is passed over"
    assert import_runs(archives[0], home, replace=True)


def test_archives_of_something_else_are_refused_and_nothing_is_added(done: RunStore, tmp_path: Path) -> None:
    home = RunStore(tmp_path / "home")
    broken = tmp_path / "broken.tar.gz"
    broken.write_bytes(b"no archive")
    with pytest.raises(StoreError, match="cannot be read as an archive of runs"):
        import_runs(broken, home)
    whole = pack(wanted()[:1], done, tmp_path / "one", 2**30)[0]
    broken.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(StoreError, match="cannot be read"):
        import_runs(broken, home)
    name = wanted()[0].filters[0].run_id
    folder = tmp_path / "altered" / name
    folder.mkdir(parents=True)
    for file in done.folder(wanted()[0].filters[0]).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config["train"]["seed"] = 7
    (folder / "config.json").write_text(json.dumps(config))
    altered = tmp_path / "altered.tar.gz"
    with tarfile.open(altered, "w:gz") as file:
        file.add(folder, name)
    with pytest.raises(StoreError, match="another run than its name says"):
        import_runs(altered, home)
    assert not any(path for path in home.root.iterdir() if not path.name.startswith("."))


def test_runs_too_large_for_an_archive_are_named(done: RunStore, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="allow larger ones"):
        pack(wanted(), done, tmp_path, 1000)


def test_time_that_ends_between_runs_ends_the_slice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def late(*args: object, **kwargs: object) -> None:
        raise OutOfTimeError("2 of 6 epochs of 8 runs are done.")

    monkeypatch.setattr(campaign, "train_many", late)
    messages: list[str] = []
    assert carry_out(wanted(), RunStore(tmp_path), device="cpu", until=math.inf, report=messages.append)
    assert messages == ["Time is over: 2 of 6 epochs of 8 runs are done."]
