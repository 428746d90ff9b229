from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ksae_lib import io as files
from replication.data import DataError, download
from replication.data.download import PublishedFile, fetch, take, verify

CONTENT = bytes(range(256)) * 40
FILES = {"a.gz": PublishedFile(len(CONTENT), hashlib.sha256(CONTENT).hexdigest())}


class Server(ThreadingHTTPServer):
    """Serves ``a.gz`` in one of the ways servers have; ``asked`` lists the ranges that were asked for."""

    way = "well"
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/data/"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        way, content = self.server.way, CONTENT
        self.server.asked.append(self.headers["Range"])
        if way == "404":
            self.send_error(404)
            return
        if way == "slow":
            time.sleep(1.5)
        if way.startswith("wrong"):
            content = content[::-1]
        start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-")) if self.headers["Range"] else 0
        if way in ("no ranges", "page"):
            start = 0
        if way == "page":
            content = b"<p>Please log in.</p>"
        self.send_response(206 if start else 200)
        if start:
            self.send_header(
                "Content-Range", f"bytes {start + (way == 'another part')}-{len(content) - 1}/{len(content)}"
            )
        if way != "unknown length":
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if way == "unknown length":
            content = b"<p>Please log in.</p>"
        self.wfile.write(content[start : len(content) // 2 if "breaks off" in way else None])

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def running() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    with running() as made:
        yield made


@pytest.fixture
def other() -> Iterator[Server]:
    with running() as made:
        yield made


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_is_fetched_once(server: Server, tmp_path: Path) -> None:
    fetch(FILES, tmp_path / "new", [server.base])
    assert (tmp_path / "new" / "a.gz").read_bytes() == CONTENT
    fetch(FILES, tmp_path / "new", [server.base])
    assert server.asked == [None]
    assert names(tmp_path / "new") == {"a.gz"}


@pytest.mark.parametrize("then", ["well", "no ranges"])
def test_a_download_that_broke_off_goes_on(server: Server, tmp_path: Path, then: str) -> None:
    server.way = "breaks off"
    with pytest.raises(DataError, match=r"a\.gz could not be fetched .*The same command goes on"):
        fetch(FILES, tmp_path, [server.base])
    assert names(tmp_path) == {".a.gz.part"}
    server.way = then
    fetch(FILES, tmp_path, [server.base])
    assert server.asked == [None, f"bytes={len(CONTENT) // 2}-"]
    assert (tmp_path / "a.gz").read_bytes() == CONTENT
    assert names(tmp_path) == {"a.gz"}


@pytest.mark.parametrize("way", ["404", "wrong", "slow", "page"])
def test_the_next_address_is_tried(server: Server, other: Server, tmp_path: Path, way: str) -> None:
    other.way = way
    fetch(FILES, tmp_path, [other.base, server.base], timeout=0.5)
    assert len(other.asked) == len(server.asked) == 1
    assert (tmp_path / "a.gz").read_bytes() == CONTENT


@pytest.mark.parametrize("way", ["wrong, breaks off", "unknown length"])
def test_wrong_bytes_of_one_address_do_not_spoil_the_next(
    server: Server, other: Server, tmp_path: Path, way: str
) -> None:
    other.way = way
    fetch(FILES, tmp_path, [other.base, server.base])
    assert len(other.asked) == 1 and len(server.asked) == 2
    assert (tmp_path / "a.gz").read_bytes() == CONTENT
    assert names(tmp_path) == {"a.gz"}


@pytest.mark.parametrize("way", ["page", "another part", "404"])
def test_a_useless_answer_leaves_what_was_fetched_before(
    server: Server, other: Server, tmp_path: Path, way: str
) -> None:
    (tmp_path / ".a.gz.part").write_bytes(CONTENT[:100])
    other.way = way
    fetch(FILES, tmp_path, [other.base, server.base])
    assert other.asked == server.asked == ["bytes=100-"]
    assert (tmp_path / "a.gz").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("way", "message"), [("404", "404"), ("wrong", "not the published file"), ("slow", "timed out")]
)
def test_a_server_s_fault_is_told_and_nothing_takes_the_file_s_name(
    server: Server, tmp_path: Path, way: str, message: str
) -> None:
    server.way = way
    with pytest.raises(DataError, match=message):
        fetch(FILES, tmp_path, [server.base], timeout=0.5)
    assert names(tmp_path) == set()


def test_nobody_answers(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="could not be fetched"):
        fetch(FILES, tmp_path, ["http://127.0.0.1:1/"])


def test_what_another_file_left_is_not_taken_for_this_one(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".a.gz.part").write_bytes(b"x" * 100)
    fetch(FILES, tmp_path, [server.base])
    assert server.asked == ["bytes=100-", None]
    assert (tmp_path / "a.gz").read_bytes() == CONTENT


@pytest.mark.parametrize("base", ["example.org/norb", "/home/norb", "ftp://example.org"])
def test_what_is_not_an_address_is_refused(tmp_path: Path, base: str) -> None:
    with pytest.raises(DataError, match="is not an address"):
        fetch(FILES, tmp_path, [base])


def test_a_second_download_into_the_folder_is_refused(server: Server, tmp_path: Path) -> None:
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(DataError, match="at work"):
        fetch(FILES, tmp_path, [server.base])
    os.close(handle)
    fetch(FILES, tmp_path, [server.base])


def test_a_disk_that_fills_up_is_not_a_server_s_fault(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for module in (download, files):
        monkeypatch.setattr(module, "sync_file", full)
    with pytest.raises(OSError, match="No space left"):
        fetch(FILES, tmp_path, [server.base, server.base])
    assert server.asked == [None] and not (tmp_path / "a.gz").exists()
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.gz").write_bytes(CONTENT)
    with pytest.raises(OSError, match="No space left"):
        take(FILES, tmp_path / "taken", tmp_path / "source")
    assert names(tmp_path / "taken") == set()


def test_a_full_disk_is_seen_before(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
    with pytest.raises(DataError, match="no room for"):
        fetch(FILES, tmp_path, [server.base])
    assert server.asked == []
    (tmp_path / "a.gz").write_bytes(CONTENT)
    with pytest.raises(DataError, match="no room for"):
        take(FILES, tmp_path / "data", tmp_path)


def test_files_are_taken_from_a_folder(tmp_path: Path) -> None:
    source, folder = tmp_path / "source", tmp_path / "data"
    source.mkdir()
    with pytest.raises(DataError, match=r"a\.gz is missing"):
        take(FILES, folder, source)
    (source / "a.gz").write_bytes(CONTENT[:-1])
    with pytest.raises(DataError, match="not the published file"):
        take(FILES, folder, source)
    assert names(folder) == set()
    (source / "a.gz").write_bytes(CONTENT)
    take(FILES, folder, source)
    verify(FILES, folder)
    (folder / "a.gz").write_bytes(CONTENT[::-1])
    with pytest.raises(DataError, match="not the official file"):
        verify(FILES, folder)
    (folder / "a.gz").unlink()
    with pytest.raises(DataError, match="is missing"):
        verify(FILES, folder)
