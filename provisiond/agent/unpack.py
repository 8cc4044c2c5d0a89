"""Unpacking a cpio archive (newc) of ours over a directory: plain files and directories alone."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import BinaryIO, Tuple

from vnfsbuild.errors import VerificationError
from vnfsbuild.newc import TRAILER, padding

MAGIC = b"070701"
HEADER_BYTES = 110
MAX_NAME_BYTES = 4096
COPY_BYTES = 64 * 1024


def unpack(archive: BinaryIO, root: Path, *, last: str = "") -> None:
    """Write what is in *archive*, whose bytes were verified, below *root*; the file *last* last.

    What is there is replaced.

    Raises:
        VerificationError: it is no such archive, or leads out of *root*.
        OSError: something cannot be written.
    """
    held = b""
    while True:
        name, mode, size_bytes = _read_header(archive)
        if name == TRAILER:
            break
        path = _place(root, name)
        if stat.S_ISDIR(mode):
            path.mkdir(parents=True, exist_ok=True)
        elif not stat.S_ISREG(mode):
            raise VerificationError(f"{name}: found mode {mode:o}, expected a file or a directory")
        elif name == last:
            held = _read(archive, size_bytes)
        else:
            _write(archive, path, size_bytes)
        archive.read(len(padding(size_bytes)))
    if last:
        _place(root, last).write_bytes(held)


def _read_header(archive: BinaryIO) -> Tuple[str, int, int]:
    """Return name, mode and size of the next member."""
    header = _read(archive, HEADER_BYTES)
    if header[:6] != MAGIC:
        raise VerificationError(f"found {header[:6]!r}, expected the header of a newc archive")
    try:
        fields = [int(header[at : at + 8], 16) for at in range(6, HEADER_BYTES, 8)]
    except ValueError as error:
        raise VerificationError(f"a header that is none: {error}") from error
    length = fields[11]
    if not 1 < length <= MAX_NAME_BYTES:
        raise VerificationError(f"found a name of {length} bytes")
    name = _read(archive, length)[:-1].decode("utf-8", "surrogateescape")
    archive.read(len(padding(HEADER_BYTES + length)))
    return name, fields[1], fields[6]


def _place(root: Path, name: str) -> Path:
    if name.startswith("/") or ".." in name.split("/") or "\0" in name:
        raise VerificationError(f"{name!r}: leads out of the archive")
    return root / name


def _write(archive: BinaryIO, path: Path, size_bytes: int) -> None:
    # A new file: one that is open, or mapped, stays as it is for those who have it.
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    left = size_bytes
    with path.open("wb") as file:
        while left:
            chunk = archive.read(min(left, COPY_BYTES))
            if not chunk:
                raise VerificationError(f"{path}: the archive ends within it")
            file.write(chunk)
            left -= len(chunk)


def _read(archive: BinaryIO, count: int) -> bytes:
    data = archive.read(count)
    if len(data) < count:
        raise VerificationError("the archive ends within a member")
    return data
