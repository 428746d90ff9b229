"""Fetching published files: verified, resumed, whole or absent."""

from __future__ import annotations

import hashlib
import shutil
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from ksae_lib.datasets.base import DataError
from ksae_lib.files import sync_file

_CHUNK = 1 << 20
_TIMEOUT_SECONDS = 30.0


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
        DataError: no address gave a file, a checksum is wrong, or the disk is too small.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = {name: file for name, file in files.items() if not (folder / name).exists()}
    needed = sum(file.size - _size(_partial(folder / name)) for name, file in missing.items())
    if needed > shutil.disk_usage(folder).free:
        raise DataError(
            f"{folder} has no room for the {needed / 1e6:.0f} MB to download: free space or choose another."
        )
    for name, file in missing.items():
        reasons = []
        for base in bases:
            try:
                _download(f"{base.rstrip('/')}/{name}", folder / name, file, timeout)
                break
            except (urllib.error.URLError, HTTPException, OSError, DataError) as error:
                reasons.append(f"{base}: {error}")
        else:
            raise DataError(
                f"{name} could not be fetched ({'; '.join(reasons)}). The same command goes on where this one stopped; "
                "or name another address with --base-url, or a folder that has the files with --from."
            )


def take(files: Mapping[str, PublishedFile], folder: Path, source: Path) -> None:
    """Copy published files from another folder, verified.

    Raises:
        DataError: one is not there or not the published one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, file in files.items():
        if not (source / name).exists():
            raise DataError(f"{source / name} is missing: --from takes a folder with {', '.join(files)}.")
        partial = _partial(folder / name)
        shutil.copyfile(source / name, partial)
        _accept(partial, folder / name, file, f"{source / name}")


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
    partial = _partial(path)
    have = _size(partial)
    if have < file.size:
        request = urllib.request.Request(address, headers={"Range": f"bytes={have}-"} if have else {})
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            # A server that does not know ranges sends everything.
            if have and answer.status != 206:
                have = 0
            with (
                partial.open("ab" if have else "wb") as out,
                tqdm(total=file.size, initial=have, unit="B", unit_scale=True, desc=path.name, disable=None) as bar,
            ):
                while block := answer.read(_CHUNK):
                    out.write(block)
                    bar.update(len(block))
        if _size(partial) < file.size:
            raise DataError(f"broke off after {_size(partial)} of {file.size} bytes")
    _accept(partial, path, file, address)


def _accept(partial: Path, path: Path, file: PublishedFile, origin: str) -> None:
    """Give a complete file its name if it is the published one, and delete it if not."""
    if _size(partial) != file.size or _digest(partial) != file.sha256:
        partial.unlink()
        raise DataError(f"{origin} is not the published file: its size or checksum differs")
    sync_file(partial)
    partial.replace(path)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
