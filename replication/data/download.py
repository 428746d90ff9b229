"""Fetching published files: verified, resumed, whole or absent."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from ksae_lib.io import atomic_path, sync_file
from replication.data.base import DataError

_CHUNK = 1 << 20
_TIMEOUT_SECONDS = 30.0
_OUR_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)


class PublishedFile(NamedTuple):
    """What a published file is."""

    size: int
    """Bytes."""
    sha256: str


def fetch(
    files: Mapping[str, PublishedFile], folder: Path, bases: Sequence[str], timeout: float = _TIMEOUT_SECONDS
) -> None:
    """Download what is missing; a file takes its name when its checksum is right and not before.

    What an interrupted download left is continued, from whichever server.

    Args:
        files: by name.
        folder: where they go; made if it is not there.
        bases: addresses of folders to fetch from, tried in this order.
        timeout: seconds without an answer after which the next address is tried.

    Raises:
        DataError: no address gave a file, a checksum is wrong, the disk is too small, or another download is at work.
        OSError: the disk is full or must not be written.
    """
    for base in bases:
        if not base.startswith(("http://", "https://")):
            raise DataError(f"{base} is not an address to fetch from: name one that starts with http:// or https://.")
    with _alone(folder):
        missing = {name: file for name, file in files.items() if not (folder / name).exists()}
        _check_room(folder, sum(file.size - _size(_partial(folder / name)) for name, file in missing.items()))
        for name, file in missing.items():
            _fetch_one(name, file, folder, bases, timeout)


def _fetch_one(name: str, file: PublishedFile, folder: Path, bases: Sequence[str], timeout: float) -> None:
    reasons = []
    for base in bases:
        try:
            _download(f"{base.rstrip('/')}/{name}", folder / name, file, timeout)
            return
        except (urllib.error.URLError, HTTPException, OSError, DataError) as error:
            if isinstance(error, OSError) and error.errno in _OUR_DISK:
                raise
            reasons.append(f"{base}: {error}")
    raise DataError(
        f"{name} could not be fetched ({'; '.join(reasons)}). The same command goes on where this one stopped; "
        "or name another address with --base-url, or a folder that has the files with --from."
    )


def take(files: Mapping[str, PublishedFile], folder: Path, source: Path) -> None:
    """Copy published files from another folder, verified.

    Raises:
        DataError: one is not there or not the published one, or the disk is too small.
        OSError: the disk is full or must not be written.
    """
    for name in files:
        if not (source / name).exists():
            raise DataError(f"{source / name} is missing: --from takes a folder with {', '.join(files)}.")
    with _alone(folder):
        _check_room(folder, sum(file.size for file in files.values()))
        for name, file in files.items():
            with atomic_path(folder / name) as copy:
                shutil.copyfile(source / name, copy)
                _check(copy, file, f"{source / name}")


def verify(files: Mapping[str, PublishedFile], folder: Path) -> None:
    """Check that files are the published ones.

    Raises:
        DataError: one is missing or another.
    """
    for name, file in files.items():
        if not (folder / name).exists():
            raise DataError(f"{folder / name} is missing: 'ksae data get norb' fetches it.")
        if _digest(folder / name) != file.sha256:
            raise DataError(f"{folder / name} is not the official file: delete it and run 'ksae data get norb'.")


def _download(address: str, path: Path, file: PublishedFile, timeout: float) -> None:
    """Complete a file from one address, from its beginning if what was there before turns out to be another's."""
    partial = _partial(path)
    before = _size(partial)
    _append(address, path, file, timeout)
    try:
        _accept(partial, path, file, address)
    except DataError:
        if not before:
            raise
        _append(address, path, file, timeout)
        _accept(partial, path, file, address)


def _append(address: str, path: Path, file: PublishedFile, timeout: float) -> None:
    """Fetch what a partial file lacks.

    Raises:
        DataError: the answer is not that part of the file, or breaks off.
    """
    partial = _partial(path)
    have = _size(partial)
    if have >= file.size:
        return
    request = urllib.request.Request(address, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        # A server that does not know ranges sends everything.
        start = have if answer.status == 206 else 0
        if start and not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise DataError("it sent another part than was asked for")
        length = answer.headers.get("Content-Length")
        if length is not None and int(length) != file.size - start:
            raise DataError(f"it has not the published file but one of {start + int(length)} bytes")
        with (
            partial.open("ab" if start else "wb") as out,
            tqdm(total=file.size, initial=start, unit="B", unit_scale=True, desc=path.name, disable=None) as bar,
        ):
            while block := answer.read(_CHUNK):
                out.write(block)
                bar.update(len(block))
    if _size(partial) < file.size:
        raise DataError(f"broke off after {_size(partial)} of {file.size} bytes")


def _accept(partial: Path, path: Path, file: PublishedFile, origin: str) -> None:
    """Give a complete file its name if it is the published one, and delete it if not."""
    try:
        _check(partial, file, origin)
    except DataError:
        partial.unlink()
        raise
    sync_file(partial)
    partial.replace(path)


def _check(path: Path, file: PublishedFile, origin: str) -> None:
    if _size(path) != file.size or _digest(path) != file.sha256:
        raise DataError(f"{origin} is not the published file, its size or checksum differs: get the official one")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Make the folder and keep other downloads out of it."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise DataError(f"Another download into {folder} is at work: wait for it or stop it.") from None
    finally:
        os.close(handle)


def _check_room(folder: Path, needed: int) -> None:
    if needed > shutil.disk_usage(folder).free:
        raise DataError(f"{folder} has no room for {needed / 1e6:.0f} MB: free space or choose another with --root.")


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
