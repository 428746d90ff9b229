from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ksae_lib import KSparseAutoencoder, KSparseCoder
from ksae_lib import io as files


def test_a_block_that_ends_well_leaves_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.txt"
    with files.atomic_path(path) as temporary:
        assert temporary.parent == path.parent
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("existed", [True, False])
@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_a_block_that_raises_leaves_everything_as_it_was(tmp_path: Path, existed: bool, error: BaseException) -> None:
    path = tmp_path / "file.txt"
    if existed:
        path.write_text("old")
    with pytest.raises(type(error)), files.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise error
    assert [p.read_text() for p in tmp_path.iterdir()] == (["old"] if existed else [])


def test_a_disk_that_fails_to_sync_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "file.txt"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_text(path, "new")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


def test_the_data_is_synced_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.txt"
    seen: list[tuple[str, bool]] = []
    monkeypatch.setattr(files, "sync_file", lambda p: seen.append((p.read_text(), path.exists())))
    files.write_text(path, "new")
    assert seen == [("new", False)]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_permissions_follow_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    path = tmp_path / "file.txt"
    before = os.umask(umask)
    try:
        files.write_text(path, "x")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_text_is_utf8_with_plain_line_ends(tmp_path: Path) -> None:
    files.write_text(tmp_path / "file.txt", "α\nβ\n")
    assert (tmp_path / "file.txt").read_bytes() == "α\nβ\n".encode()


def test_a_folder_that_cannot_be_made_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        files.write_text(tmp_path / "file" / "inside.txt", "x")


def model_of(**changes: object) -> KSparseAutoencoder:
    built: dict[str, object] = {"inputs": 5, "units": 9, "k": 3, "activation": "relu", "selection": "threshold"}
    model = KSparseAutoencoder(**(built | changes))  # type: ignore[arg-type]
    model.calibrate_threshold(torch.randn(20, 5, generator=torch.Generator().manual_seed(0)))
    return model


def test_a_model_that_was_saved_is_the_same_when_loaded(tmp_path: Path) -> None:
    model, path = model_of(), tmp_path / "new" / "model.safetensors"
    files.save_model(model, path, made={"by": "a test", "seed": 3})
    again, metadata = files.read_model(path)
    for name in ("inputs", "units", "k", "activation", "selection"):
        assert getattr(again, name) == getattr(model, name)
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert metadata["made"] == {"by": "a test", "seed": 3} and metadata["version"] == 1
    assert list(path.parent.iterdir()) == [path]
    x = torch.randn(4, 5)
    assert torch.equal(files.load_model(path).encode(x, "threshold"), model.encode(x, "threshold"))


def test_a_model_of_double_precision_stays_one(tmp_path: Path) -> None:
    files.save_model(model_of().double(), tmp_path / "model.safetensors")
    assert files.load_model(tmp_path / "model.safetensors").weight.dtype == torch.float64


def test_a_file_with_any_changed_byte_is_refused_or_says_the_same(tmp_path: Path) -> None:
    model, path = model_of(), tmp_path / "model.safetensors"
    files.save_model(model, path)
    content = path.read_bytes()
    refused = 0
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            again = files.load_model(path)
        except ValueError as error:
            assert str(error).startswith(f"{path} is damaged or of another kind") and str(error).endswith(").")
            refused += 1
        else:
            assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    assert refused > 0.95 * len(content) / 7


def test_other_files_are_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(FileNotFoundError):
        files.load_model(path)
    with pytest.raises(IsADirectoryError):
        files.load_model(tmp_path)
    for content in (b"", b"not a model", b"\xff" * 5000):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="damaged or of another kind"):
            files.load_model(path)
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="damaged or of another kind"):
        files.load_model(path)
    files.save_tensors({"weight": torch.zeros(3)}, path, {"what": "a checkpoint"})
    with pytest.raises(ValueError, match="holds no model that save_model wrote"):
        files.load_model(path)
    files.save_tensors({"weight": torch.zeros(3)}, path, {"version": 2})
    with pytest.raises(ValueError, match="later version of ksae_lib: install that"):
        files.load_model(path)


