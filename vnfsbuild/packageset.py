"""Package sets: all packages of a lock as one file, the same bytes for the same lock.

Format: a tar archive as :mod:`vnfsbuild.ustar` writes it, with a member ``sha256/HEX`` for each
package of image and tools tree, sorted. With it a capsule can be built again when no mirror has its
packages any more.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from vnfsbuild import ustar
from vnfsbuild.digest import READ_SIZE_BYTES, Digest, verify_stream
from vnfsbuild.errors import VerificationError, VnfsbuildError
from vnfsbuild.files import open_atomic
from vnfsbuild.lock import Lock, LockedPackage
from vnfsbuild.packages import find_missing, package_path
from vnfsbuild.referrers.attachment import PACKAGE_SET

MEDIA_TYPE = PACKAGE_SET

_NAME = re.compile(r"sha256/([0-9a-f]{64})")


def list_packages(lock: Lock) -> tuple[LockedPackage, ...]:
    """Return what belongs into the package set of *lock*: each package once, by digest."""
    found = {item.sha256: item for item in (*lock.packages, *lock.tools)}
    return tuple(found[sha256] for sha256 in sorted(found))


def write_package_set(lock: Lock, out: Path, *, cache: Path) -> None:
    """Write the packages of *lock* out of *cache* to the file *out*.

    Raises:
        VnfsbuildError: the cache lacks one, or the disk is full; *out* is as it was.
    """
    packages = list_packages(lock)
    missing = find_missing(cache, packages)
    if missing:
        names = ", ".join(item.name for item in missing[:5])
        raise VnfsbuildError(
            f"{cache}: lacks {len(missing)} packages of the lock: {names}",
            hint="vnfsbuild fetch RECIPE",
        )
    with _written(out), open_atomic(out) as sink:
        for item in packages:
            sink.write(ustar.render_header(f"sha256/{item.sha256}", item.size_bytes))
            with package_path(cache, item.sha256).open("rb") as file:
                for piece in _read_pieces(file, item.size_bytes):
                    sink.write(piece)
            sink.write(ustar.padding(item.size_bytes))
        sink.write(ustar.END)


def import_package_set(path: Path, *, cache: Path) -> int:
    """Bring the packages of the set *path* into *cache*; return how many there are.

    Raises:
        VerificationError: not a package set, or a package that is not what its name says; those
            before it have been brought in.
        VnfsbuildError: the disk is full.
    """
    package_path(cache, "").mkdir(parents=True, exist_ok=True)
    count, before = 0, ""
    with path.open("rb") as file:
        while (block := file.read(ustar.BLOCK_BYTES)) != bytes(ustar.BLOCK_BYTES):
            name, size_bytes = ustar.parse_header(block, where=str(path))
            found = _NAME.fullmatch(name)
            if found is None or name <= before:
                raise VerificationError(f"{path}: found {name!r}, expected packages by digest")
            _take(file, size_bytes, package_path(cache, found[1]), where=f"{path}: {name}")
            before, count = name, count + 1
        if block + file.read() != ustar.END:
            raise VerificationError(f"{path}: found more after the end of the archive")
    return count


@contextlib.contextmanager
def _written(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise VnfsbuildError(f"{path}: cannot be written: {error.strerror}") from error


def _take(file: BinaryIO, size_bytes: int, target: Path, *, where: str) -> None:
    digest = Digest(f"sha256:{target.name}")
    with _written(target), open_atomic(target) as sink:
        pieces = _read_pieces(file, size_bytes)
        for piece in verify_stream(pieces, digest=digest, size_bytes=size_bytes, where=where):
            sink.write(piece)
    if file.read(-size_bytes % ustar.BLOCK_BYTES) != ustar.padding(size_bytes):
        raise VerificationError(f"{where}: padded with other bytes than zero")


def _read_pieces(file: BinaryIO, size_bytes: int) -> Iterator[bytes]:
    left_bytes = size_bytes
    while piece := file.read(min(left_bytes, READ_SIZE_BYTES)):
        left_bytes -= len(piece)
        yield piece
