from __future__ import annotations

import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from ksae_lib.io import KsaeError
from replication.runs import EncoderRun, Run, RunStore, digest_of
from replication.study import Study, project_root
from replication.workflow import Step, run_workflow, selected, steps

HISTORY = pd.DataFrame({"loss": [1.0]})


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Profile quick with stores of the test's own."""
    return Study("quick", results=tmp_path / "mine", evidence=tmp_path / "evidence")


def store(study: Study, run: Run, code_digest: str | None = None) -> None:
    model = run.method.build(784) if isinstance(run, EncoderRun) else None
    digest = digest_of(run, "cpu") if code_digest is None else code_digest
    study.store.save(run, {"engine": "cpu", "code_digest": digest, "inputs": 784}, HISTORY, model)


def all_steps(study: Study, only: str, **changes: bool) -> list[Step]:
    return steps(study, only, **{"force": False, "stale": True, "resume": True} | changes)[0]


def test_an_empty_name_selects_nothing(study: Study) -> None:
    for only in (",", " "):
        with pytest.raises(KsaeError, match="There is no experiment ''"):
            all_steps(study, only)


def planned(study: Study, only: str = "figure1", **changes: bool) -> list[str]:
    """Ids of the runs that steps carry out, each of which must run."""
    made, forced, _ = steps(study, only, **{"force": False, "stale": True, "resume": True} | changes)
    batches = [step for step in made if not step.name.startswith("notebook")]
    assert {step.name for step in batches} <= set(forced), "whatever files are there"
    return [Path(file).parent.name for step in batches for file in step.makes]


def test_selected_takes_names_and_notebooks_and_leaves_norb_to_its_own_target() -> None:
    study = Study("paper")
    assert [one.name for one in selected(study, "gap,02_unsupervised_table")] == ["gap", "table1"]
    assert [one.name for one in selected(study, "table1, 02_unsupervised_table,table1")] == ["table1"]
    assert selected(study, "") == study.experiments
    assert not [one.name for one in selected(Study("quick"), "") if "norb" in one.data]
    with pytest.raises(KsaeError, match="no experiment 'table2' in profile paper"):
        selected(study, "table2")


def test_alike_runs_share_a_step_and_encoders_come_first(study: Study) -> None:
    made = all_steps(study, "table1,table3")
    assert any(len(step.makes) > 1 for step in made)
    done: set[str] = set()
    for step in made:
        assert set(step.needs) <= done or step.name.startswith("notebook")
        done |= set(step.makes)
    runs = [run.run_id for name in ("table1", "table3") for run in study.experiment(name).runs()]
    assert {f"runs/{name}/metrics.json" for name in runs} <= done


def test_a_step_has_the_same_name_wherever_its_runs_are_planned(study: Study) -> None:
    names = {tuple(step.makes): step.name for step in all_steps(study, "table1")}
    store(study, study.experiment("table1").runs()[-1])
    kept = [step for step in all_steps(study, "table1") if tuple(step.makes) in names]
    assert len(kept) > 3 and all(names[tuple(step.makes)] == step.name for step in kept)


