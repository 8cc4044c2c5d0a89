"""The metadata of repositories, verified by us before any solver sees it.

InRelease is signed by the key that was named for the repository; it vouches for the indexes of
packages, and they for the packages. What the host's own apt is told to believe plays no part.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vnfsbuild.digest import Digest, digest_of
from vnfsbuild.errors import VerificationError, VnfsbuildError
from vnfsbuild.fetch import FetchError, fetch_bytes
from vnfsbuild.sources.indexes import bring_index, open_kept, prune_kept
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
    kept = open_kept(cache)
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
            _bring(repository, release, packed, plain, kept=kept, proxies=proxies)
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
    prune_kept(kept)
    return tuple(found)


def read_keys(repository: Repository, root: Path) -> bytes:
    """Return the keys that *repository* may be signed by; those of distributions are below *root*.

    Raises:
        VnfsbuildError: there are none.
    """
    if repository.key:
        return read_key(repository.key)
    path = root / (repository.keyring or KEYRINGS[repository.distribution])
    if not path.is_file():
        package = KEYRING_PACKAGES.get(repository.distribution)
        raise VnfsbuildError(
            f"{path}: no such keyring, expected the one that {repository} is signed by",
            hint=f"apt-get install {package}"
            if package
            else "distribution.key in the recipe names a file beside it that has the keys",
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


def _bring(
    repository: Repository,
    release: Release,
    packed: IndexFile,
    plain: IndexFile | None,
    *,
    kept: Path,
    proxies: Mapping[str, str],
) -> Path:
    base = repository.metadata_url
    urls = [f"{base}/{packed.path}"]
    if release.by_hash:
        folder = packed.path.rpartition("/")[0]
        name = f"by-hash/SHA256/{packed.sha256}"
        # By digest first: the plain name changes in the middle of a mirror's update.
        urls.insert(0, f"{base}/{folder}/{name}" if folder else f"{base}/{name}")
    where = f"{repository} {packed.path}"
    return bring_index(packed, plain, urls=urls, kept=kept, proxies=proxies, where=where)
