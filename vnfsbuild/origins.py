"""Where packages come from, as a recipe says it: the distribution, and what others keep."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from vnfsbuild.distributions import ALL, RPM, is_rpm
from vnfsbuild.fields import Table

DISTRIBUTIONS = ALL
LATER_DISTRIBUTIONS = ("arch", "opensuse")
METADATA, PACKAGES_ONLY = "metadata", "packages-only"
"""What of a repository is signed: its metadata, or each package alone."""
SNAPSHOT = "{snapshot}"
"""In a mirror's URL: stands for what ``distribution.snapshot`` says."""

_RELEASE = re.compile(r"[a-z0-9][a-z0-9.-]*")
_MIRROR = re.compile(r"(https?|file)://\S+")
_SNAPSHOT = re.compile(r"[0-9A-Za-z][0-9A-Za-z.:_-]*")
_COMPONENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")
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
    vaults: tuple[str, ...] = ()
    """of RPM distributions: where point releases are kept, which packages are looked for at, too"""
    key: str | None = None
    """of RPM distributions: a file beside the recipe; None: the distribution's own"""
    trust: str = METADATA
    """what is signed: :data:`METADATA` or :data:`PACKAGES_ONLY`"""


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
    """a file beside the recipe: what the metadata must be signed by, or each package"""
    trust: str = METADATA
    """what is signed: :data:`METADATA` or :data:`PACKAGES_ONLY`"""


def read_distribution(table: Table) -> Distribution:
    """Return the distribution that *table* says; its mirrors are those of the snapshot."""
    name = table.text("id", choices=DISTRIBUTIONS, later=LATER_DISTRIBUTIONS)
    read = _read_rpm if is_rpm(name) else _read_deb
    found = read(table, name)
    snapshot = _read_snapshot(table, found.mirror)
    table.close()
    return replace(
        found,
        mirror=_fill(table, "mirror", found.mirror, snapshot),
        security_mirror=_fill(table, "security_mirror", found.security_mirror, snapshot),
    )


def _read_deb(table: Table, name: str) -> Distribution:
    return Distribution(
        id=name,
        release=table.matching("release", _RELEASE, "a release's code name"),
        architecture=_read_architecture(table),
        components=table.texts("components", _RELEASE, "a component's name") or ("main",),
        mirror=_read_url(table, "mirror"),
        security_mirror=_read_url(table, "security_mirror"),
    )


def _read_rpm(table: Table, name: str) -> Distribution:
    layout = RPM[name]
    known = (*layout.components, *layout.others) if layout.others else ()
    components = table.texts("components", _COMPONENT, "a repository's name, as in 'BaseOS'")
    for component in components if known else ():
        if component not in known:
            table.fault("components", f"found {component!r}, expected {' or '.join(known)}")
    key = table.optional_text("key")
    if key and not is_below(key):
        table.fault("key", f"found {key!r}, expected a file beside the recipe")
    if table.has("security_mirror"):
        table.fault("security_mirror", f"{name} has its updates in its other repositories")
        table.text("security_mirror", "")
    vaults = table.texts("vaults", _MIRROR, "http://…, https://… or file://…")
    return Distribution(
        id=name,
        release=table.matching("release", _RELEASE, "a release, as in '9'"),
        architecture=_read_architecture(table),
        components=components or layout.components,
        mirror=_read_url(table, "mirror"),
        security_mirror=None,
        vaults=tuple(url.rstrip("/") for url in vaults),
        key=key,
        trust=table.text("trust", METADATA, choices=(METADATA, PACKAGES_ONLY)),
    )


def _read_architecture(table: Table) -> str:
    return table.text("architecture", "x86_64", choices=("x86_64",), later=("arm64",))


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


def read_repositories(top: Table, distribution: str) -> tuple[ForeignRepository, ...]:
    """Return the repositories that the recipe *top* names besides those of *distribution*."""
    found: list[ForeignRepository] = []
    for table in top.tables("repositories"):
        repository = _read_repository(table, rpm=is_rpm(distribution))
        if repository.id and repository.id in {item.id for item in found}:
            table.fault("id", f"{repository.id!r} stands there twice")
        found.append(repository)
    return tuple(found)


def _read_repository(table: Table, *, rpm: bool) -> ForeignRepository:
    name = table.matching("id", _REPOSITORY, "a name of a-z, 0-9, '.', '+' and '-'")
    if name == "local" or name.startswith(tuple(f"{item}-" for item in DISTRIBUTIONS)):
        table.fault("id", f"{name!r} is kept for packages of ours or of the distribution")
    url, path = _read_url(table, "url"), table.optional_text("path")
    if bool(url) == bool(path):
        table.fault("url", "expected one of url and path")
    if path and not is_below(path):
        table.fault("path", f"found {path!r}, expected a directory beside the recipe")
    suites, components = _read_suites(table, rpm=rpm, path=path)
    key, trust = _read_trust(table, rpm=rpm)
    table.close()
    return ForeignRepository(
        id=name, url=url, path=path, suites=suites, components=components, key=key, trust=trust
    )


def _read_suites(
    table: Table, *, rpm: bool, path: str | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    suites = table.texts("suites", _SUITE, "a suite, or a directory ending in '/'")
    if not suites and not path and not rpm:
        table.fault("suites", "missing; for a flat repository: suites = ['./']")
    for suite in suites if rpm else ():
        if not suite.endswith("/"):
            table.fault("suites", f"found {suite!r}, expected a directory below url: '{suite}/'")
    components = table.texts("components", _SUITE, "a component's name")
    flat = all(suite.endswith("/") for suite in suites)
    if components and (flat or rpm):
        table.fault("components", "a flat repository has none")
    return suites or ("./",), components or (() if flat or rpm else ("main",))


def _read_trust(table: Table, *, rpm: bool) -> tuple[str, str]:
    key = table.text("key", "")
    if not key or not is_below(key):
        table.fault(
            "key",
            f"found {key!r}, expected a file beside the recipe: what the repository is signed by. "
            "Unsigned packages go into packages.local",
        )
    trust = table.text("trust", METADATA)
    if trust != METADATA and not rpm:
        table.fault("trust", "packages of Debian's kind carry no signature: their metadata has to")
    elif trust not in (METADATA, PACKAGES_ONLY):
        table.fault("trust", f"found {trust!r}, expected {METADATA!r} or {PACKAGES_ONLY!r}")
    return key, trust


def is_below(path: str) -> bool:
    """Tell whether *path* is a relative one that stays where it is."""
    parts = PurePosixPath(path).parts
    return bool(parts) and ".." not in parts and not path.startswith("/")
