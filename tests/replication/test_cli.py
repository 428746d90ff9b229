from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ksae_lib.io import atomic_path
from replication import cli, execute
from replication.plan import PlanError
from replication.study import Study
from replication.workflow import WorkflowError, drop_stale_stamps, run_workflow, selected, stamp, step, write_stamp

SMALLEST = "train-k10-zeros-e6-s0"


def run_id(prefix: str, study: Study) -> str:
    return next(r.run_id for e in study.plan.experiments for r in e.runs() if r.run_id.startswith(prefix))


def test_run_trains_stores_and_then_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = Study("smoke", tmp_path)
    name = run_id(SMALLEST, study)
    where = ["--profile", "smoke", "--results", str(tmp_path)]
    mark = tmp_path / "stamp.json"
    assert cli.main(["run", name, *where, "--stamp", str(mark)]) == 0
    first = capsys.readouterr().out
    assert first.startswith(f"{name}: loss ")
    metrics = study.store.load(study.plan.run(name)).metrics
    assert metrics["seed"] == 0
    assert len(metrics["data_sha256"]) == 64
    assert metrics["wall_seconds"] > 0
    assert metrics["peak_memory_mib"] > 50
    assert metrics["hardware"]["cores"] == os.cpu_count()
    assert {"torch", "numba", "numpy", "scikit-learn"} <= set(metrics["versions"])
    assert {Path(key).name for key in json.loads(mark.read_text())} == {
        "config.json", "metrics.json", "history.csv", "weights.safetensors",
    }  # fmt: skip
    assert cli.main(["run", name, *where]) == 0
    assert capsys.readouterr().out == first, "a stored run is loaded, not trained"
    assert cli.main(["run", name, *where, "--force"]) == 0
    assert "(stored before: " in capsys.readouterr().out
    assert cli.main(["run", "--list", *where]) == 0
    assert f"{name:48} stored" in capsys.readouterr().out


def test_a_readout_trains_its_encoder_and_reports_its_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = Study("smoke", tmp_path)
    name = run_id("readout-k10-zeros", study)
    assert cli.main(["run", name, "--profile", "smoke", "--results", str(tmp_path)]) == 0
    metrics = study.store.load(study.plan.run(name)).metrics
    assert f"test error {metrics['test_error']:.2f}%" in capsys.readouterr().out
    assert metrics["code_mode"] == "alpha_k"
    assert metrics["encoder_run"] == run_id(SMALLEST, study)
    assert len(metrics["test_mistakes"]) == round(metrics["test_error"] * metrics["test_images"] / 100)
    assert metrics["test_error"] < 30


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nothing", "--profile", "smoke"], "There is no run 'nothing'"),
        (["run", "--profile", "tiny"], "choose one of smoke, quick, paper"),
        (["reproduce", "--profile", "smoke", "--only", "figures"], "There is no experiment 'figures'"),
        (["reproduce", "--profile", "smoke", "--seeds", "0"], "seeds = 0 is not possible"),
        (["notebook", "09_nothing", "--profile", "smoke"], "There is no experiment '09_nothing'"),
        (["data", "verify", "--root", "nowhere"], "train-images-idx3-ubyte.gz is missing"),
        (["data", "get", "norb", "--from", "nowhere"], "training-dat.mat.gz is missing: --from takes a folder"),
        (["data", "get", "norb", "--base-url", "nowhere"], "nowhere is not an address"),
        (["run", "--profile", "paper", "--dataset", "norb"], "Profile paper has no experiment on NORB"),
        (["report", "--check", "--profile", "smoke"], "table1.csv is missing or out of date"),
    ],
)
def test_a_users_mistake_ends_in_one_sentence_and_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    where = ["--results", str(tmp_path)]
    if arguments[0] == "data":
        where = [] if "--root" in arguments else ["--root", str(tmp_path)]
    assert cli.main([*arguments, *where]) == 1
    error = capsys.readouterr().err
    assert error.startswith("ksae: ")
    assert message in error
    assert "Traceback" not in error


def test_a_full_disk_ends_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "metrics.json"))

    monkeypatch.setattr(execute, "execute", full)
    study = Study("smoke", tmp_path)
    assert cli.main(["run", run_id(SMALLEST, study), "--profile", "smoke", "--results", str(tmp_path)]) == 1
    assert "No space left on device" in capsys.readouterr().err


def test_help_of_every_command_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("reproduce", "run", "notebook", "report"):
        with pytest.raises(SystemExit) as stopped:
            cli.main([command, "--help"])
        assert stopped.value.code == 0
        assert f"examples:\n  ksae {command}" in capsys.readouterr().out


def test_data_verify_says_what_it_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "verify"]) == 0
    assert "50000 training, 10000 validation, 10000 test images" in capsys.readouterr().out


