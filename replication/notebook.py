"""Executing notebooks with papermill, strictly: what papermill only warns of is an error here."""

from __future__ import annotations

import ast
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ksae_lib.io import atomic_path
from replication.environment import inherited
from replication.study import project_root

SENTINEL = "notebook complete"
_VOLATILE = ("papermill", "execution", "widgets")


class NotebookError(RuntimeError):
    """A notebook cannot be executed as asked, or did not run to its end."""


def execute_notebook(source: Path, output: Path, parameters: dict[str, Any], results: Path) -> Path:
    """Execute a parameterized notebook and store it whole, without times, host names or absolute paths.

    A process executes one at a time.

    Args:
        source: notebook with one cell tagged ``parameters`` whose last cell prints ``SENTINEL``.
        output: where the executed notebook goes.
        parameters: values by name; each must be in the parameters cell and of the type of its default.
        results: the folder of results the notebook reads and writes.

    Raises:
        NotebookError: missing file or tag, unknown name, wrong type, an error in a cell, a dead kernel, or an
            absolute path in the output.
    """
    import nbformat
    import papermill
    from papermill.exceptions import PapermillException, PapermillExecutionError
    from traitlets.config import Config

    if not source.exists():
        raise NotebookError(f"{source.name} is missing in {source.parent.name}/.")
    check_parameters(source, parameters)
    with (
        atomic_path(output) as temporary,
        inherited({"KSAE_RESULTS": str(results.resolve())}),
        TemporaryDirectory(prefix="ksae-") as sockets,
    ):
        # Kernels that start together race for TCP ports; a socket in a folder of its own is nobody else's.
        transport = Config(KernelManager={"transport": "ipc", "ip": f"{sockets}/kernel"})
        try:
            executed = papermill.execute_notebook(
                source, None, parameters, kernel_name="python3", progress_bar=False, cwd=project_root(),
                start_timeout=300, iopub_timeout=120, config=transport,
            )  # fmt: skip
        except PapermillExecutionError as error:
            raise NotebookError(
                f"{source.name} failed in cell {error.exec_count}: {error.ename}: {error.evalue}"
            ) from error
        except (PapermillException, RuntimeError) as error:
            raise NotebookError(f"{source.name} could not be executed: {error}") from error
        if not _ended(executed):
            raise NotebookError(
                f"{source.name} did not reach its last cell: its kernel died, probably for lack of memory."
            )
        tidy(executed)
        text = nbformat.writes(executed)
        if str(project_root()) in text:
            raise NotebookError(f"The output of {source.name} shows an absolute path: print relative paths only.")
        temporary.write_text(text + "\n", encoding="utf-8")
    return output


def check_parameters(source: Path, parameters: dict[str, Any]) -> None:
    """Refuse a notebook without exactly one parameters cell, unknown names and values of another type.

    Raises:
        NotebookError: in one sentence.
    """
    import nbformat
    import papermill

    cells = nbformat.read(source, as_version=4).cells
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise NotebookError(f"{source.name} has {len(tagged)} cells tagged 'parameters': it must have exactly one.")
    known = papermill.inspect_notebook(str(source))
    for name, value in parameters.items():
        if name not in known:
            raise NotebookError(f"{source.name} has no parameter {name!r}: its parameters are {', '.join(known)}.")
        wanted = type(ast.literal_eval(known[name]["default"]))
        if type(value) is not wanted:
            raise NotebookError(f"Parameter {name} of {source.name} takes {wanted.__name__}, not {value!r}.")


def tidy(notebook: Any) -> None:
    """Remove what changes from one execution to the next: times, paths, widget state."""
    for holder in (notebook, *notebook.cells):
        for key in _VOLATILE:
            holder.metadata.pop(key, None)
    notebook.metadata.get("language_info", {}).pop("version", None)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"


def _ended(notebook: Any) -> bool:
    last = notebook.cells[-1]
    return any(SENTINEL in output.get("text", "") for output in last.get("outputs", []))
