"""The library as others get it: built, installed into an empty folder, used where nothing of the study is."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STUDY = (
    "replication", "pandas", "matplotlib", "seaborn", "torchvision", "papermill", "nbformat", "ipykernel", "IPython",
    "snakemake", "jupyterlab", "pooch", "yaml",
)  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = ["-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([sys.executable, *build, folder, ROOT], check=True, timeout=300)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    folder = wheel.parent / "installed"
    install = ["-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target"]
    subprocess.run([sys.executable, *install, folder, wheel], check=True, timeout=300)
    return folder


def use(installed: Path, folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run code in ``folder`` with the installed library and none of the study's packages."""
    block = f"import sys\nfor name in {STUDY!r}:\n    sys.modules[name] = None\n"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run(
        [sys.executable, "-c", block + textwrap.dedent(code)],
        cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip


def test_the_wheel_holds_the_library_alone(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"ksae_lib", "ksae_lib-0.1.0.dist-info"}
    wanted = {f"ksae_lib/templates/xray.{kind}" for kind in ("html", "css", "js")}
    wanted |= {"ksae_lib/py.typed", "ksae_lib/engines/kernels.py", "ksae_lib/pretrained/mnist-k25.safetensors"}
    assert wanted <= set(names)


def test_the_installed_library_fits_saves_loads_and_transforms(installed: Path, tmp_path: Path) -> None:
    done = use(
        installed, tmp_path,
        """
        import numpy as np
        import ksae_lib, ksae_lib.training
        from ksae_lib import CodeMode, KSparseCoder, TrainConfig, train
        x = np.random.default_rng(0).random((200, 30), np.float32)
        coder = KSparseCoder(units=40, k=5, epochs=2, random_state=0).fit(x)
        coder.save("model.safetensors")
        again = KSparseCoder.load("model.safetensors")
        assert np.array_equal(again.transform(x), coder.transform(x))
        model, history = train(x, TrainConfig(units=40, k=5, k_start=20, epochs=2), engine="reference")
        assert [row["k"] for row in history] == [20, 5]
        print(ksae_lib.__file__)
        """,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(installed)


def test_the_commands_work_and_the_studys_say_what_they_need(installed: Path, tmp_path: Path) -> None:
    done = use(
        installed, tmp_path,
        """
        import numpy as np
        from ksae_lib.cli import main
        np.save("x.npy", np.random.default_rng(0).random((200, 30), np.float32))
        assert main("fit x.npy --out model.safetensors --units 40 --k 5 --epochs 2".split()) == 0
        assert main("transform model.safetensors x.npy --out codes.npz".split()) == 0
        assert main("xray model.safetensors x.npy --out units.html --image-shape 5 6".split()) == 0
        assert main(["info", "model.safetensors"]) == 0
        for verb in ("reproduce", "run", "notebook", "testbed", "data", "report", "check", "search"):
            assert main([verb, "--profile", "quick"]) == 1
        """,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    sentence = (
        "needs the checkout of the study: git clone its repository, run 'make setup' in it and use the ksae of its"
    )
    said = [line for line in done.stderr.splitlines() if line.startswith("ksae: ")]
    verbs = ["reproduce", "run", "notebook", "testbed", "data", "report", "check", "search"]
    assert [line.split("'")[1] for line in said] == verbs
    assert all(sentence in line for line in said)
    assert "codes.npz: 200 codes of 40 units" in done.stdout
    assert "<h1>X-ray of units</h1>" in (tmp_path / "units.html").read_text("utf-8")
