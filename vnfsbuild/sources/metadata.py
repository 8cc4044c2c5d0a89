"""The metadata of repositories, verified by us before any solver sees it.

InRelease is signed by the key that was named for the repository; it vouches for the indexes of
packages, and they for the packages. What the host's own apt is told to believe plays no part.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import logging
import lzma
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyzstd

from vnfsbuild.digest import Digest, digest_of, digest_of_stream
from vnfsbuild.errors import VerificationError, VnfsbuildError
from vnfsbuild.fetch import FetchError, fetch, fetch_bytes
from vnfsbuild.files import open_atomic
from vnfsbuild.sources.openpgp import Signed, read_key, verify_clearsigned, verify_detached
from vnfsbuild.sources.release import (
    IndexFile,
    Release,
    choose_indexes,
    parse_release,
    verify_release,
)
from vnfsbuild.sources.repository import KEYRING_PACKAGES, KEYRINGS, Repository

logger = logging.getLogger(__name__)

MAX_RELEASE_BYTES = 32 * 1024 * 1024
MAX_INDEX_BYTES = 2 * 1024 * 1024 * 1024
KEPT_SECONDS = 14 * 24 * 3600
"""Indexes that nobody used for so long are deleted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verifier:
    """What signatures are verified with."""

    gpgv: tuple[str, ...]
    """argv that the program begins with"""
    root: Path
    """below it are the keyrings of distributions: a tools tree, or the host"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verified:
    """A repository's metadata, after all that there is to verify."""

    repository: Repository
    digest: Digest
    """of the signed file"""
    release: Release
    keys: tuple[str, ...]
    """fingerprints of those that signed it"""
    indexes: tuple[Path, ...]
    """Packages files"""


def fetch_metadata(
    repositories: Sequence[Repository],
    *,
    architecture: str,
    cache: Path,
    verifier: Verifier,
    now: int,
    least_epochs: Mapping[str, int],
    proxies: Mapping[str, str],
    progress: Callable[[str], None] = logger.info,
) -> tuple[Verified, ...]:
    """Return the metadata of *repositories* as they are today.

    *least_epochs* are the dates, by repository id, that none may be older than; *architecture* is
    Debian's name.

    Raises:
        VerificationError: a signature, a date or an index is not what it must be.
        VnfsbuildError: a mirror fails, or has no such suite or component.
    """
    kept = cache / "metadata" / "sha256"
    kept.mkdir(parents=True, exist_ok=True)
    found = []
    for repository in repositories:
        progress(f"lock: reading {repository}")
        signed, digest = _fetch_release(repository, verifier, proxies)
        release = parse_release(signed.text.decode("utf-8", "replace"), where=str(repository))
        verify_release(
            release,
            suite=repository.suite,
            now=now,
            least_epoch=least_epochs.get(repository.id),
            where=str(repository),
        )
        chosen = choose_indexes(
            release,
            suite=repository.suite,
            components=repository.components,
            architecture=architecture,
            where=str(repository),
        )
        indexes = tuple(
            _bring_index(repository, release, packed, plain, kept=kept, proxies=proxies)
            for packed, plain in chosen
        )
        found.append(
            Verified(
                repository=repository,
                digest=digest,
                release=release,
                keys=signed.keys,
                indexes=indexes,
            )
        )
    _prune(kept)
    return tuple(found)


def read_keys(repository: Repository, root: Path) -> bytes:
    """Return the keys that *repository* may be signed by; those of distributions are below *root*.

    Raises:
        VnfsbuildError: there are none.
    """
    if repository.key:
        return read_key(repository.key)
    path = root / KEYRINGS[repository.distribution]
    if not path.is_file():
        raise VnfsbuildError(
            f"{path}: no such keyring, expected the one that {repository} is signed by",
            hint=f"apt-get install {KEYRING_PACKAGES[repository.distribution]}",
        )
    return read_key(path)


