"""Files that are there whole and on the disk, and what a file system refuses, in one sentence."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from data.errors import BadInput
from data.stores import Place, Remote


@contextmanager
def writing(path: Place) -> Iterator[None]:
    """Errors of the file system as one sentence."""
    try:
        yield
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else "the file system refused"
        raise BadInput(f"cannot write to {path}: {why}; choose another destination or make room") from None


@contextmanager
def locked(folder: Place) -> Iterator[None]:
    """One publisher of a dataset at a time; the lock falls with the process. In a store there is none: claims decide who gets a number."""
    if isinstance(folder, Remote):
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks: the rename still decides who gets a number
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def write(path: Path, text: str) -> None:
    """A small file, on the disk when this returns."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def replaced(path: Path, text: str) -> None:
    """A small file that is there whole, as it was or as it is now."""
    fresh = path.with_name(f".{path.name}")
    write(fresh, text)
    os.replace(fresh, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file or a folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Place) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def size(path: Place) -> int:
    """Bytes of a file."""
    return path.stat().st_size if isinstance(path, Path) else path.size()
