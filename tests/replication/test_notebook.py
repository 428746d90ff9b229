from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest

from replication.notebook import SENTINEL, NotebookError, check_parameters, execute_notebook
from replication.study import project_root

NOTEBOOKS = sorted((project_root() / "notebooks").glob("*.ipynb"))
END = f'print("{SENTINEL}")'


def write(path: Path, *cells: str, tagged: int = 1) -> Path:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    for cell in notebook.cells[:tagged]:
        cell.metadata["tags"] = ["parameters"]
    nbformat.write(notebook, path)
    return path


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_takes_the_parameters_the_runner_passes(path: Path) -> None:
    check_parameters(path, {"profile": "smoke", "seeds": 1})
    notebook = nbformat.read(path, as_version=4)
    assert notebook.cells[-1].source == END
    assert not any(cell.get("outputs") for cell in notebook.cells), "source notebooks are committed without outputs"


def test_an_executed_notebook_holds_the_result_and_nothing_volatile(tmp_path: Path) -> None:
    source = write(tmp_path / "a.ipynb", "x = 1", "print(x + 1)", END)
    output = execute_notebook(source, tmp_path / "out" / "a.ipynb", {"x": 41}, tmp_path)
    notebook = nbformat.read(output, as_version=4)
    assert any("42" in o.get("text", "") for cell in notebook.cells for o in cell.get("outputs", []))
    text = output.read_text(encoding="utf-8")
    for volatile in ("papermill.record_timing", "start_time", "iopub", str(tmp_path), str(project_root())):
        assert volatile not in text
    assert output.read_bytes() == execute_notebook(source, tmp_path / "b.ipynb", {"x": 41}, tmp_path).read_bytes()
    assert [path.name for path in output.parent.iterdir()] == ["a.ipynb"]


@pytest.mark.parametrize("before", [None, "elsewhere"])
def test_the_notebook_alone_sees_the_folder_of_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    monkeypatch.delenv("KSAE_RESULTS", raising=False)
    if before is not None:
        monkeypatch.setenv("KSAE_RESULTS", before)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    seen = "from replication.study import default_results; (default_results() / 'seen').write_text('here')"
    execute_notebook(write(tmp_path / "a.ipynb", "x = 1", seen, END), tmp_path / "b.ipynb", {}, Path("mine"))
    assert (tmp_path / "mine" / "seen").exists(), "the kernel works elsewhere: the folder must not be relative"
    assert os.environ.get("KSAE_RESULTS") == before


@pytest.mark.parametrize(
    ("cells", "tagged", "parameters", "message"),
    [
        (("x = 1", END), 0, {"x": 2}, "0 cells tagged 'parameters'"),
        (("x = 1", "y = 1", END), 2, {"x": 2}, "2 cells tagged 'parameters'"),
        (("x = 1", END), 1, {"z": 2}, "has no parameter 'z': its parameters are x"),
        (("x = 1.0  # comment", END), 1, {"x": "1e-3"}, "takes float, not '1e-3'"),
        (("x = 1", END), 1, {"x": True}, "takes int, not True"),
        (("x = 1", "1 / 0", END), 1, {}, "failed in cell 2: ZeroDivisionError"),
        (("x = 1", "x"), 1, {}, "did not reach its last cell"),
        (("x = 1", "import os; os._exit(1)", END), 1, {}, "could not be executed|did not reach its last cell"),
        (("x = 1", f"print('{project_root()}')", END), 1, {}, "shows an absolute path"),
    ],
)
def test_what_papermill_only_warns_of_is_an_error_and_keeps_the_earlier_notebook(
    tmp_path: Path, cells: tuple[str, ...], tagged: int, parameters: dict[str, object], message: str
) -> None:
    source = write(tmp_path / "a.ipynb", *cells, tagged=tagged)
    output = tmp_path / "out.ipynb"
    output.write_text("earlier")
    with pytest.raises(NotebookError, match=message):
        execute_notebook(source, output, parameters, tmp_path)
    assert output.read_text() == "earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ipynb", "out.ipynb"]


def test_a_missing_notebook_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotebookError, match=r"nowhere\.ipynb is missing"):
        execute_notebook(tmp_path / "nowhere.ipynb", tmp_path / "out.ipynb", {}, tmp_path)
