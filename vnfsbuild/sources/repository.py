"""Repositories: suites of the distribution's archive, and those of others that a recipe names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vnfsbuild.distributions import keyring_of, place_component
from vnfsbuild.origins import METADATA, Distribution, ForeignRepository

LOCAL = "local"
"""What the lock names as the repository of packages beside the recipe."""

KEYRINGS = {
    "debian": "usr/share/keyrings/debian-archive-keyring.gpg",
    "ubuntu": "usr/share/keyrings/ubuntu-archive-keyring.gpg",
}
"""Distribution → its archive's keys: below the root of a host or a tools tree."""

KEYRING_PACKAGES = {"debian": "debian-archive-keyring", "ubuntu": "ubuntu-keyring"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Archive:
    """A distribution's archive and where its security suites are."""

    main: str
    security: str | None = None
    """None: it has none"""
    distribution: str = "debian"


@dataclass(frozen=True, kw_only=True, slots=True)
class Repository:
    """One suite, as it is read and as the lock names it."""

    id: str
    uri: str
    suite: str
    """a directory, ending in a slash, for a flat repository"""
    components: tuple[str, ...] = ()
    key: Path | None = None
    """None: the distribution's own keyring"""
    distribution: str = ""
    """of which it is part; empty for those of others"""
    keyring: str = ""
    """the distribution's keys, below the root of a tools tree; empty: :data:`KEYRINGS`'"""
    trust: str = METADATA
    """what is signed: the metadata, or each package alone"""

    @property
    def metadata_url(self) -> str:
        """The directory that its Release file is in."""
        if self.suite.endswith("/"):
            inner = self.suite.removeprefix("./").strip("/")
            return f"{self.uri}/{inner}" if inner else self.uri
        return f"{self.uri}/dists/{self.suite}"

    def __str__(self) -> str:
        return f"{self.uri} {self.suite}"


def make_repositories(
    archive: Archive, release: str, components: tuple[str, ...]
) -> tuple[Repository, ...]:
    """Return the suites of *release* that belong together: itself, updates, security."""
    suites = [(archive.main, release)]
    if release not in ("sid", "unstable"):
        suites.append((archive.main, f"{release}-updates"))
        if archive.security:
            suites.append((archive.security, f"{release}-security"))
    return tuple(
        Repository(
            id=f"{archive.distribution}-{suite}",
            uri=uri,
            suite=suite,
            components=components,
            distribution=archive.distribution,
        )
        for uri, suite in suites
    )


def make_rpm_repositories(
    distribution: Distribution, mirror: str, *, directory: Path
) -> tuple[Repository, ...]:
    """Return the repositories of an RPM *distribution* at *mirror*, for a recipe in *directory*."""
    found = []
    for component in distribution.components:
        top, suite = place_component(
            distribution.id,
            component,
            release=distribution.release,
            architecture=distribution.architecture,
        )
        found.append(
            Repository(
                id=f"{distribution.id}-{component}",
                uri=f"{mirror}/{top}".rstrip("/"),
                suite=f"{suite}/",
                key=directory / distribution.key if distribution.key else None,
                distribution=distribution.id,
                keyring=keyring_of(distribution.id, distribution.release),
                trust=distribution.trust,
            )
        )
    return tuple(found)


def make_foreign(named: Iterable[ForeignRepository], *, directory: Path) -> tuple[Repository, ...]:
    """Return the suites of the repositories that a recipe in *directory* names."""
    return tuple(
        Repository(
            id=item.id if len(item.suites) == 1 else f"{item.id}-{suite.strip('./') or 'root'}",
            uri=item.url or (directory / (item.path or ".")).absolute().as_uri(),
            suite=suite,
            components=item.components,
            key=directory / item.key,
            trust=item.trust,
        )
        for item in named
        for suite in item.suites
    )