def test_the_library_imports_without_notebook_tools() -> None:
    block = "import sys\nfor name in ('papermill', 'IPython', 'nbformat', 'jupyterlab', 'snakemake', 'ipykernel'):\n"
    code = (
        block
        + "    sys.modules[name] = None\nimport ksae_lib, replication.cli, replication.report, replication.execute"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_stamps_of_deleted_or_changed_files_are_dropped(tmp_path: Path) -> None:
    study = Study("smoke", tmp_path)
    for name in ("kept", "changed", "deleted"):
        file = study.folder / name
        with atomic_path(file) as temporary:
            temporary.write_text(name)
        write_stamp(Path(stamp(study, name)), [file])
    (study.folder / "changed").write_text("other")
    (study.folder / "deleted").unlink()
    drop_stale_stamps(study)
    assert [path.name for path in (study.folder / ".state").iterdir()] == ["kept.json"]


def test_selected_takes_names_and_notebooks() -> None:
    plan = Study("paper").plan
    assert [e.name for e in selected(plan, "epochs,02_unsupervised_table")] == ["epochs", "features"]
    assert selected(plan, None) == plan.experiments
    assert [e.name for e in selected(plan, "norb_features,filters")] == ["filters"], "paper has nothing on NORB"
    with pytest.raises(PlanError, match="no experiment 'norb_features' in profile paper"):
        selected(plan, "norb_features")


@pytest.mark.parametrize("dataset", ["norb", "toy_norb"])
def test_a_notebook_is_told_which_form_of_norb_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: str
) -> None:
    told = {}

    def execute_notebook(source: Path, output: Path, parameters: dict[str, object], results: Path) -> Path:
        told[output.stem] = parameters["dataset"]
        return output

    monkeypatch.setattr(cli, "execute_notebook", execute_notebook)
    for name in ("02_unsupervised_table_norb", "02_unsupervised_table"):
        where = ["--profile", "smoke", "--results", str(tmp_path), "--dataset", dataset]
        assert cli.main(["notebook", name, *where]) == 0
    assert told == {"02_unsupervised_table_norb": dataset, "02_unsupervised_table": "mnist"}
    study = Study("smoke", tmp_path)
    assert study.on(dataset).norb == dataset and study.on("mnist") is study
    assert study.on(dataset).plan.shown_by("02_unsupervised_table", dataset).rows[0].runs[0].data.name == dataset


def test_an_interrupt_that_snakemake_lost_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Deaf:
        """A process that goes on after the first interrupt."""

        def __init__(self, *_: object, **__: object) -> None:
            self.waited: list[float | None] = []
            self.signals: list[int] = []
            made.append(self)

        def wait(self, timeout: float | None = None) -> int:
            self.waited.append(timeout)
            if len(self.waited) == 1:
                raise KeyboardInterrupt
            if timeout is not None:
                raise subprocess.TimeoutExpired("snakemake", timeout)
            return 1

        def send_signal(self, number: int) -> None:
            self.signals.append(number)

    made: list[Deaf] = []
    monkeypatch.setattr(subprocess, "Popen", Deaf)
    with pytest.raises(KeyboardInterrupt):
        run_workflow(Study("smoke", tmp_path), only=None, jobs=1, force=False, resume=True)
    assert made[0].signals == [signal.SIGINT]
    assert made[0].waited[-1] is None, "the lock is held until it has ended"


def test_a_step_that_fails_or_ends_early_fails_the_workflow(tmp_path: Path) -> None:
    before = dict(os.environ)
    step("run", "--list", "--profile", "smoke", "--results", tmp_path / "with a space")
    with pytest.raises(WorkflowError, match=r"'ksae run no-such-run --profile smoke' failed: status 1\."):
        step("run", "no-such-run", "--profile", "smoke")
    with pytest.raises(WorkflowError, match="broken off"):
        step("run", "--no-such-option")
    assert dict(os.environ) == before


def reproduce(results: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "replication.cli", "reproduce", "--profile", "smoke", "--only", "filters"]
    return subprocess.Popen(
        [*command, "--results", str(results), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        # A shell that runs the tests in the background hands down that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def stamps(study: Study) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (study.folder / ".state").glob("train-*.json")}


def test_reproduce_goes_on_after_ctrl_c_does_nothing_when_done_and_remakes_what_is_deleted(tmp_path: Path) -> None:
    study = Study("smoke", tmp_path)
    first = reproduce(tmp_path, "--jobs", "1")
    assert first.stdout is not None
    assert any("Finished jobid" in line for line in first.stdout)
    assert any("Execute" in line for line in first.stdout), "the next step begins when the record of the last is kept"
    finished = stamps(study)
    time.sleep(1.0)
    os.killpg(first.pid, signal.SIGINT)
    output, _ = first.communicate(timeout=120)
    assert first.returncode in (1, 130), output
    interrupted = stamps(study)
    assert 0 < len(finished) <= len(interrupted) < 4

    second = reproduce(tmp_path)
    while len(list((study.folder / ".state").glob("train-*.json"))) <= len(interrupted) and second.poll() is None:
        time.sleep(0.2)
    with pytest.raises(WorkflowError, match="Another 'ksae reproduce' is at work"):
        run_workflow(study, only=None, jobs=1, force=False, resume=True)
    output, _ = second.communicate(timeout=300)
    assert second.returncode == 0, output
    assert finished.items() <= stamps(study).items(), "finished steps are not run again"
    for name in (
        "figures/fig1.png",
        "figures/fig1.svg",
        "notebooks/01_sparsity_sweep_filters.ipynb",
        "tables/table1.csv",
    ):
        assert (study.folder / name).exists()
    assert "Table 1, MNIST, profile smoke" in output

    third = reproduce(tmp_path)
    output, _ = third.communicate(timeout=120)
    assert "Nothing to be done" in output

    (study.figures / "fig1.png").unlink()
    fourth = reproduce(tmp_path)
    output, _ = fourth.communicate(timeout=300)
    assert (study.figures / "fig1.png").exists(), output
    assert finished.items() <= stamps(study).items()
