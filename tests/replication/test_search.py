import json
import math
from pathlib import Path
from typing import Any

import pytest

import replication.search
from ksae_lib.io import KsaeError
from ksae_lib.loop import DivergenceError
from replication.runs import Run
from replication.search import run_search
from replication.study import Study


def distance(rate: float) -> float:
    """From the best rate."""
    return abs(math.log(rate / 0.003))


class Stored:
    """What a run came to: its error depends on its rate and length."""

    def __init__(self, run: Any) -> None:
        self.run, method = run, run.encoder.method
        if method.learning_rate > 0.02:
            raise DivergenceError("diverged")
        self.metrics = {"validation_error": 2 + distance(method.learning_rate) + 10 / method.epochs}


class Fake(Study):
    """A study whose runs take no time."""

    def __init__(self, results: Path = Path("results")) -> None:
        super().__init__("search", results=results, evidence=Path("results"))

    def obtain(self, run: Run) -> Any:
        return Stored(run)


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "trials.json"
    path.write_text('{"table1 rbm": []}')
    monkeypatch.setattr(replication.search, "TRIALS", path)
    return path


def tried(path: Path, trials: int) -> list[dict[str, Any]]:
    run_search(Fake(), "table1 denoising", trials)
    found: list[dict[str, Any]] = json.loads(path.read_text())["table1 denoising"]
    return found


def test_the_best_third_of_the_trials_goes_on(written: Path) -> None:
    runs = tried(written, 30)
    assert json.loads(written.read_text())["table1 rbm"] == [], "other rows stay as they were"
    assert [sum(run["epochs"] == epochs for run in runs) for epochs in (3, 9, 27)] == [30, 10, 4]
    longer = {run["learning_rate"] for run in runs if run["epochs"] == 9}
    worse = {run["learning_rate"] for run in runs if run["epochs"] == 3} - longer
    assert max(map(distance, longer)) <= min(map(distance, worse))
    assert all(0.0003 <= run["learning_rate"] <= 0.03 for run in runs)
    best = min(
        (run for run in runs if run["epochs"] == 27), key=lambda run: abs(math.log(run["learning_rate"] / 0.003))
    )
    assert best["learning_rate"] == pytest.approx(0.003, rel=0.2)
    assert any("diverged" in run for run in runs)
    assert all(run["epochs"] == 3 for run in runs if "diverged" in run)


def test_fewer_trials_do_not_replace_a_record(written: Path) -> None:
    recorded = tried(written, 6)
    with pytest.raises(KsaeError, match="6 trials of table1 denoising are recorded"):
        tried(written, 5)
    assert tried(written, 6) == recorded


def test_the_same_errors_lead_to_the_same_trials(written: Path) -> None:
    assert tried(written, 12) == tried(written, 12)


def test_a_readers_search_is_written_beside_their_runs(written: Path, tmp_path: Path) -> None:
    before, study = written.read_bytes(), Fake(tmp_path / "own")
    run_search(study, "table1 denoising", 3)
    assert written.read_bytes() == before
    assert len(json.loads((study.folder / "trials.json").read_text())["table1 denoising"]) == 5


def test_an_unknown_row_names_those_there_are(written: Path) -> None:
    with pytest.raises(KsaeError, match="'table1 pixels'.*table1 denoising"):
        run_search(Fake(), "table1 pixels", 1)
