from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from replication import code_digest
from replication.code_digest import closure, closure_digest
from replication.methods.k_sparse import KSparse
from replication.runs import EncoderRun, FinetuneRun, ReadoutRun, digest_of

ENCODER = EncoderRun(method=KSparse())
RUNS = {"train": ENCODER, "readout": ReadoutRun(encoder=ENCODER), "finetune": FinetuneRun(encoder=ENCODER)}


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the sources that digests are taken of."""
    root = Path(code_digest.__file__).parents[1]
    for package in ("ksae_lib", "replication"):
        shutil.copytree(root / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
        monkeypatch.setitem(code_digest._ROOTS, package, tmp_path)
    return tmp_path


def digests() -> dict[str, str]:
    code_digest._tree.cache_clear()
    closure_digest.cache_clear()
    return {name: digest_of(run, "cpu" if name == "train" else None) for name, run in RUNS.items()}


def changed(copy: Path, file: str, old: str, new: str) -> set[str]:
    """Which kinds of run a change of the sources makes stale."""
    before = digests()
    path = copy / file
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    after = digests()
    return {name for name in before if before[name] != after[name]}


def test_a_change_of_the_solver_retrains_nothing(copy: Path) -> None:
    assert changed(copy, "replication/judge/logistic.py", "_MEMORY = 20", "_MEMORY = 21") == {"readout"}


def test_a_change_of_fine_tuning_leaves_readouts(copy: Path) -> None:
    assert changed(copy, "replication/judge/finetune.py", "\nimport copy\n", "\nimport copy\n\nX = 1\n") == {"finetune"}


def test_a_changed_kernel_makes_everything_of_the_cpu_engine_stale(copy: Path) -> None:
    assert "train" in changed(
        copy, "ksae_lib/engines/kernels.py", "middle = low / 2 + high / 2", "middle = high / 2 + low / 2"
    )


def test_another_engines_code_does_not_count(copy: Path) -> None:
    assert "train" not in changed(
        copy, "ksae_lib/engines/gpu.py", "import numpy as np\n", "import numpy as np\n\nX = 1\n"
    )


@pytest.mark.parametrize("file", ["ksae_lib/model.py", "ksae_lib/engines/kernels.py", "replication/judge/readout.py"])
def test_docstrings_comments_and_layout_do_not_count(copy: Path, file: str) -> None:
    assert changed(copy, file, '"""', '"""Said otherwise. ') == set()
    assert changed(copy, file, "\nfrom ", "\n\n# Why.\n\nfrom ") == set()


def test_the_report_and_the_command_line_decide_no_run() -> None:
    names = closure(["replication.judge.readout", "replication.judge.finetune", "replication.methods.k_sparse"])
    assert not [name for name in names if "report" in name or name.endswith(("cli", "study", "workflow", "runs"))]
    assert {"ksae_lib.model", "ksae_lib.selection", "ksae_lib.engines.kernels", "replication.judge.logistic"} <= names