def _fetch_release(
    repository: Repository, verifier: Verifier, proxies: Mapping[str, str]
) -> tuple[Signed, Digest]:
    keys = read_keys(repository, verifier.root)
    try:
        data = _fetch_text(repository, "InRelease", proxies)
    except FetchError as error:
        if not error.missing:
            raise
    else:
        signed = verify_clearsigned(data, keys=keys, gpgv=verifier.gpgv, where=str(repository))
        return signed, digest_of(data)
    return _fetch_detached(repository, keys, verifier, proxies)


def _fetch_detached(
    repository: Repository, keys: bytes, verifier: Verifier, proxies: Mapping[str, str]
) -> tuple[Signed, Digest]:
    try:
        data = _fetch_text(repository, "Release", proxies)
    except FetchError as error:
        if error.missing:
            raise VnfsbuildError(
                f"{repository}: no InRelease and no Release at {repository.metadata_url}",
                hint="VNFS_MIRROR=http://mirror.example.org/debian names another mirror"
                if repository.distribution
                else "unsigned packages may come as files: packages.local in the recipe",
            ) from error
        raise
    try:
        signature = _fetch_text(repository, "Release.gpg", proxies)
    except FetchError as error:
        if error.missing:
            raise VerificationError(
                f"{repository}: not signed: found Release, expected InRelease or Release.gpg too",
                hint="sign it; or put its packages beside the recipe and list them in "
                "packages.local, where the lock's digests vouch for them",
            ) from error
        raise
    signed = verify_detached(data, signature, keys=keys, gpgv=verifier.gpgv, where=str(repository))
    return signed, digest_of(data)


def _fetch_text(repository: Repository, name: str, proxies: Mapping[str, str]) -> bytes:
    url = f"{repository.metadata_url}/{name}"
    return fetch_bytes(url, limit_bytes=MAX_RELEASE_BYTES, proxies=proxies)


def _bring_index(
    repository: Repository,
    release: Release,
    packed: IndexFile,
    plain: IndexFile | None,
    *,
    kept: Path,
    proxies: Mapping[str, str],
) -> Path:
    """Return the unpacked index, from *kept* when it is there and whole."""
    if plain and _is_whole(kept / plain.sha256):
        return kept / plain.sha256
    path = kept / packed.sha256
    if not _is_whole(path):
        base = repository.metadata_url
        urls = [f"{base}/{packed.path}"]
        if release.by_hash:
            folder = packed.path.rpartition("/")[0]
            name = f"by-hash/SHA256/{packed.sha256}"
            # By digest first: the plain name changes in the middle of a mirror's update.
            urls.insert(0, f"{base}/{folder}/{name}" if folder else f"{base}/{name}")
        fetch(
            urls,
            path,
            digest=Digest(f"sha256:{packed.sha256}"),
            size_bytes=packed.size_bytes,
            proxies=proxies,
        )
    if packed is plain or packed == plain:
        return path
    unpacked = _unpack(path, packed, plain, kept=kept, where=f"{repository} {packed.path}")
    if plain:
        path.unlink()
    return unpacked


def _unpack(
    path: Path, packed: IndexFile, plain: IndexFile | None, *, kept: Path, where: str
) -> Path:
    limit_bytes = plain.size_bytes if plain else MAX_INDEX_BYTES
    hasher, seen_bytes = hashlib.sha256(), 0
    target = kept / f"{packed.sha256}.unpacked"
    with _written(target), _open_packed(path, packed.path) as source, open_atomic(target) as sink:
        try:
            for piece in iter(lambda: source.read(1024 * 1024), b""):
                seen_bytes += len(piece)
                if seen_bytes > limit_bytes:
                    raise VerificationError(f"{where}: unpacks to more than {limit_bytes} bytes")
                hasher.update(piece)
                sink.write(piece)
        except (lzma.LZMAError, EOFError, gzip.BadGzipFile, pyzstd.ZstdError) as error:
            raise VnfsbuildError(f"{where}: cannot be unpacked: {error}") from error
        found = hasher.hexdigest()
        if plain and found != plain.sha256:
            raise VerificationError(
                f"{where}: unpacks to sha256:{found}, the Release file says {plain.sha256}"
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


def _prune(kept: Path) -> None:
    oldest = time.time() - KEPT_SECONDS
    for path in kept.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < oldest:
                path.unlink()
