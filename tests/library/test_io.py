from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

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
