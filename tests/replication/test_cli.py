from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest

from ksae_lib.cli import main
from ksae_lib.loop import DivergenceError
from replication.study import Study

SMALLEST = "train-k25-centered-e6-s0"


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """Profile smoke with a store of the test's own and no evidence."""
    monkeypatch.setenv("KSAE_EVIDENCE", str(tmp_path / "evidence"))
    monkeypatch.setenv("KSAE_RESULTS", str(tmp_path / "mine"))
    return Study("smoke")


def run_id(prefix: str, study: Study) -> str:
    return next(r.run_id for e in study.experiments for r in e.runs() if r.run_id.startswith(prefix))


def test_run_carries_out_stores_and_then_loads(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    name = run_id(SMALLEST, study)
    assert main(["run", name, "--profile", "smoke"]) == 0
    first = capsys.readouterr().out
    assert first.startswith(f"{name}: loss ")
    stored = study.store.read(name)
    metrics = stored.metrics
    assert (metrics["seed"], metrics["engine"]) == (0, "cpu")
    assert stored.is_current
    assert len(metrics["data_sha256"]) == 64
    assert metrics["wall_seconds"] > 0
    assert metrics["peak_memory_mib"] > 50
    assert metrics["hardware"]["cores"] == os.cpu_count()
    assert {"torch", "numba", "numpy", "scikit-learn"} <= set(metrics["versions"])
    assert not study.evidence.root.exists(), "a reader's run does not touch the evidence"
    done = finished(study)
    assert main(["run", name, "--profile", "smoke"]) == 0
    assert capsys.readouterr().out == first and finished(study) == done, "a stored run is loaded, not carried out"
    assert main(["run", name, "--profile", "smoke", "--update-evidence"]) == 0
    assert Study("smoke").evidence.has(study.run(name))
    assert main(["run", "--list", "--profile", "smoke"]) == 0
    assert f"{name:48} yours" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "again"), [([], True), (["--update-evidence"], False), (["--update-evidence", "--force"], True)]
)
def test_a_run_of_other_code_is_carried_out_again_but_evidence_only_by_force(
    study: Study, options: list[str], again: bool
) -> None:
    name, store = run_id(SMALLEST, study), study.evidence if options else study.store
    assert main(["run", name, "--profile", "smoke", *options[:1]]) == 0
    path = store.root / name / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"code_digest": "of old"}))
    assert main(["run", name, "--profile", "smoke", *options]) == 0
    assert store.read(name).is_current is again


