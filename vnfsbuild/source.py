"""The source payload: recipe, lock and every file that they name, as one tar.

Format: docs/capsule-format.md. With it and the locked packages anybody can build the capsule again.
The bytes follow from names, modes and contents alone: sorted, no times, no owners.
"""

from __future__ import annotations

import io
import stat
import tarfile
from collections.abc import Mapping
from pathlib import Path


def pack_source(entries: Mapping[str, Path]) -> bytes:
    """Return a tar of *entries*: the name in the archive → the file, symbolic link or directory.

    Of a file's mode only the question whether its owner may execute it is kept: a checkout made
    under another umask gives the same bytes.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted(entries):
            _add(tar, name, entries[name])
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, path: Path) -> None:
    member = tarfile.TarInfo(name)
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        member.type, member.mode = tarfile.SYMTYPE, 0o777
        member.linkname = str(path.readlink())
        tar.addfile(member)
    elif stat.S_ISDIR(found.st_mode):
        member.type, member.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(member)
    else:
        data = path.read_bytes()
        member.mode = 0o755 if found.st_mode & stat.S_IXUSR else 0o644
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
