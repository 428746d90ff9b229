"""Digest of code: the import closure of modules as syntax trees, without docstrings and comments."""

import ast
import hashlib
from collections.abc import Collection, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import ksae_lib

_ROOTS = {"ksae_lib": Path(ksae_lib.__file__).parents[1], "replication": Path(__file__).parents[1]}


@lru_cache
def closure_digest(roots: tuple[str, ...], without: tuple[str, ...] = ()) -> str:
    """Digest of the modules and of all that they import from the library and the study, at any depth."""
    whole = hashlib.sha256()
    for name in sorted(closure(roots, without)):
        whole.update(f"{name}\n{_tree(name)[0]}\n".encode())
    return whole.hexdigest()[:16]


def closure(roots: Collection[str], without: Collection[str] = ()) -> set[str]:
    """Names of the modules and of all that they import from the library and the study."""
    found: set[str] = set()
    waiting = set(roots)
    while waiting := waiting - found - set(without):
        found |= waiting
        waiting = {imported for name in waiting for imported in _tree(name)[1]}
    return found


def _file(name: str) -> Path | None:
    """Source of a module of ours, a package's being its ``__init__``."""
    parts = name.split(".")
    if parts[0] not in _ROOTS:
        return None
    path = _ROOTS[parts[0]].joinpath(*parts)
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.exists()), None)


@lru_cache
def _tree(name: str) -> tuple[str, tuple[str, ...]]:
    """What a module says, and the modules of ours that it imports."""
    tree = ast.parse((_file(name) or Path(name)).read_text(encoding="utf-8"))
    return repr(_shape(tree)), tuple(sorted({found for found in _imports(tree) if _file(found)}))


def _imports(node: ast.AST) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module:
            inner = [f"{child.module}.{alias.name}" for alias in child.names]
            modules = [name for name in inner if _file(name)]
            yield from modules if len(modules) == len(inner) else [child.module, *modules]
        else:
            yield from _imports(child)


def _shape(node: Any) -> Any:
    """A syntax tree without places, docstrings and what is empty, alike in every version of Python."""
    if isinstance(node, list):
        return [_shape(one) for one in node if not (isinstance(one, ast.Expr) and _is_text(one.value))]
    if not isinstance(node, ast.AST):
        return node
    parts = [(name, _shape(value)) for name, value in ast.iter_fields(node) if name not in ("kind", "type_comment")]
    return type(node).__name__, [(name, value) for name, value in parts if value is not None and value != []]


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)
