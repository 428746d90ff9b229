"""Executing notebooks with papermill, strictly: what papermill only warns of is an error here."""

import ast
import itertools
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from ksae_lib.io import KsaeError, atomic_path, sweep, temporary_prefix
from replication.study import project_root

_SENTINEL = "reached the end of the notebook"


def execute_notebook(
    source: Path, output: Path, parameters: dict[str, Any], environment: Mapping[str, str] | None = None
) -> Path:
    """Execute a parameterized notebook, one at a time, and store it whole, without times and absolute paths.

    Args:
        source: notebook with one cell tagged ``parameters``.
        output: where the executed notebook goes.
        parameters: values by name; each must be in the parameters cell and of the type of its default.
        environment: folders for its kernel, absolute, by the name of their variable.

    Raises:
        KsaeError: a notebook or parameter that cannot be used, an error in a cell, a dead kernel, absolute paths.
    """
    import nbformat
    import papermill
    from papermill.exceptions import PapermillException, PapermillExecutionError
    from traitlets.config import Config

    if not source.exists():
        raise KsaeError(f"{source.name} is missing in {source.parent.name}/.")
    check_parameters(source, parameters)
    folders = dict(environment or {})
    # joblib replaces a worker that has grown large, and names a path when it says so.
    quiet = {"PYTHONWARNINGS": "ignore:A worker stopped"}
    with atomic_path(output) as temporary, patch.dict(os.environ, folders | quiet), _scratch() as folder:
        # A kernel that dies leaves cells that look complete, so a last cell must say that it was reached.
        notebook = nbformat.read(source, as_version=4)
        notebook.cells.append(nbformat.v4.new_code_cell(f"print({_SENTINEL!r})"))
        watched = folder / source.name
        nbformat.write(notebook, watched)
        # Kernels that start together race for TCP ports; a socket in a folder of its own is nobody else's.
        transport = Config(KernelManager={"transport": "ipc", "ip": f"{folder}/kernel"})
        # The signal that ends a kernel can reach it at work on its last message, which it would log as an error.
        how = {"kernel_name": "python3", "config": transport, "extra_arguments": ["--log-level=CRITICAL"]}
        how |= {"progress_bar": False, "start_timeout": 300, "iopub_timeout": 120, "coalesce_streams": True}
        try:
            executed = papermill.execute_notebook(watched, None, parameters, cwd=project_root(), **how)
        except PapermillExecutionError as error:
            where = f"{source.name} failed in cell {error.exec_count}"
            raise KsaeError(f"{where}: {error.ename}: {error.evalue}") from error
        except (PapermillException, RuntimeError) as error:
            raise KsaeError(f"{source.name} could not be executed: {error}") from error
        if not any(_SENTINEL in one.get("text", "") for one in executed.cells.pop().get("outputs", [])):
            why = "its kernel died, probably for lack of memory"
            raise KsaeError(f"{source.name} did not reach its last cell: {why}.")
        _tidy(executed)
        text = nbformat.writes(executed)
        words = re.sub(r'"image/\w+": "[^"]*"', "", text)
        if any(path in words for path in (str(project_root()), *folders.values())):
            raise KsaeError(f"The output of {source.name} shows an absolute path: print relative paths only.")
        temporary.write_text(text + "\n", encoding="utf-8")
    return output


def check_parameters(source: Path, parameters: dict[str, Any]) -> None:
    """Raise a ``KsaeError`` of a notebook without one parameters cell, of unknown names, of another type."""
    import nbformat
    import papermill

    cells = nbformat.read(source, as_version=4).cells
    tagged = sum("parameters" in cell.metadata.get("tags", []) for cell in cells)
    if tagged != 1:
        raise KsaeError(f"{source.name} has {tagged} cells tagged 'parameters': it must have exactly one.")
    known = papermill.inspect_notebook(str(source))
    for name, value in parameters.items():
        if name not in known:
            raise KsaeError(f"{source.name} has no parameter {name!r}: its parameters are {', '.join(known)}.")
        wanted = type(ast.literal_eval(known[name]["default"]))
        if type(value) is not wanted:
            raise KsaeError(f"Parameter {name} of {source.name} takes {wanted.__name__}, not {value!r}.")


def _tidy(notebook: Any) -> None:
    """Remove what changes from one execution to the next (times, paths, widget state); give pictures their alt text."""
    for holder, key in itertools.product((notebook, *notebook.cells), ("papermill", "execution", "widgets")):
        holder.metadata.pop(key, None)
    notebook.metadata.get("language_info", {}).pop("version", None)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
        for output in cell.get("outputs", ()) if (image := cell.metadata.get("mystnb", {}).get("image")) else ():
            if "image/png" in output.get("data", {}):
                output.metadata["image/png"] = {"alt": image["alt"]}


@contextmanager
def _scratch() -> Iterator[Path]:
    """A folder for sockets; what killed processes left of theirs is removed."""
    root = Path("/tmp")  # A socket's path has at most 103 characters: macOS's own folder takes half of them.
    sweep(root)
    with TemporaryDirectory(prefix=temporary_prefix(Path("ksae")), suffix=".tmp", dir=root) as folder:
        yield Path(folder)