def test_a_failed_step_is_an_error(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    how: dict[str, Any] = {"only": "figure1", "jobs": 1, "force": False, "stale": True, "resume": True}
    for status in (0, 1):
        monkeypatch.setattr("snakemake.cli.main", lambda _, status=status: sys.exit(status))
        with pytest.raises(KsaeError, match="A step failed") if status else nullcontext():
            run_workflow(study, **how)


def test_what_is_stored_and_current_is_not_planned(study: Study) -> None:
    runs = list(study.experiment("figure1").runs())
    assert set(planned(study)) == {run.run_id for run in runs}
    store(study, runs[0])
    assert set(planned(study)) == {run.run_id for run in runs[1:]}
    assert set(planned(study, force=True)) == {run.run_id for run in runs}
    store(study, runs[0], "of other code")
    assert runs[0].run_id in planned(study)
    assert runs[0].run_id not in planned(study, stale=False)


def test_an_encoder_without_weights_is_trained_where_it_is_needed(study: Study) -> None:
    run = next(row for row in study.experiment("table1").rows if row.key == "k25").at(0)
    encoder = run.encoder
    assert encoder is not None
    store(study, encoder)
    assert encoder.run_id not in planned(study, "table1")
    (study.store.folder(encoder) / "weights.safetensors").unlink()
    assert encoder.run_id in planned(study, "table1")


def test_a_committed_encoder_without_weights_stays(tmp_path: Path) -> None:
    study = Study("quick", results=tmp_path, evidence=tmp_path)
    run = next(row for row in study.experiment("table1").rows if row.key == "k25").at(0)
    assert run.encoder is not None
    store(study, run.encoder)
    (study.store.folder(run.encoder) / "weights.safetensors").unlink()
    made = planned(study, "table1")
    assert run.run_id in made and run.encoder.run_id not in made


def test_a_notebook_needs_its_source_and_the_runs_that_it_shows(study: Study) -> None:
    def needs(only: str) -> set[str]:
        (step,) = [step for step in all_steps(study, only) if step.name == "notebook_02_unsupervised_table"]
        assert "--no-resume" not in step.command and "--force" not in step.command
        return set(step.needs)

    alone, both = needs("table1"), needs("table1,beyond")
    assert str(project_root() / "notebooks" / "02_unsupervised_table.ipynb") in alone
    files = [{f"runs/{run.run_id}/metrics.json" for run in study.experiment(n).runs()} for n in ("table1", "beyond")]
    assert files[0] <= alone and not (files[1] - files[0]) & alone
    assert files[0] | files[1] <= both


def test_force_executes_notebooks_too(study: Study) -> None:
    made, forced, _ = steps(study, "figure1", force=True, stale=True, resume=False)
    assert {step.name for step in made} == set(forced)
    assert all("--no-resume" in step.command for step in made if not step.name.startswith("notebook"))


def test_rounded_weights_are_looked_at_and_never_carried_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study("quick", results=tmp_path / "mine", evidence=tmp_path / "evidence")
    run = next(iter(study.experiment("figure1").filters))
    RunStore(study.evidence.root).save(run, {"inputs": 784}, HISTORY, run.method.build(784).half())
    assert study.model(run).weight.dtype == torch.float32
    trained: list[Run] = []

    def carry_out(runs: list[Run], study: Study, device: str) -> None:
        assert device == "cpu"
        trained.extend(runs)
        store(study, *runs)

    monkeypatch.setattr("replication.study.carry_out", carry_out)
    study.model(run, exact=True, device="cpu")
    study.model(run, exact=True, device="cpu")
    assert trained == [run]


def test_notebooks_with_processes_of_their_own_take_all_cores(study: Study) -> None:
    made = all_steps(study, "one_digit,inside,theory,alpha,dead_units,ground_truth,family")
    own = {step.name for step in made if "Parallel(" in Path(step.needs[0]).read_text(encoding="utf-8")}
    assert len(own) == 4 and own == {step.name for step in made if step.all_cores}


def test_a_step_on_all_cores_starts_processes_of_one_thread(tmp_path: Path) -> None:
    step = Step("one", [], ["variables"], 0, "env > variables", all_cores=True)._asdict()
    (tmp_path / ".workflow.json").write_text(json.dumps({"targets": [], "steps": [step]}), encoding="utf-8")
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(project_root() / "Snakefile"), "--cores", "2"]
    subprocess.run([*command, "--directory", str(tmp_path)], check=True, capture_output=True)
    said = dict(line.partition("=")[::2] for line in (tmp_path / "variables").read_text(encoding="utf-8").splitlines())
    assert said["LOKY_MAX_CPU_COUNT"] == "2"
    assert {said[f"{library}_NUM_THREADS"] for library in ("NUMBA", "OMP", "MKL", "OPENBLAS")} == {"1"}