def test_saved_models_are_plain_safetensors_with_a_json_header(tmp_path: Path) -> None:
    files.save_model(model_of(), tmp_path / "model.safetensors")
    content = (tmp_path / "model.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert json.loads(header["__metadata__"]["model"])["units"] == 9
    assert load_file(tmp_path / "model.safetensors")["weight"].shape == (9, 5)


def test_a_disk_that_is_full_while_tensors_are_written_is_an_os_error(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    script = textwrap.dedent("""
        import resource, signal, sys
        from pathlib import Path
        import torch
        from ksae_lib import io
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        path = Path(sys.argv[1])
        io.save_tensors({"small": torch.ones(3)}, path, {})
        try:
            io.save_tensors({"large": torch.ones(100_000)}, path, {})
        except OSError as error:
            print(error.strerror)
    """)
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == os.strerror(errno.EFBIG)
    assert list(load_file(path)) == ["small"]
    assert list(tmp_path.iterdir()) == [path]


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_writing_removes_what_dead_processes_left(tmp_path: Path) -> None:
    mine, theirs = files.temporary_prefix(tmp_path / "a.txt"), f"-{os.getpid()}."
    dead = mine.replace(theirs, f"-{dead_process()}.")
    elsewhere = dead.replace(f".{files._HOST}-", ".another_machine-")
    stays = [mine + "x1.tmp", elsewhere + "x2.tmp", ".notes.tmp", "a.tmp"]
    goes = [dead + "x3.tmp", dead + "folder.tmp", elsewhere + "old.tmp"]
    for name in (*stays, *goes):
        (tmp_path / name).mkdir() if "folder" in name else (tmp_path / name).touch()
    (tmp_path / goes[1] / "inside").touch()
    for name in (goes[2], stays[2]):
        os.utime(tmp_path / name, (time.time() - 100_000,) * 2)
    files.write_text(tmp_path / "b.txt", "new")
    assert {path.name for path in tmp_path.iterdir()} == {*stays, "b.txt"}


def test_a_process_that_is_killed_while_it_writes_leaves_nothing_for_long(tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import os, signal, sys
        from pathlib import Path
        from ksae_lib.io import atomic_path
        with atomic_path(Path(sys.argv[1])) as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "a.txt")], check=False)
    assert len(list(tmp_path.iterdir())) == 1
    files.sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def topk_encoder(state: files.Tensors, x: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and reconstructions as SAELens' TopKSAE and sparsify's SparseCoder compute them from their parameters."""
    weight = state["W_enc"].T if "W_enc" in state else state["encoder.weight"]
    bias = state["b_enc"] if "b_enc" in state else state["encoder.bias"]
    top = torch.topk(torch.nn.functional.linear(x - state["b_dec"], weight, bias), k)
    codes = torch.zeros(len(x), len(weight)).scatter(-1, top.indices, torch.relu(top.values))
    return codes, codes @ state["W_dec"] + state["b_dec"]


@pytest.mark.parametrize("layout", ["sae_lens", "sparsify"])
def test_topk_autoencoders_of_others_give_the_same_codes(layout: str) -> None:
    x = np.random.default_rng(0).normal(5, 2, (300, 20)).astype(np.float32)
    coder = KSparseCoder(40, k=6, epochs=5, activation="relu", random_state=0).fit(x)
    state = files.topk_state(coder.model_, coder.mean_, coder.scale_, layout)
    codes, reconstruction = topk_encoder(state, torch.from_numpy(x), 6)
    on_seen = files.topk_state(coder.model_) | {"b_dec": torch.zeros(20), "b_enc": coder.model_.bias.detach()}
    seen = torch.from_numpy((x - coder.mean_).astype(np.float32) * np.float32(coder.scale_))
    assert np.array_equal(topk_encoder(on_seen, seen, 6)[0], coder.transform(x)), "bit for bit"
    assert np.allclose(codes, coder.transform(x), atol=1e-4)
    assert np.allclose(reconstruction, coder.inverse_transform(coder.transform(x)), atol=1e-4)
    sizes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert (
        sizes
        == {
            "sae_lens": {"W_enc": (20, 40), "b_enc": (40,), "W_dec": (40, 20), "b_dec": (20,)},
            "sparsify": {"encoder.weight": (40, 20), "encoder.bias": (40,), "W_dec": (40, 20), "b_dec": (20,)},
        }[layout]
    )
    model, mean, scale = files.model_of_topk(state, 6)
    assert scale == pytest.approx(coder.scale_, rel=1e-5)
    seen = torch.from_numpy(((x - mean) * scale).astype(np.float32))
    with torch.no_grad():
        again, code = model(seen)
    assert np.allclose(code, codes, atol=1e-4)
    assert np.allclose(again.numpy() / scale + mean, reconstruction, atol=1e-4)
    back = files.topk_state(model, mean, scale, layout)
    assert all(torch.allclose(back[name], state[name], rtol=1e-4, atol=1e-6) for name in state)


def test_topk_autoencoders_that_are_not_ours_are_refused() -> None:
    state = files.topk_state(KSparseAutoencoder(5, 8, 2, "relu"))
    for model, layout in ((KSparseAutoencoder(5, 8, 2), "sae_lens"), (KSparseAutoencoder(5, 8, 2, "relu"), "keras")):
        with pytest.raises(ValueError, match="activation='relu' and choose one of sae_lens, sparsify"):
            files.topk_state(model, layout=layout)
    with pytest.raises(ValueError, match="differ by more than a factor: ours are tied"):
        files.model_of_topk({**state, "W_enc": -state["W_enc"]}, 2)
    with pytest.raises(ValueError, match="not a TopK autoencoder's parameters: b_dec, b_enc missing"):
        files.model_of_topk({name: state[name] for name in ("W_enc", "W_dec")}, 2)
