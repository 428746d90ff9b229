from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
from click.testing import CliRunner
from papermill.cli import papermill as papermill_command

from ksae_lib.io import KsaeError
from replication.experiments import experiments
from replication.experiments.profiles import PROFILES
from replication.notebook import check_parameters, execute_notebook
from replication.study import project_root
from tests.nbval_numbers import agree

NOTEBOOKS = sorted((project_root() / "notebooks").glob("*.ipynb"))
SANITIZE = project_root() / "tests" / "nbval_sanitize.cfg"
KILL = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


def write(path: Path, *cells: str, tagged: int = 1) -> Path:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    for cell in notebook.cells[:tagged]:
        cell.metadata["tags"] = ["parameters"]
    nbformat.write(notebook, path)
    return path


def test_every_experiment_with_a_notebook_has_it_and_every_notebook_an_experiment() -> None:
    shown = {one.notebook for profile in PROFILES for one in experiments(profile) if one.notebook}
    assert shown == {path.stem for path in NOTEBOOKS}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_takes_the_parameters_the_runner_passes(path: Path) -> None:
    check_parameters(path, {"profile": "smoke", "dataset": "mnist"})
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "source notebooks are committed without outputs"
    for one in (cell for cell in notebook.cells if cell.cell_type == "code"):
        used = [name for name in ast.walk(ast.parse(one.source)) if isinstance(name, ast.Attribute | ast.alias)]
        names = [name.attr if isinstance(name, ast.Attribute) else name.name for name in used]
        assert not [name for name in names if name.startswith("_")], "a notebook uses what a reader can use"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_papermill_shows_type_default_and_meaning_of_every_parameter(path: Path) -> None:
    shown = CliRunner().invoke(papermill_command, ["--help-notebook", str(path)])
    assert shown.exit_code == 0
    for name, said in papermill.inspect_notebook(str(path)).items():
        default = ast.literal_eval(said["default"])
        assert said["inferred_type_name"] == type(default).__name__, name
        assert len(said["help"]) > 10, name
        assert f"{name}: {said['inferred_type_name']} (default {said['default']})" in shown.output
        assert said["help"][:20] in shown.output


def test_an_executed_notebook_holds_the_result_and_nothing_volatile(tmp_path: Path) -> None:
    late = "import time, warnings; warnings.warn('A worker stopped, see /a/path'); time.sleep(0.5); print('late')"
    source = write(tmp_path / "a.ipynb", "x: int = 1  # a number", "print(x + 1, flush=True)\n" + late)
    output = execute_notebook(source, tmp_path / "out" / "a.ipynb", {"x": 41})
    notebook = nbformat.read(output, as_version=4)
    assert [o["text"] for cell in notebook.cells for o in cell.get("outputs", [])] == ["42\nlate\n"]
    text = output.read_text(encoding="utf-8")
    for volatile in ("papermill.record_timing", "start_time", "iopub", str(tmp_path), str(project_root())):
        assert volatile not in text
    assert output.read_bytes() == execute_notebook(source, tmp_path / "b.ipynb", {"x": 41}).read_bytes()
    assert [path.name for path in output.parent.iterdir()] == ["a.ipynb"]


def test_a_picture_gets_the_alt_text_of_its_cell(tmp_path: Path) -> None:
    shown = "from IPython.display import Image, display\ndisplay(Image(data=b'\\x89PNG\\r\\n\\x1a\\n', format='png'))"
    source = write(tmp_path / "a.ipynb", "x: int = 1  # a number", shown, shown)
    notebook = nbformat.read(source, as_version=4)
    notebook.cells[1].metadata["mystnb"] = {"image": {"alt": "A picture of nothing."}}
    nbformat.write(notebook, source)
    executed = nbformat.read(execute_notebook(source, tmp_path / "b.ipynb", {"x": 1}), as_version=4)
    told = [output.metadata for cell in executed.cells for output in cell.outputs]
    assert told == [{"image/png": {"alt": "A picture of nothing."}}, {}]


