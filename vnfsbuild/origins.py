"""Where packages come from, as a recipe says it: the distribution, and what others keep."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from vnfsbuild.fields import Table

DISTRIBUTIONS = ("debian", "ubuntu")
LATER_DISTRIBUTIONS = (
    "alma", "arch", "centos", "fedora", "opensuse", "rhel", "rocky",
)  # fmt: skip
SNAPSHOT = "{snapshot}"
"""In a mirror's URL: stands for what ``distribution.snapshot`` says."""

_RELEASE = re.compile(r"[a-z0-9][a-z0-9.-]*")
_MIRROR = re.compile(r"(https?|file)://\S+")
_SNAPSHOT = re.compile(r"[0-9A-Za-z][0-9A-Za-z.:_-]*")
_REPOSITORY = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_SUITE = re.compile(r"(?!.*\.\.)[A-Za-z0-9./][A-Za-z0-9.+~_/-]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Distribution:
    """What is installed, in mkosi's names."""

    id: str
    release: str
    architecture: str
    components: tuple[str, ...]
    mirror: str | None
    """None: the build host's own"""
    security_mirror: str | None
    """of the security suites; None: the build host's own"""


@dataclass(frozen=True, kw_only=True, slots=True)
class ForeignRepository:
    """A repository besides the distribution's own."""

    id: str
    url: str | None
    path: str | None
    """instead of an URL: a directory beside the recipe"""
    suites: tuple[str, ...]
    """a suite that ends in a slash is a directory: the repository is flat there"""
    components: tuple[str, ...]
    key: str
    """a file beside the recipe: what the metadata must be signed by"""


def read_distribution(table: Table) -> Distribution:
    """Return the distribution that *table* says; its mirrors are those of the snapshot."""
    found = Distribution(
        id=table.text("id", choices=DISTRIBUTIONS, later=LATER_DISTRIBUTIONS),
        release=table.matching("release", _RELEASE, "a release's code name"),
        architecture=table.text("architecture", "x86_64", choices=("x86_64",), later=("arm64",)),
        components=table.texts("components", _RELEASE, "a component's name") or ("main",),
        mirror=_read_url(table, "mirror"),
        security_mirror=_read_url(table, "security_mirror"),
    )
    snapshot = _read_snapshot(table, found.mirror)
    table.close()
    return replace(
        found,
        mirror=_fill(table, "mirror", found.mirror, snapshot),
        security_mirror=_fill(table, "security_mirror", found.security_mirror, snapshot),
    )


def _read_snapshot(table: Table, mirror: str | None) -> str | None:
    if not table.has("snapshot"):
        return None
    expected = "a snapshot's time, as in '20261101T000000Z'"
    snapshot = table.matching("snapshot", _SNAPSHOT, expected)
    if SNAPSHOT not in (mirror or ""):
        expected = f"expected distribution.mirror with {SNAPSHOT} in its URL"
        table.fault("snapshot", f"found {snapshot!r}, {expected}")
    return snapshot


def _fill(table: Table, key: str, url: str | None, snapshot: str | None) -> str | None:
    if url and SNAPSHOT in url and snapshot is None:
        expected = f"expected distribution.snapshot to say what {SNAPSHOT} stands for"
        table.fault(key, f"found {url!r}, {expected}")
    return url.replace(SNAPSHOT, snapshot or "") if url else None


def _read_url(table: Table, key: str) -> str | None:
    url = table.optional_text(key)
    if url and not _MIRROR.fullmatch(url):
        table.fault(key, f"found {url!r}, expected http://…, https://… or file://…")
    return url.rstrip("/") if url else None


def read_repositories(top: Table) -> tuple[ForeignRepository, ...]:
    """Return the repositories that the recipe *top* names besides."""
    found: list[ForeignRepository] = []
    for table in top.tables("repositories"):
        repository = _read_repository(table)
        if repository.id and repository.id in {item.id for item in found}:
            table.fault("id", f"{repository.id!r} stands there twice")
        found.append(repository)
    return tuple(found)


def _read_repository(table: Table) -> ForeignRepository:
    name = table.matching("id", _REPOSITORY, "a name of a-z, 0-9, '.', '+' and '-'")
    if name == "local" or name.startswith(tuple(f"{item}-" for item in DISTRIBUTIONS)):
        table.fault("id", f"{name!r} is kept for packages of ours or of the distribution")
    url, path = _read_url(table, "url"), table.optional_text("path")
    if bool(url) == bool(path):
        table.fault("url", "expected one of url and path")
    if path and not is_below(path):
        table.fault("path", f"found {path!r}, expected a directory beside the recipe")
    suites = table.texts("suites", _SUITE, "a suite, or a directory ending in '/'")
    if not suites and not path:
        table.fault("suites", "missing; for a flat repository: suites = ['./']")
    components = table.texts("components", _SUITE, "a component's name")
    flat = all(suite.endswith("/") for suite in suites)
    if components and flat:
        table.fault("components", "a flat repository has none")
    key = table.text("key", "")
    if not key or not is_below(key):
        table.fault(
            "key",
            f"found {key!r}, expected a file beside the recipe: what the repository is signed by. "
            "Unsigned packages go into packages.local",
        )
    if table.text("trust", "metadata") != "metadata":
        table.fault("trust", "packages of Debian's kind carry no signature: their metadata has to")
    table.close()
    return ForeignRepository(
        id=name,
        url=url,
        path=path,
        suites=suites or ("./",),
        components=components or (() if flat else ("main",)),
        key=key,
    )


def is_below(path: str) -> bool:
    """Tell whether *path* is a relative one that stays where it is."""
    parts = PurePosixPath(path).parts
    return bool(parts) and ".." not in parts and not path.startswith("/")
