"""Indexes of repositories: fetched, unpacked, and kept by the digest that the metadata names."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import logging
import lzma
import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyzstd

from vnfsbuild.digest import Digest, digest_of_stream
from vnfsbuild.errors import VerificationError, VnfsbuildError
from vnfsbuild.fetch import fetch
from vnfsbuild.files import open_atomic
from vnfsbuild.sources.release import IndexFile

logger = logging.getLogger(__name__)

MAX_INDEX_BYTES = 2 * 1024 * 1024 * 1024
KEPT_SECONDS = 14 * 24 * 3600
"""Indexes that nobody used for so long are deleted."""

_BROKEN = (lzma.LZMAError, EOFError, gzip.BadGzipFile, zlib.error, pyzstd.ZstdError)
"""What is raised when something cannot be unpacked."""


def open_kept(cache: Path) -> Path:
    """Return the directory of *cache* that indexes are kept in, made when there is none."""
    kept = cache / "metadata" / "sha256"
    kept.mkdir(parents=True, exist_ok=True)
    return kept


def bring_index(
    packed: IndexFile,
    plain: IndexFile | None,
    *,
    urls: Sequence[str],
    kept: Path,
    proxies: Mapping[str, str],
    where: str,
) -> Path:
    """Return the index unpacked, from the directory *kept* when it is there and whole.

    *packed* is what is fetched, *plain* what it is when unpacked, where the metadata says so.

    Raises:
        VerificationError: it is not what the metadata says.
        VnfsbuildError: none of *urls* has it, or it cannot be unpacked.
    """
    if plain and _is_whole(kept / plain.sha256):
        return kept / plain.sha256
    path = kept / packed.sha256
    if not _is_whole(path):
        fetch(
            urls,
            path,
            digest=Digest(f"sha256:{packed.sha256}"),
            size_bytes=packed.size_bytes,
            proxies=proxies,
        )
    if packed == plain:
        return path
    unpacked = _unpack(path, packed, plain, kept=kept, where=where)
    if plain:
        path.unlink(missing_ok=True)
    return unpacked


def prune_kept(kept: Path) -> None:
    """Delete from the directory *kept* what nobody used for long."""
    oldest = time.time() - KEPT_SECONDS
    for path in kept.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < oldest:
                path.unlink()


def _unpack(
    path: Path, packed: IndexFile, plain: IndexFile | None, *, kept: Path, where: str
) -> Path:
    # What the metadata says is a limit only where somebody signed it.
    limit_bytes = min(plain.size_bytes, MAX_INDEX_BYTES) if plain else MAX_INDEX_BYTES
    hasher, seen_bytes = hashlib.sha256(), 0
    # Another lock may be made at the same time, of the same index.
    target = kept / f"{packed.sha256}.{os.getpid()}.unpacked"
    with _written(target), _open_packed(path, packed.path) as source, open_atomic(target) as sink:
        try:
            for piece in iter(lambda: source.read(1024 * 1024), b""):
                seen_bytes += len(piece)
                if seen_bytes > limit_bytes:
                    raise VerificationError(f"{where}: unpacks to more than {limit_bytes} bytes")
                hasher.update(piece)
                sink.write(piece)
        except _BROKEN as error:
            raise VnfsbuildError(f"{where}: cannot be unpacked: {error}") from error
        found = hasher.hexdigest()
        if plain and found != plain.sha256:
            raise VerificationError(
                f"{where}: unpacks to sha256:{found}, the metadata says {plain.sha256}"
            )
    return target.replace(kept / found)


@contextlib.contextmanager
def _written(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise VnfsbuildError(
            f"{path.parent}: cannot be written: {error.strerror}",
            hint="free some space, or keep the cache elsewhere: VNFS_CACHE=/path vnfsbuild …",
        ) from error


def _open_packed(path: Path, name: str) -> AbstractContextManager[BinaryIO]:
    openers: dict[str, Callable[..., Any]] = {
        ".xz": lzma.open,
        ".gz": gzip.open,
        ".zst": pyzstd.open,
    }
    return cast("BinaryIO", openers.get(Path(name).suffix, open)(path, "rb"))


def _is_whole(path: Path) -> bool:
    """Tell whether the file at *path* is what its name says; one that is not is deleted."""
    try:
        with path.open("rb") as file:
            digest, _ = digest_of_stream(file)
    except FileNotFoundError:
        return False
    if digest != f"sha256:{path.name}":
        logger.warning("%s: damaged in the cache, fetched again", path.name)
        path.unlink()
        return False
    os.utime(path)
    return True
