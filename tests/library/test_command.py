from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from ksae_lib import KSparseCoder, cli
from ksae_lib.io import KsaeError, save_model

FIT = ["fit", "x.npy", "--out", "model.safetensors", "--units", "20", "--k", "4", "--epochs", "2"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with examples, and no verbs but the library's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "entry_points", lambda group: [])
    np.save("x.npy", np.random.default_rng(0).random((60, 10), np.float32))
    return tmp_path


def test_fit_transform_and_info_do_what_the_estimator_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*FIT, "--alpha", "2", "--k-start", "8", "--bias-init", "zeros", "--seed", "3"]) == 0
    assert "model.safetensors: 20 units, k = 4, loss " in capsys.readouterr().out
    x = np.load("x.npy")
    ours = KSparseCoder(
        20, k=4, epochs=2, alpha=2.0, k_start=8, bias_init="zeros", random_state=3
    ).fit(x)  # fmt: skip
    assert cli.main(["transform", "model.safetensors", "x.npy", "--out", "codes.npz"]) == 0
    assert cli.main(["transform", "model.safetensors", "x.npy", "--out", "codes.npy"]) == 0
    assert "codes.npy: 60 codes of 20 units" in capsys.readouterr().out
    assert np.array_equal(np.load("codes.npy"), ours.transform(x))
    assert np.array_equal(sparse.load_npz("codes.npz").toarray(), ours.transform(x))
    options = ["--out", "dense.npy", "--code-mode", "dense"]
    assert cli.main(["transform", "model.safetensors", "x.npy", *options]) == 0
    assert np.array_equal(np.load("dense.npy"), ours.set_params(code_mode="dense").transform(x))
    with pytest.raises(SystemExit):
        cli.main(["transform", "--help"])
    assert capsys.readouterr().out.count("default: the model's") == 2
    capsys.readouterr()
    assert cli.main(["info", "model.safetensors"]) == 0
    said = dict(line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert (said["units"], said["k"], said["alpha"], said["last epoch"]) == ("20", "4", "2.0", "1")


def test_info_of_a_model_without_an_estimator(capsys: pytest.CaptureFixture[str]) -> None:
    save_model(KSparseCoder(20, k=4, epochs=1).fit(np.load("x.npy")).model_, Path("model.safetensors"))
    assert cli.main(["info", "model.safetensors"]) == 0
    assert "activation      linear" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([*FIT, "--k", "50"], "k = 50 is not possible with 20 hidden units: choose a whole number from 1 to 20."),
        ([*FIT, "--learning-rate", "1e30"], "Training diverged"),
        (["fit", "absent.npy", "--out", "model"], "No such file or directory: absent.npy."),
        (["fit", ".", "--out", "model"], "Is a directory: ."),
        (
            ["fit", "words.txt", "--out", "model"],
            "words.txt is not one array: write it, a row an example, with numpy.save.",
        ),
        (["fit", "several.npz", "--out", "model"], "several.npz is not one array"),
        (["fit", "cut.npz", "--out", "model"], "cut.npz is not one array"),
        (["fit", "cube.npy", "--out", "model"], "reshape images with"),
        (["fit", "holes.npy", "--out", "model"], "contains NaN."),
        ([*FIT, "--units", "1000000000000000"], "There is not enough memory for this"),
        (["info", "words.txt"], "words.txt is damaged or of another kind"),
        (["transform", "words.txt", "x.npy", "--out", "codes.npy"], "words.txt is damaged or of another kind"),
        (["transform", "words.txt", "x.npy", "--out", "codes.csv"], "ends in neither .npz"),
    ],
)
def test_a_users_mistake_ends_in_one_sentence_and_status_1(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("words.txt").write_text("these are words")
    np.savez("several.npz", a=np.ones(3), b=np.ones(3))
    Path("cut.npz").write_bytes(Path("several.npz").read_bytes()[:100])
    np.save("cube.npy", np.ones((3, 3, 3)))
    np.save("holes.npy", np.full((3, 3), np.nan))
    assert cli.main(arguments) == 1
    said = capsys.readouterr().err
    assert sentence in said
    assert [line.startswith("ksae: ") for line in said.splitlines()] == [True]


def test_a_path_that_cannot_be_written_is_told_before_training(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "models").mkdir()
    os.mkfifo("pipe")
    monkeypatch.setattr(KSparseCoder, "fit", lambda *_: pytest.fail("it was trained"))
    for out, said in (
        ("models", "models is a folder: name another file"),
        ("pipe", "pipe is no file: name another file"),
        ("x.npy", "x.npy is an input: name another file"),
        ("x.npy/model", "File exists: x.npy"),
    ):
        assert cli.main([*FIT[:3], out, *FIT[4:]]) == 1
        assert capsys.readouterr().err == f"ksae: {said}.\n"
    assert sorted(path.name for path in folder.iterdir()) == ["models", "pipe", "x.npy"]


def test_no_verb_writes_over_its_input(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = Path("x.npy").read_bytes()
    for verb in ("transform", "xray"):
        assert cli.main([verb, "model", "x.npy", "--out", "x.npy"]) == 1
        assert "x.npy is an input" in capsys.readouterr().err and Path("x.npy").read_bytes() == before


@pytest.mark.parametrize("arguments", [[], ["fit"], ["transforme"], [*FIT, "--k", "few"], [*FIT, "--epoch-count", "3"]])
def test_wrong_usage_ends_with_status_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2


def verbs_of(command: Any) -> Any:
    """A package whose verb ``reproduce`` runs the command."""

    def add(verbs: Any) -> None:
        made: argparse.ArgumentParser = verbs.add_parser("reproduce")
        made.set_defaults(command=command)

    class Entry(EntryPoint):
        def load(self) -> Any:
            return add

    return lambda group: [Entry("a package", "a.package:add", group)]


def raising(error: BaseException) -> Any:
    def command(options: argparse.Namespace) -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (KsaeError("Mend this."), 1, "ksae: Mend this.\n"),
        (KeyboardInterrupt(), 130, "ksae: interrupted. What is finished is kept.\n"),
        (OSError(28, "No space left on device", "a/file"), 1, "ksae: No space left on device: a/file.\n"),
    ],
)
def test_errors_of_other_packages_verbs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, status: int, said: str
) -> None:
    monkeypatch.setattr(cli, "entry_points", verbs_of(raising(error)))
    assert cli.main(["reproduce"]) == status
    assert capsys.readouterr().err == said