def test_every_committed_picture_has_an_alt_text() -> None:
    executed = sorted((project_root() / "results").glob("[!l]*/notebooks/*.ipynb"))
    outputs = [
        (path.name, output)
        for path in executed
        for cell in nbformat.read(path, as_version=4).cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert len(outputs) > 60
    told = [(name, output.metadata.get("image/png", {}).get("alt", "")) for name, output in outputs]
    assert [name for name, alt in told if not alt.endswith(".")] == []


@pytest.mark.parametrize("before", [None, "elsewhere"])
def test_the_notebook_alone_sees_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    monkeypatch.delenv("KSAE_RESULTS", raising=False)
    if before is not None:
        monkeypatch.setenv("KSAE_RESULTS", before)
    seen = "import os, pathlib; pathlib.Path(os.environ['KSAE_RESULTS'], 'seen').write_text('here')"
    source = write(tmp_path / "a.ipynb", "x = 1", seen)
    execute_notebook(source, tmp_path / "b.ipynb", {}, {"KSAE_RESULTS": str(tmp_path)})
    assert (tmp_path / "seen").exists()
    assert os.environ.get("KSAE_RESULTS") == before


@pytest.mark.parametrize(
    ("cells", "tagged", "parameters", "message"),
    [
        (("x = 1",), 0, {"x": 2}, "0 cells tagged 'parameters'"),
        (("x = 1", "y = 1"), 2, {"x": 2}, "2 cells tagged 'parameters'"),
        (("x = 1",), 1, {"z": 2}, "has no parameter 'z': its parameters are x"),
        (("x: float = 1.0  # a rate",), 1, {"x": "1e-3"}, "takes float, not '1e-3'"),
        (("x: int = 1  # a number",), 1, {"x": True}, "takes int, not True"),
        (("x: str = 'a'  # a name",), 1, {"x": 1}, "takes str, not 1"),
        (("x = 1", "1 / 0"), 1, {}, "failed in cell 2: ZeroDivisionError"),
        (("x = 1", KILL, "x"), 1, {}, "could not be executed|did not reach its last cell"),
        (("x = 1", KILL), 1, {}, "could not be executed|did not reach its last cell"),
        (("x = 1", f"print('{project_root()}/data')"), 1, {}, "shows an absolute path"),
        (("x = 1", "import os; print(os.environ['KSAE_RESULTS'])"), 1, {}, "shows an absolute path"),
    ],
)
def test_what_papermill_only_warns_of_is_an_error_and_keeps_the_earlier_notebook(
    tmp_path: Path, cells: tuple[str, ...], tagged: int, parameters: dict[str, object], message: str
) -> None:
    source = write(tmp_path / "a.ipynb", *cells, tagged=tagged)
    output = tmp_path / "out.ipynb"
    output.write_text("earlier")
    with pytest.raises(KsaeError, match=message):
        execute_notebook(source, output, parameters, {"KSAE_RESULTS": str(tmp_path / "results")})
    assert output.read_text() == "earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ipynb", "out.ipynb"]


def test_a_missing_notebook_is_named(tmp_path: Path) -> None:
    with pytest.raises(KsaeError, match=r"nowhere\.ipynb is missing"):
        execute_notebook(tmp_path / "nowhere.ipynb", tmp_path / "out.ipynb", {})


@pytest.mark.parametrize(
    ("test", "reference", "same"),
    [
        ("| RBM | 12.40 | 9.80 – 15.0 |", "| RBM | 13.10 | 10.20 – 16.0 |", True),
        ("| RBM | 12.40 |", "| RBM | 17.40 |", False),
        ("| RBM | 12.40 |", "| DBN | 12.40 |", False),
        ("k = 25, 300 of 1000 units live", "k = 25, 310 of 1000 units live", True),
        ("k = 25, 300 of 1000 units live", "k = 26, 300 of 1000 units live", False),
        ("5 seeds, 300 units", "5 seeds, 500 units", False),
        ("FVU 0.254, rate 5e-05", "FVU 0.231, rate 5e-05", True),
        ("0.0% of noise", "3.0% of noise", False),
        ("α = 3", "α = 3", True),
        ("12.40", "12.40 and 3.1", False),
    ],
)
def test_numbers_agree_within_a_quarter_and_counts_exactly(test: str, reference: str, same: bool) -> None:
    assert agree(test, reference) is same
    assert agree(reference, test) is same


def test_nbval_accepts_close_numbers_and_refuses_far_ones_and_other_words(tmp_path: Path) -> None:
    said = {
        "close": "error 13.1% of 500 images, −1.40 points below",
        "far": "error 23.1% of 500 images, −0.20 points above",
        "other": "error 12.4% of 500 pictures, −0.20 points above",
    }
    for name, saying in said.items():
        path = write(tmp_path / f"{name}.ipynb", "x = 1", "print('error 12.4% of 500 images, −0.20 points above')")
        notebook = nbformat.read(path, as_version=4)
        notebook.cells[1].execution_count = 2
        notebook.cells[1].outputs = [nbformat.v4.new_output("stream", text=saying + "\n")]
        nbformat.write(notebook, path)
    command = ["-m", "pytest", "-q", "-rA", "-p", "tests.nbval_numbers", "--nbval", "-p", "no:cacheprovider"]
    command += ["--nbval-sanitize-with", str(SANITIZE), str(tmp_path)]
    told = subprocess.run([sys.executable, *command], cwd=project_root(), capture_output=True, text=True).stdout
    outcomes = re.findall(r"^(PASSED|FAILED) \S*?(\w+)\.ipynb::Cell 1", told, re.MULTILINE)
    assert sorted(outcomes) == [("FAILED", "far"), ("FAILED", "other"), ("PASSED", "close")], told


def test_what_is_not_compared_is_a_list_of_patterns_that_each_say_why() -> None:
    text = SANITIZE.read_text(encoding="utf-8")
    patterns = re.findall(r"^\[(.+)\]\nregex: (.+)\nreplace: (.+)$", text, flags=re.MULTILINE)
    assert len(patterns) == text.count("regex: ")
    for _, pattern, replacement in patterns:
        assert re.sub(pattern, replacement, "error 12.4%, 300 of 1000 units live, k = 25") == (
            "error 12.4%, 300 of 1000 units live, k = 25"
        ), "errors, live units and settings are compared"