def test_a_damaged_checkpoint_stops_a_run_unless_it_is_left_alone(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    name = run_id(SMALLEST, study)
    checkpoint = study.store.checkpoint([study.run(name)])
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_text("damaged")
    assert main(["run", name, "--profile", "smoke"]) == 1
    assert checkpoint.name in capsys.readouterr().err
    assert main(["run", name, "--profile", "smoke", "--no-resume"]) == 0


def test_a_readout_trains_its_encoder_and_reports_its_error(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    name = run_id("readout-k10-centered", study)
    assert main(["run", name, "--profile", "smoke"]) == 0
    metrics = study.store.read(name).metrics
    assert f"test error {metrics['test_error']:.2f}%" in capsys.readouterr().out
    assert metrics["code_mode"] == "alpha_k"
    assert metrics["encoder_run"] == run_id("train-k10-centered", study)
    assert len(metrics["test_mistakes"]) == round(metrics["test_error"] * metrics["test_images"] / 100)
    assert metrics["test_error"] < 30


def test_a_committed_encoder_stays_as_it_is_when_a_new_readout_needs_its_weights(study: Study) -> None:
    readout = run_id("readout-k10-centered", study)
    encoder = study.evidence.folder(study.run(run_id("train-k10-centered", study)))
    assert main(["run", encoder.name, "--profile", "smoke", "--update-evidence"]) == 0
    (encoder / "weights.safetensors").unlink()
    before = {path.name: path.read_bytes() for path in encoder.iterdir()}
    assert main(["run", readout, "--profile", "smoke", "--update-evidence"]) == 0
    assert {path.name: path.read_bytes() for path in encoder.iterdir()} == before
    assert Study("smoke").evidence.has(study.run(readout))


def test_several_runs_are_one_batch_and_a_diverged_one_leaves_the_others(
    study: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [run_id("train-k10-centered", study), run_id("train-k40-centered", study)]
    method = type(study.run(names[0]).method)  # type: ignore[union-attr]
    original, files = method.fit_many, [study.store.checkpoint([study.run(name)]) for name in names]

    def fit_many(methods: list[object], *arguments: object, **how: object) -> list[object]:
        assert len(methods) == 2, "alike runs come together"
        outcomes = original(methods, *arguments, **how)
        for file in files:
            file.touch()
        return [DivergenceError("Training diverged: lower the learning rate."), *outcomes[1:]]

    monkeypatch.setattr(method, "fit_many", staticmethod(fit_many))
    assert main(["run", *names, "--profile", "smoke"]) == 1
    assert f"{names[0]}: Training diverged" in capsys.readouterr().err
    assert [study.store.has(study.run(name)) for name in names] == [False, True]
    assert [file.exists() for file in files] == [True, False], "the sentence of a diverged run can name it"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nothing", "--profile", "smoke"], "There is no run 'nothing'"),
        (["run", "--profile", "tiny"], "choose one of smoke, quick, paper"),
        (["reproduce", "--profile", "smoke", "--only", "figures"], "There is no experiment 'figures'"),
        (["reproduce", "--profile", "smoke", "--seeds", "0"], "seeds = 0 is not possible"),
        (["notebook", "09_nothing", "--profile", "smoke"], "There is no experiment '09_nothing'"),
        (["notebook", "beyond", "--profile", "quick"], "has no notebook of its own: table1"),
        (["testbed", "--method", "a:fit", "--update-evidence"], "is not evidence"),
        (["data", "verify", "--root", "nowhere"], "train-images-idx3-ubyte.gz is missing"),
        (["data", "get", "norb", "--from", "nowhere"], "nowhere"),
        (["report", "--check", "--profile", "search,smoke"], "smoke/tables/table1.csv is missing or out of date"),
    ],
)
def test_a_users_mistake_ends_in_one_sentence_and_status_1(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    where = ["--root", str(tmp_path)] if arguments[:2] == ["data", "get"] else []
    assert main([*arguments, *where]) == 1
    error = capsys.readouterr().err
    assert "ksae: " in error
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize("jobs", ["0", "-1", "two"])
def test_impossible_numbers_of_jobs_are_wrong_usage(jobs: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["reproduce", "--profile", "smoke", "--jobs", jobs])
    assert stopped.value.code == 2
    assert f"{jobs!r} is not possible: choose a whole number of at least 1" in capsys.readouterr().err


def test_reproduce_shows_the_tables_of_the_data_that_was_asked_for(
    study: Study, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = next(row for row in study.experiment("table2").rows if row.key == "pixels").at(0)
    metrics = {"test_error": 20.0, "validation_error": 20.0, "test_images": 10, "test_mistakes": [0, 1], "selected": {}}
    study.store.save(pixels, metrics, pd.DataFrame({"test_error": [20.0]}))
    monkeypatch.setattr("replication.workflow.run_workflow", lambda *_, **__: None)
    for name, said in (("table2", "Table 2, NORB,"), ("toy_norb_table2", "Table 2, toy NORB (stand-in),")):
        assert main(["reproduce", "--profile", "smoke", "--only", name]) == 0
        assert said in capsys.readouterr().out


def test_help_of_every_command_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("reproduce", "run", "notebook", "testbed", "report", "check", "search"):
        with pytest.raises(SystemExit) as stopped:
            main([command, "--help"])
        assert stopped.value.code == 0
        assert f"examples:\n  ksae {command}" in capsys.readouterr().out


def test_the_testbed_scores_a_function_of_the_folder_one_is_in(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code = "def fit(x, units, k, epochs, seed):\n    return x[:units], lambda new: new @ x[:units].T\n"
    (tmp_path / "my_module.py").write_text(code, encoding="utf-8")
    assert main(["testbed", "--method", "my_module:fit", "--profile", "smoke"]) == 0
    text = (study.notebooks / "testbed.ipynb").read_text(encoding="utf-8")
    assert "| my_module:fit | " in text


def test_the_verbs_start_without_notebook_tools() -> None:
    block = "import sys\nfor name in ('papermill', 'IPython', 'nbformat', 'jupyterlab', 'snakemake', 'ipykernel'):\n"
    code = f"{block}    sys.modules[name] = None\nimport replication.cli, replication.execute, replication.study"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_relative_folders_are_those_of_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KSAE_EVIDENCE", "nothing")
    name = run_id(SMALLEST, Study("smoke"))
    assert main(["run", name, "--profile", "smoke", "--results", "my runs # 1: all"]) == 0
    assert (tmp_path / "my runs # 1: all/smoke/runs" / name / "metrics.json").exists()
    assert os.environ["KSAE_RESULTS"] == str(tmp_path / "my runs # 1: all"), "started processes get the same folder"


def reproduce(results: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ksae_lib.cli", "reproduce", "--profile", "smoke", "--only", "figure1"]
    return subprocess.Popen(
        [*command, "--results", str(results), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        # A shell that runs the tests in the background hands down that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def at_work(results: Path) -> list[str]:
    """Command lines of the processes that work on a folder of results; only Linux tells."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"KSAE_RESULTS={results}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def finished(study: Study) -> dict[str, int]:
    return {
        name: (study.store.root / name / "metrics.json").stat().st_mtime_ns
        for name in study.store.names()
        if (study.store.root / name / "metrics.json").exists()
    }


def test_reproduce_goes_on_after_a_kill_does_nothing_when_done_and_remakes_what_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine # : of {all}"
    monkeypatch.setenv("KSAE_EVIDENCE", str(tmp_path / "evidence"))
    study = Study("smoke", results=mine)
    first = reproduce(mine, "--jobs", "1")
    while not finished(study) and first.poll() is None:
        time.sleep(0.1)
    first.kill()
    first.communicate()
    deadline = time.monotonic() + 600
    while at_work(mine) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert at_work(mine) == [], "what a killed command has started ends as well"
    before = finished(study)
    assert before

    second = reproduce(mine)
    output, _ = second.communicate()
    assert second.returncode == 0, output
    assert before.items() <= finished(study).items(), "finished runs are not carried out again"
    executed = study.notebooks / "01_sparsity_sweep_filters.ipynb"
    for path in (study.figures / "fig1.png", executed, study.tables / "table1.csv", study.folder / "comparison.md"):
        assert path.exists(), output
    assert "comparison.md" in output
    assert not list(mine.rglob("*.tmp"))

    done = finished(study)
    third = reproduce(mine, "--no-resume")
    output, _ = third.communicate()
    assert "Nothing to be done" in output
    assert finished(study) == done

    stale = next(name for name in done if name.startswith("train-k10"))
    path = study.store.root / stale / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"code_digest": "of old"}))
    executed.unlink()
    again = reproduce(mine)
    output, _ = again.communicate()
    assert again.returncode == 0 and study.store.read(stale).is_current, output
    assert {name for name, time in finished(study).items() if time != done[name]} == {stale}
    assert executed.exists(), output


def test_ctrl_c_ends_reproduce_and_keeps_what_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KSAE_EVIDENCE", str(tmp_path / "evidence"))
    study = Study("smoke", results=tmp_path)
    process = reproduce(tmp_path, "--jobs", "1")
    while not finished(study) and process.poll() is None:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate()
    assert process.returncode in (1, 130), output
    assert finished(study)
    assert all(study.store.has(study.run(name)) for name in finished(study))