def test_a_defect_in_another_packages_verb_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "entry_points", verbs_of(raising(ValueError("a defect"))))
    with pytest.raises(ValueError, match="a defect"):
        cli.main(["reproduce"])


@pytest.mark.parametrize("module", ["replication", "pandas"])
def test_the_studys_verbs_say_what_they_need(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], module: str
) -> None:
    class Missing(EntryPoint):
        def load(self) -> Any:
            raise ModuleNotFoundError(name=module)

    monkeypatch.setattr(cli, "entry_points", lambda group: [Missing("replication", "replication.cli:add", group)])
    assert cli.main(["run", "--profile", "quick", "a-run"]) == 1
    said = capsys.readouterr().err
    assert "'run' needs the checkout of the study" in said
    assert ("and the package pandas" in said) == (module == "pandas")


def test_terminals_that_know_no_greek_do_not_stop_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), encoding="latin-1"))
    monkeypatch.setattr(cli, "entry_points", verbs_of(lambda options: print("α", file=sys.stderr) or print("α")))
    assert cli.main(["reproduce"]) == 0
    assert cli.main([*FIT, "--alpha", "9"]) == 1


def test_a_pipe_whose_reader_has_gone_is_no_error() -> None:
    code = (
        "import sys; from ksae_lib import cli; cli.entry_points = lambda group: [];"
        "sys.exit(cli.main(['info', 'model.safetensors']))"
    )
    reader, writer = os.pipe()
    os.close(reader)
    assert cli.main(FIT) == 0
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdout=writer, stderr=subprocess.PIPE, check=False, timeout=300,
        )  # fmt: skip
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")
