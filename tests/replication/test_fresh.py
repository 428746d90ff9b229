from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from ksae_lib.io import KsaeError
from replication.report.blocks import Blocks, fill, outdated
from replication.report.fresh import code_state, stale, stale_documents
from replication.report.write import write_report
from replication.runs import digest_of
from replication.study import Study
from tests.executed import copy_notebooks_without_runs

TRIALS = pd.DataFrame({"alpha": [1.0], "l2": [0.1]})
METRICS = {"validation_error": 2.0, "test_images": 10_000, "test_mistakes": [], "selected": {"l2": 0.1}}
NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Evidence of profile ``quick`` in a checkout of its own."""
    study = Study("quick", results=tmp_path / "results", evidence=tmp_path / "results")
    copy_notebooks_without_runs(study)
    return study


def put(study: Study, table: int, key: str, error: float, data: str = "mnist") -> None:
    (row,) = [shown.row for shown in study.rows(table, data) if shown.row.key == key]
    study.store.save(row.at(0), {**METRICS, "test_error": error}, TRIALS)


def test_tables_are_stale_until_written_and_after_a_new_run(study: Study) -> None:
    put(study, 1, "k25_printed", 1.8)
    assert any("table1.csv" in line for line in stale(study))
    files = write_report(study)
    assert {path.suffix for path in files} == {".csv", ".md", ".tex", ".json", ".sha256"}
    assert stale(study) == []
    for path in study.tables.glob("*.tex"):
        _, _, body = path.read_text(encoding="utf-8").partition("\n")
        assert body.isascii(), "LaTeX knows it without a package"
    put(study, 1, "k10", 2.5)
    assert sum("table1" in line for line in stale(study)) == 3
    assert sum("runs.sha256" in line for line in stale(study)) == 3, "each file of the new run"


def test_what_nothing_writes_is_named_and_work_in_progress_is_not(study: Study) -> None:
    put(study, 1, "k25", 1.8)
    write_report(study)
    run = study.store.folder(study.rows(1)[0].row.at(0)).parent / study.store.names()[0]
    figures = study.figures
    figures.mkdir()
    (figures / "fig1.png").touch()
    (study.store.root / ".checkpoints").mkdir()
    (study.store.root / ".checkpoints" / "train.safetensors").touch()
    (study.folder / ".lock").touch()
    (run / "weights.safetensors").touch()
    assert stale(study) == []
    empty = study.store.root / "readout-of-another-time"
    empty.mkdir()
    left = [
        figures / "one_factor_at_a_time.png",
        study.tables / "old.csv",
        run / "notes.txt",
        empty / "config.json",
        study.folder / "notes.txt",
    ]
    for path in left:
        path.touch()
    assert sorted(line.split()[0] for line in stale(study)) == sorted(
        str(path.relative_to(study.folder.parents[1])) for path in left
    )


def test_a_notebook_is_due_once_every_run_it_shows_is_stored(tmp_path: Path) -> None:
    study = Study("smoke", results=tmp_path / "results", evidence=tmp_path / "results")
    *most, last = study.experiment("figure4").runs()
    for run in most:
        study.store.save(run, {}, TRIALS)
    assert not any("04_" in line for line in stale(study))
    study.store.save(last, {}, TRIALS)
    (line,) = [line for line in stale(study) if "04_" in line]
    assert "notebooks/04_activity_histograms.ipynb is missing" in line


def test_notebooks_executed_from_another_version_are_stale(study: Study) -> None:
    source = NOTEBOOKS / "01_sparsity_sweep_filters.ipynb"
    notebook = json.loads(source.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(code, 1):
        cell["execution_count"] = number
    executed = study.notebooks / source.name

    def faults() -> list[str]:
        executed.write_text(json.dumps(notebook), encoding="utf-8")
        return [line for line in stale(study) if "01_" in line]

    assert faults() == []
    code[-1]["execution_count"] = None
    assert "did not run to its end" in faults()[0]
    code[-1] |= {"execution_count": 9, "outputs": [{"output_type": "error"}]}
    assert "holds an error" in faults()[0]
    code[-1]["outputs"] = []
    place = 1 + next(i for i, cell in enumerate(notebook["cells"]) if "parameters" in cell["metadata"].get("tags", []))
    for told, said in (
        ('dataset = "toy_norb"', "toy_norb, not on mnist"),
        ('profile = "smoke"', "smoke, not on quick"),
    ):
        injected = {"tags": ["injected-parameters"]}
        cell = {"cell_type": "code", "metadata": injected, "source": [told], "execution_count": 1, "outputs": []}
        notebook["cells"].insert(place, cell)
        assert f"was executed on {said}" in faults()[0]
        del notebook["cells"][place]
    notebook["cells"][0]["source"] = ["something else"]
    assert "another version" in faults()[0]


def test_blocks_and_numbers_are_replaced_between_their_markers_only(study: Study) -> None:
    root = study.folder.parents[1]
    put(study, 1, "k25", 1.55)
    put(study, 1, "k40", 1.76)
    put(study, 1, "pixels", 7.5)
    (root / "docs").mkdir()
    readme, page, plain = root / "README.md", root / "docs" / "tables.md", root / "docs" / "plain.md"
    readme.write_text(
        "a <!-- n:k25_error -->?<!-- /n --> b <!-- n:k40_error --><!-- /n -->\n<!-- n:pixels_error -->9<!-- /n -->\n",
        encoding="utf-8",
    )
    page.write_text("c\n<!-- table1:begin -->\nold\n<!-- table1:end -->\nd\n", encoding="utf-8")
    plain.write_text("no markers\n", encoding="utf-8")
    assert sorted(line.split()[0] for line in stale_documents(root)) == ["README.md", "docs/tables.md"]
    own = Study("quick", results=root / "own", evidence=study.evidence_root)
    assert all(path.is_relative_to(own.folder) for path in write_report(own)), "of a reader no document"
    changed = outdated(root)
    assert set(changed) == {readme, page}
    for path, text in changed.items():
        path.write_text(text, encoding="utf-8")
    assert readme.read_text(encoding="utf-8") == (
        "a <!-- n:k25_error -->1.55<!-- /n --> b <!-- n:k40_error -->1.76<!-- /n -->\n"
        "<!-- n:pixels_error -->7.50<!-- /n -->\n"
    )
    shown = page.read_text(encoding="utf-8")
    first, header, *_ = shown.removeprefix("c\n").splitlines()
    assert (first, header) == (
        "<!-- table1:begin -->",
        "| Method | Variant | Paper | Ours | 95% interval | Seeds | Verdict |",
    )
    assert shown.endswith("|\n<!-- table1:end -->\nd\n") and "old" not in shown
    assert outdated(root) == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<!-- tabel1:begin -->\n<!-- tabel1:end -->", "block 'tabel1'"),
        ("<!-- n:k26_error -->1<!-- /n -->", "number 'k26_error'"),
        ("<!-- table1:begin -->\n1", "without its other end"),
        ("1<!-- table1:end -->", "without its other end"),
        ("<!-- n:k25_error -->1", "without its other end"),
    ],
)
def test_unknown_names_and_lost_markers_are_errors(study: Study, text: str, said: str) -> None:
    with pytest.raises(KsaeError, match=said):
        fill(text, "README.md", Blocks(study.folder.parents[1]))


def test_every_block_can_be_made_without_runs_and_with_the_committed_ones(study: Study) -> None:
    for root in (study.folder.parents[1], NOTEBOOKS.parent):
        blocks = Blocks(root)
        texts = {name: make() for name, make in blocks.makers.items()}
        assert all(text.endswith("\n") for name, text in texts.items() if not name.endswith(("speed", "recovery")))
    assert "toy" not in texts["table1"] + texts["table3"] + texts["claims"]
    assert f"| k=25 | 1.35 | {blocks.numbers['paper_k25_error']} |" in texts["table1"]
    assert "encoder_over_this" in texts["encoding_speed"]


def test_the_page_of_the_stand_in_names_the_data_its_numbers_are_of(study: Study) -> None:
    put(study, 2, "pixels", 27.5, "toy_norb")
    blocks = Blocks(study.folder.parents[1])
    assert blocks.makers["table2"]().startswith("Table 2, toy NORB (stand-in):")
    put(study, 2, "pixels", 23.0, "norb")
    text = blocks.makers["table2"]()
    assert text.startswith("Table 2, NORB:") and "| replicated, NORB |" in text


def test_runs_of_other_code_are_counted(study: Study) -> None:
    put(study, 1, "k25", 1.8)
    old = study.store.names()
    assert code_state(study.store) == (1, old)
    (run,) = [shown.row.at(0) for shown in study.rows(1) if shown.row.key == "k10"]
    study.store.save(run, {**METRICS, "test_error": 2.0, "code_digest": digest_of(run)}, TRIALS)
    assert code_state(study.store) == (2, old)
