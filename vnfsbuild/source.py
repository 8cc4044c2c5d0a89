"""The source payload: recipe, lock and every file that they name, as one tar.

Format: docs/capsule-format.md. With it and the locked packages anybody can build the capsule again.
The bytes follow from names, modes and contents alone: sorted, no times, no owners.
"""

from __future__ import annotations

import io
import stat
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from vnfsbuild.errors import VerificationError


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


def unpack_source(data: bytes, directory: Path, *, where: str) -> None:
    """Unpack the source payload *data* into *directory*, which is made.

    Files come into being in the reverse of their order: nothing may depend on it.

    Raises:
        VerificationError: it is not what :func:`pack_source` makes: *where* names the capsule.
    """
    directory.mkdir(parents=True)
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            members = tar.getmembers()
            for member in members:
                _require_plain(member, where=where)
            backwards = list(reversed(members))
            # Links last: nothing is written through one.
            for member in sorted(backwards, key=tarfile.TarInfo.issym):
                _unpack(tar, member, directory)
    except (tarfile.TarError, OSError) as error:
        raise VerificationError(f"{where}: source: cannot be unpacked: {error}") from error
    if pack_source({member.name: directory / member.name for member in members}) != data:
        raise VerificationError(f"{where}: source: in another form than the one that is valid")


def _unpack(tar: tarfile.TarFile, member: tarfile.TarInfo, directory: Path) -> None:
    target = directory / member.name
    target.parent.mkdir(parents=True, exist_ok=True)
    if member.issym():
        target.symlink_to(member.linkname)
    elif member.isdir():
        target.mkdir(exist_ok=True)
    else:
        content = tar.extractfile(member)
        target.write_bytes(content.read() if content else b"")
        target.chmod(0o755 if member.mode & stat.S_IXUSR else 0o644)


def _require_plain(member: tarfile.TarInfo, *, where: str) -> None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or str(path) != member.name:
        raise VerificationError(
            f"{where}: source: found the name {member.name!r}, expected one below it"
        )
    if member.type not in (tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE):
        raise VerificationError(
            f"{where}: source: {member.name}: found type {member.type!r}, "
            "expected a file, a directory or a symbolic link"
        )
