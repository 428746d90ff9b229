from __future__ import annotations

import errno
import hashlib
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from replication.data import norb
from replication.data.base import DataError
from replication.data.norb import OFFICIAL, fetch, take

CONTENT = bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def official(monkeypatch: pytest.MonkeyPatch) -> None:
    """One small file is all that is official."""
    for known in list(OFFICIAL):
        monkeypatch.delitem(OFFICIAL, known)
    monkeypatch.setitem(OFFICIAL, "a.gz", hashlib.sha256(CONTENT).hexdigest())


class Server(ThreadingHTTPServer):
    """Serves ``a.gz`` in one of the ways servers have; ``asked`` lists the paths that were asked for."""

    way = "well"
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []
        self.closing = threading.Event()

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/data/"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        way, content = self.server.way, CONTENT
        self.server.asked.append(self.path)
        if way == "404":
            self.send_error(404)
            return
        if way == "silent":
            self.server.closing.wait()
            return
        if way == "wrong":
            content = content[::-1]
        if way in ("page", "unknown length"):
            content = b"<p>Please log in.</p>"
        self.send_response(200)
        if way == "declared as compressed" and "gzip" in self.headers["Accept-Encoding"]:
            self.send_header("Content-Encoding", "gzip")
        if way != "unknown length":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2 if way == "breaks off" else None])

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def running() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.closing.set()
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
    fetch(tmp_path / "new", [server.base])
    assert (tmp_path / "new" / "a.gz").read_bytes() == CONTENT
    fetch(tmp_path / "new", [server.base])
    assert server.asked == ["/data/a.gz"]
    assert names(tmp_path / "new") == {"a.gz"}


def test_what_takes_the_file_s_name_but_is_another_is_fetched_anew(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(CONTENT[:-1])
    fetch(tmp_path, [server.base])
    assert (tmp_path / "a.gz").read_bytes() == CONTENT


def test_a_file_that_is_declared_a_compressed_page_arrives_as_it_is(server: Server, tmp_path: Path) -> None:
    server.way = "declared as compressed"
    fetch(tmp_path, [server.base])
    assert (tmp_path / "a.gz").read_bytes() == CONTENT


@pytest.mark.parametrize("way", ["404", "wrong", "page", "unknown length", "breaks off"])
def test_the_next_address_is_tried(server: Server, other: Server, tmp_path: Path, way: str) -> None:
    other.way = way
    fetch(tmp_path, [other.base, server.base])
    assert len(other.asked) == len(server.asked) == 1
    assert (tmp_path / "a.gz").read_bytes() == CONTENT
    assert names(tmp_path) == {"a.gz"}


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("404", "404"),
        ("wrong", "does not match the known hash"),
        ("breaks off", "IncompleteRead"),
        ("silent", "timed out"),
    ],
)
def test_a_server_s_fault_is_told_and_nothing_takes_the_file_s_name(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, message: str
) -> None:
    server.way = way
    if way == "silent":
        monkeypatch.setattr(norb, "_TIMEOUT_SECONDS", 0.5)
    with pytest.raises(DataError, match=rf"a\.gz could not be fetched .*{message}.* run the same command again"):
        fetch(tmp_path, [server.base])
    assert names(tmp_path) == set()


@pytest.mark.parametrize("base", ["http://127.0.0.1:1/", "example.org/norb", "/no/such/folder", "sftp://example.org"])
def test_what_gives_nothing_is_named(tmp_path: Path, base: str) -> None:
    with pytest.raises(DataError, match=f"could not be fetched .{base}: .*another address"):
        fetch(tmp_path, [base])


def test_a_full_disk_is_not_a_server_s_fault(
    server: Server, other: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "move", full)
    with pytest.raises(OSError, match="No space left"):
        fetch(tmp_path / "new", [server.base, other.base])
    assert len(server.asked) == 1 and other.asked == [] and names(tmp_path / "new") == set()


def test_files_are_taken_from_a_folder_and_verified(tmp_path: Path) -> None:
    source, folder = tmp_path / "source", tmp_path / "data"
    source.mkdir()
    with pytest.raises(DataError, match=r"a\.gz is missing .*No such file.*: name a folder with the official files"):
        take(folder, source)
    (source / "a.gz").write_bytes(CONTENT[:-1])
    with pytest.raises(DataError, match=r"a\.gz is not the official file"):
        take(folder, source)
    assert not folder.exists()
    (source / "a.gz").write_bytes(CONTENT)
    take(folder, source)
    assert (folder / "a.gz").read_bytes() == CONTENT and names(folder) == {"a.gz"}
