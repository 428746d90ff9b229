from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from replication.report.comparison import comparison, summary, write_comparison
from replication.runs import Run
from replication.study import Study

EMPTY = pd.DataFrame({"epoch": []})


@pytest.fixture
def committed(tmp_path: Path) -> Study:
    """Three seeds of k = 25 with errors 1.4, 1.5 and 1.6, one of the pixels, one net of Figure 1."""
    study = Study("quick", results=tmp_path / "evidence", evidence=tmp_path / "evidence")
    for seed, error in enumerate((1.4, 1.5, 1.6)):
        put(study, readout(study, "k25", seed), error)
    put(study, readout(study, "pixels"), 7.5)
    study.store.save(study.experiment("figure1").filters[0], {"loss": 2.0, "seed": 0}, EMPTY)
    return study


def readout(study: Study, key: str, seed: int = 0) -> Run:
    (row,) = [shown.row for shown in study.rows(1) if shown.row.key == key]
    return row.at(seed)


def put(study: Study, run: Run, error: float, mistakes: tuple[int, ...] = (1, 2)) -> None:
    metrics: dict[str, Any] = {
        "test_error": error, "validation_error": 1.0, "test_images": 10_000, "test_mistakes": list(mistakes),
        "selected": {}, "seed": run.seed,
    }  # fmt: skip
    study.store.save(run, metrics, EMPTY)


def own_study(committed: Study, tmp_path: Path) -> Study:
    return Study("quick", results=tmp_path / "own", evidence=committed.evidence_root)


@pytest.mark.parametrize(
    ("key", "error", "mistakes", "outcome"),
    [
        ("k25", 1.4, (1, 2), "same to the digit"),
        ("k25", 1.4, (1, 3), "within seed noise"),
        ("k25", 1.59, (1, 2), "within seed noise"),
        ("k25", 1.61, (1, 2), "different"),
        ("pixels", 7.99, (1, 2), "within seed noise"),
        ("pixels", 8.05, (1, 2), "different"),
    ],
)
def test_errors_are_compared_within_twice_the_spread_of_seeds_or_the_sampling_error(
    committed: Study, tmp_path: Path, key: str, error: float, mistakes: tuple[int, ...], outcome: str
) -> None:
    study = own_study(committed, tmp_path)
    put(study, readout(study, key), error, mistakes)
    (found,) = comparison(study).to_dict("records")
    assert (found["measure"], found["own"], found["outcome"]) == ("test_error", error, outcome)


@pytest.mark.parametrize(
    ("loss", "outcome"), [(2.0, "same to the digit"), (2.01, "within seed noise"), (2.1, "different")]
)
def test_encoders_are_compared_by_their_loss(committed: Study, tmp_path: Path, loss: float, outcome: str) -> None:
    study = own_study(committed, tmp_path)
    study.store.save(study.experiment("figure1").filters[0], {"loss": loss, "seed": 0}, EMPTY)
    (found,) = comparison(study).to_dict("records")
    assert (found["measure"], found["committed"], found["outcome"]) == ("loss", 2.0, outcome)


def test_a_comparison_can_be_sent(committed: Study, tmp_path: Path) -> None:
    study = own_study(committed, tmp_path)
    put(study, readout(study, "k25"), 1.4)
    put(study, readout(study, "pixels"), 9.0)
    put(study, readout(study, "k10"), 2.0)
    path, paragraph = write_comparison(study)
    said = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert {"hardware", "versions", "git_commit", "date", "rule", "profile"} <= set(said)
    assert {run["outcome"] for run in said["runs"]} == {"same to the digit", "different"}
    assert paragraph in path.read_text(encoding="utf-8")
    assert "Of 2 runs" in paragraph and "1 same to the digit, 1 different" in paragraph, "k10 has no counterpart"
    assert readout(study, "pixels").run_id in paragraph


def test_evidence_is_not_compared_with_itself(committed: Study) -> None:
    assert len(comparison(committed)) == 0
    assert "None of these runs" in summary(comparison(committed))


def test_a_damaged_committed_run_costs_only_its_own_comparison(committed: Study, tmp_path: Path) -> None:
    study = own_study(committed, tmp_path)
    for key in ("k25", "pixels"):
        put(study, readout(study, key), 1.4)
    (committed.evidence.folder(readout(study, "pixels")) / "metrics.json").write_text("{", encoding="utf-8")
    (committed.evidence.root / "Thumbs.db").write_bytes(b"")
    (found,) = comparison(study).to_dict("records")
    assert found["run_id"] == readout(study, "k25").run_id
