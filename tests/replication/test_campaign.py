from __future__ import annotations

import json
import math
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ksae_lib.many import OutOfTimeError
from ksae_lib.training import DivergenceError
from replication import campaign
from replication.campaign import carry_out, import_runs, pack
from replication.cli import main
from replication.plan import Experiment, Run
from replication.runs import RunStore, StoreError
from replication.study import Study
from scripts import gpu_paper as program


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
    assert messages == ["Time is over: 0 of 6 epochs of 7 runs are done."]


def test_packed_runs_come_home_whole(done: RunStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archives = pack(wanted(), done, tmp_path / "archives", 4 * 2**20)
    assert len(archives) > 1
    assert all(path.stat().st_size <= 4 * 2**20 for path in archives)
    paths = [str(path) for path in archives]
    assert main(["runs", "import", "--profile", "smoke", "--results", str(tmp_path / "results"), *paths]) == 0
    assert "runs added to" in capsys.readouterr().out
    home = RunStore(tmp_path / "results" / "smoke" / "runs")
    shown = wanted()[0].filters
    for experiment in wanted():
        for run in experiment.runs():
            metrics = home.load(run).metrics
            assert metrics.pop("weights", None) == ("float16" if run in shown else None)
            assert metrics == done.load(run).metrics
    assert home.load_model(shown[0]).weight.detach().numpy() == pytest.approx(
        done.load_model(shown[0]).weight.detach().numpy(), abs=1e-3
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
        for part in ("config.json", "metrics.json", "history.csv"):
            file.add(folder / part, f"{name}/{part}")
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


def test_a_slice_that_is_killed_between_two_runs_of_a_batch_is_gone_on_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store, kept, trained = RunStore(tmp_path), list[str](), list[int]()
    keep, train_many = campaign.keep, campaign.train_many

    def killed(run: Run, *args: Any) -> Path:
        kept.append(run.run_id)
        if len(kept) == 2:
            raise KeyboardInterrupt
        return keep(run, *args)

    def counted(x: Any, configs: Any, **settings: Any) -> Any:
        started = time.perf_counter()
        outcomes = train_many(x, configs, **settings)
        trained.append(len(configs))
        assert len(trained) == 1 or time.perf_counter() - started < 2, "the checkpoint has every epoch"
        return outcomes

    monkeypatch.setattr(campaign, "keep", killed)
    monkeypatch.setattr(campaign, "train_many", counted)
    filters = wanted()[:1]
    with pytest.raises(KeyboardInterrupt):
        carry_out(filters, store, device="cpu", until=math.inf, report=lambda line: None)
    first = kept[0]
    assert carry_out(filters, store, device="cpu", until=math.inf, report=lambda line: None) == []
    assert trained == [4, 4], "the same batch, although one run was stored"
    assert kept.count(first) == 1
    assert not list((tmp_path / ".checkpoints").iterdir())


def test_a_run_that_diverges_is_remembered_and_what_needs_it_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    train_many = campaign.train_many

    def one_diverges(x: Any, configs: Any, **settings: Any) -> Any:
        return [DivergenceError("It diverged."), *train_many(x, configs, **settings)[1:]]

    monkeypatch.setattr(campaign, "train_many", one_diverges)
    store, messages = RunStore(tmp_path), list[str]()
    rows = tuple(row for row in wanted()[2].rows if row.variant in ("k=40", "k=25"))
    features = (replace(wanted()[2], rows=rows),)
    assert carry_out(features, store, device="cpu", until=math.inf, report=messages.append) == []
    bad, good = (row.runs[0] for row in rows)
    assert bad.encoder is not None
    assert f"{bad.encoder.run_id}: It diverged." in messages
    assert store.has(good) and not store.has(bad)
    messages.clear()
    assert carry_out(features, store, device="cpu", until=math.inf, report=messages.append) == []
    assert messages == []


def test_archives_with_other_files_are_refused(tmp_path: Path) -> None:
    for name in ("../outside", "run/other.txt", "run/deep/config.json", "config.json"):
        archive = tmp_path / "odd.tar.gz"
        with tarfile.open(archive, "w:gz") as file:
            file.addfile(tarfile.TarInfo(name))
        with pytest.raises(StoreError, match="no file of a run: nothing was added"):
            import_runs(archive, RunStore(tmp_path / "home"))
    with tarfile.open(archive, "w:gz") as file:
        link = tarfile.TarInfo("run/config.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hosts"
        file.addfile(link)
    with pytest.raises(StoreError, match="no file of a run"):
        import_runs(archive, RunStore(tmp_path / "home"))


def test_without_a_gpu_the_device_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match="device = 'cuda' is not possible: torch sees no CUDA device"):
        carry_out(wanted(), RunStore(tmp_path), device="cuda", until=math.inf)


def test_the_program_says_what_is_left_and_packs_what_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--profile", "smoke", "--device", "cpu", "--only", "filters", "--results", str(tmp_path)]
    assert program.main([*words, "--minutes", "0"]) == 3
    assert capsys.readouterr().out.endswith("4 runs are left.\n")
    assert program.main([*words, "--pack", str(tmp_path / "archives")]) == 0
    assert capsys.readouterr().out.endswith("runs-0.tar.gz\nNothing is left.\n")
    assert program.main([*words, "--only", "nonsense"]) == 1
    assert "There is no experiment 'nonsense'" in capsys.readouterr().err
