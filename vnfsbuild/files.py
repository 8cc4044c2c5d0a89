"""Files that others read: old or new, never torn. And paths that must stay inside a directory."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from vnfsbuild.errors import InputError, VnfsbuildError


@contextlib.contextmanager
def open_atomic(path: Path, *, mode: int = 0o644) -> Iterator[BinaryIO]:
    """Open a file that appears at *path*, whole and durable, when the block ends well.

    When it does not, *path* is as it was. *mode* is exact: the umask does not matter, for the
    daemon that reads is another user.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Put *data* at *path* so that readers see the old file or the new one, even after a crash."""
    with open_atomic(path, mode=mode) as file:
        file.write(data)


def sync_directory(path: Path) -> None:
    """Make the names in *path* durable: a rename is so only once its directory is."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def sync_file(path: Path) -> None:
    """Make the content of the file *path* durable, whoever wrote it."""
    _sync(path, os.O_RDONLY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Make *path* and what is missing above it; durable, as the names of new files are."""
    missing = [one for one in (path, *path.parents) if not one.exists()]
    for directory in reversed(missing):
        directory.mkdir(exist_ok=True)
        sync_directory(directory.parent)


def list_directory(path: Path) -> list[Path]:
    """Return what is in the directory *path*, by name; nothing where there is none.

    A link is none, wherever it leads: who removes what is in a directory of a store, perhaps as
    root, must not do it in that of somebody else.
    """
    if path.is_symlink() or not path.is_dir():
        return []
    return sorted(path.iterdir())


def is_inside(root: Path, path: Path) -> bool:
    """Tell whether *path*, every link followed, is *root* or below it."""
    return path.resolve().is_relative_to(root.resolve())


def read_bounded(path: Path, *, limit_bytes: int) -> bytes:
    """Return the content of *path*.

    Raises:
        InputError: there is no such file, or it is larger than *limit_bytes*.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit_bytes + 1)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    if len(data) > limit_bytes:
        raise InputError(f"{path}: found more than {limit_bytes} bytes")
    return data


def size_of(path: Path) -> int:
    """Return the size of the file *path* in bytes.

    Raises:
        InputError: there is no such file.
    """
    try:
        return path.stat().st_size
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock file *path* while the block runs; only one holder at a time, of all processes.

    Raises:
        VnfsbuildError: *wait* is false and somebody else holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise VnfsbuildError(f"{path}: held by another process") from error
        yield
