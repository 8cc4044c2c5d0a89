"""The metadata of RPM repositories, verified by us before any solver sees it.

repomd.xml is signed by the key that was named for the repository; it vouches for the lists of
packages, and they for the packages. Where a recipe says that a repository has no signed metadata,
each package's own signature counts instead, and the lock says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vnfsbuild.digest import Digest, digest_of
from vnfsbuild.errors import VerificationError, VnfsbuildError
from vnfsbuild.fetch import FetchError, fetch_bytes
from vnfsbuild.origins import METADATA, PACKAGES_ONLY
from vnfsbuild.sources.indexes import bring_index, open_kept, prune_kept
from vnfsbuild.sources.metadata import MAX_RELEASE_BYTES, Verifier, read_keys
from vnfsbuild.sources.openpgp import verify_detached
from vnfsbuild.sources.repomd import Repomd, parse_repomd, verify_repomd
from vnfsbuild.sources.repository import Repository

logger = logging.getLogger(__name__)

REPOMD = "repodata/repomd.xml"


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifiedRpms:
    """A repository's metadata, after all that there is to verify."""

    repository: Repository
    digest: Digest
    """of repomd.xml"""
    epoch: int
    keys: tuple[str, ...]
    """fingerprints of those that signed it; none where only packages are signed"""
    indexes: Mapping[str, Path]
    """unpacked, by what they are: see :mod:`vnfsbuild.sources.repomd`"""

    @property
    def trust(self) -> str:
        """Which signatures count."""
        return self.repository.trust


def fetch_rpm_metadata(
    repositories: Sequence[Repository],
    *,
    cache: Path,
    verifier: Verifier,
    now: int,
    least_epochs: Mapping[str, int],
    proxies: Mapping[str, str],
    progress: Callable[[str], None] = logger.info,
) -> tuple[VerifiedRpms, ...]:
    """Return the metadata of *repositories* as they are today.

    *least_epochs* are the dates, by repository id, that none may be older than.

    Raises:
        VerificationError: a signature, a date or an index is not what it must be.
        VnfsbuildError: a mirror fails, or has no such repository.
    """
    kept = open_kept(cache)
    found = []
    for repository in repositories:
        progress(f"lock: reading {repository}")
        data, keys = _fetch_repomd(repository, verifier, proxies)
        where = str(repository)
        repomd = parse_repomd(data, where=where)
        least_epoch = least_epochs.get(repository.id)
        verify_repomd(repomd, now=now, least_epoch=least_epoch, where=where)
        found.append(
            VerifiedRpms(
                repository=repository,
                digest=digest_of(data),
                epoch=repomd.epoch,
                keys=keys,
                indexes=_bring_all(repository, repomd, kept=kept, proxies=proxies),
            )
        )
    prune_kept(kept)
    return tuple(found)


def _bring_all(
    repository: Repository, repomd: Repomd, *, kept: Path, proxies: Mapping[str, str]
) -> dict[str, Path]:
    return {
        kind: bring_index(
            item.packed,
            item.plain,
            urls=[f"{repository.metadata_url}/{item.packed.path}"],
            kept=kept,
            proxies=proxies,
            where=f"{repository} {kind}",
        )
        for kind, item in repomd.indexes.items()
    }


def _fetch_repomd(
    repository: Repository, verifier: Verifier, proxies: Mapping[str, str]
) -> tuple[bytes, tuple[str, ...]]:
    try:
        data = _fetch(repository, REPOMD, proxies)
    except FetchError as error:
        if error.missing:
            raise VnfsbuildError(
                f"{repository}: no {REPOMD} at {repository.metadata_url}",
                hint="an old point release is moved to a vault: name that as distribution.mirror"
                if repository.distribution
                else "url is the directory that repodata is in, or suites names those below it",
            ) from error
        raise
    # The key is needed in any case: the packages are signed by it where this is not.
    keys = read_keys(repository, verifier.root)
    if repository.trust == PACKAGES_ONLY:
        return data, ()
    try:
        signature = _fetch(repository, f"{REPOMD}.asc", proxies)
    except FetchError as error:
        if error.missing:
            key = "distribution.trust" if repository.distribution else "trust"
            raise VerificationError(
                f"{repository}: metadata not signed: found {REPOMD}, expected {REPOMD}.asc too "
                f"(trust = {METADATA!r})",
                hint=f"where its packages are signed, the recipe may say so: "
                f'{key} = "{PACKAGES_ONLY}"',
            ) from error
        raise
    signed = verify_detached(data, signature, keys=keys, gpgv=verifier.gpgv, where=str(repository))
    return data, signed.keys


def _fetch(repository: Repository, name: str, proxies: Mapping[str, str]) -> bytes:
    url = f"{repository.metadata_url}/{name}"
    return fetch_bytes(url, limit_bytes=MAX_RELEASE_BYTES, proxies=proxies)
