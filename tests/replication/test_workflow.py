from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from replication.experiments.base import PlanError
from replication.runs import EncoderRun, Run, RunStore, digest_of
from replication.study import Study
from replication.workflow import Workflow, selected

HISTORY = pd.DataFrame({"loss": [1.0]})


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Profile quick with stores of the test's own."""
    return Study("quick", results=tmp_path / "mine", evidence=tmp_path / "evidence")


def store(study: Study, run: Run, code_digest: str | None = None) -> None:
    model = run.method.build(784) if isinstance(run, EncoderRun) else None
    digest = digest_of(run, "cpu") if code_digest is None else code_digest
    study.store.save(run, {"engine": "cpu", "code_digest": digest, "inputs": 784}, HISTORY, model)


def planned(study: Study, only: str = "figure1", **changes: bool) -> list[str]:
    work = Workflow(study, only, **{"force": False, "stale": True, "resume": True} | changes)
    return [name for batch in work.batches for name in batch.runs]


def test_selected_takes_names_and_notebooks_and_leaves_norb_to_its_own_target() -> None:
    study = Study("paper")
    assert [one.name for one in selected(study, "epochs,02_unsupervised_table")] == ["epochs", "table1"]
    assert selected(study, "") == study.experiments
    assert not [one.name for one in selected(Study("quick"), "") if "norb" in one.data]
    with pytest.raises(PlanError, match="no experiment 'table2' in profile paper"):
        selected(study, "table2")


def test_alike_runs_share_a_step_and_encoders_come_first(study: Study) -> None:
    work = Workflow(study, "table1,table3", force=False, stale=True, resume=True)
    assert any(len(batch.runs) > 1 for batch in work.batches)
    done: set[str] = set()
    for batch in work.batches:
        assert set(batch.needs) <= done
        done |= set(batch.files)
    assert done == set(work.runs)


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


def test_a_notebook_shows_the_runs_of_experiments_that_are_carried_out_beside_it(study: Study) -> None:
    alone = Workflow(study, "table1", force=False, stale=True, resume=True)
    both = Workflow(study, "table1,beyond", force=False, stale=True, resume=True)
    one = study.experiment("table1")
    assert set(alone.shown(one)) == set(alone.runs)
    assert set(both.shown(one)) == set(both.runs)


def test_rounded_weights_are_looked_at_and_never_carried_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study("quick", results=tmp_path / "mine", evidence=tmp_path / "evidence")
    run = next(iter(study.experiment("figure1").filters))
    RunStore(study.evidence.root).save(run, {"inputs": 784}, HISTORY, run.method.build(784).half())
    assert study.model(run).weight.dtype == torch.float32
    trained: list[Run] = []

    def carry_out(runs: list[Run], study: Study) -> None:
        trained.extend(runs)
        store(study, *runs)

    monkeypatch.setattr("replication.study.carry_out", carry_out)
    study.model(run, exact=True)
    study.model(run, exact=True)
    assert trained == [run]
