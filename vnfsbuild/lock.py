"""The lock: exactly what a recipe meant on one day. TOML, sorted, the same text for the same lock.

A lock and the packages it names are all that a root tree is made from; with the recipe and its
files beside it, no network and no calendar has a say any more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vnfsbuild.digest import Digest, digest_of
from vnfsbuild.fields import Faults, Table, parse_toml
from vnfsbuild.origins import METADATA, PACKAGES_ONLY

VERSION = 1
MAX_BYTES = 16 * 1024 * 1024
"""No lock is larger; a reader need not hold more."""

_MOST = 2**62
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FINGERPRINT = re.compile(r"[0-9A-F]{40}|[0-9A-F]{64}")
_PATH = re.compile(r"(?!/)(?!(.*/)?\.\.(/|\Z))\S+")


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedFile:
    """A file beside the recipe that it names."""

    path: str
    """below the recipe's directory"""
    digest: Digest
    """of the content; of the target, for a symbolic link"""
    kind: str = "file"
    """``file``, ``executable``, ``link``, or ``directory``: an empty one"""


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedKey:
    """A key of the recipe, and what it said: so that people are told which one was changed."""

    key: str
    """``packages.install``"""
    digest: Digest
    """of the value as canonical JSON"""


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedRepository:
    """A repository, and the signed metadata that packages were chosen from."""

    id: str
    suite: str
    components: tuple[str, ...]
    keys: tuple[str, ...]
    """fingerprints of the keys that had signed it"""
    metadata: Digest
    epoch: int
    """the date that the metadata gives itself"""
    trust: str = METADATA
    """what was signed: the metadata, or only each package"""


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedPackage:
    """A package by content, and where it was."""

    name: str
    version: str
    architecture: str
    size_bytes: int
    sha256: str
    path: str
    """below the repository"""
    repository: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedBuilder:
    """What of ours decides bytes: see :mod:`vnfsbuild.builder`."""

    version: str
    digest: Digest


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedBase:
    """The lock of the recipe that another one is built upon."""

    name: str
    """of its capsule"""
    serial: int
    digest: Digest
    """of the lock's text, which names the base's own base likewise"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lock:
    """What a recipe meant when it was locked."""

    serial: int
    epoch: int
    """source date epoch: the date of the newest metadata"""
    distribution: str
    release: str
    architecture: str
    recipe: Digest
    files: tuple[LockedFile, ...]
    repositories: tuple[LockedRepository, ...]
    packages: tuple[LockedPackage, ...]
    tools: tuple[LockedPackage, ...]
    """the tools tree that builds it"""
    builder: LockedBuilder | None = None
    """None in locks of versions that named none: those are stale"""
    recipe_keys: tuple[LockedKey, ...] = ()
    base: LockedBase | None = None
    """what *packages* are laid over; the tools are the base's, and *tools* is empty"""
    removed: tuple[str, ...] = ()
    """packages of the base that go"""


def render_lock(lock: Lock) -> str:
    """Return the one text of *lock*."""
    lines = [
        "# Written by vnfsbuild: what the recipe meant on one day. To renew it: vnfsbuild lock",
        f"version = {VERSION}",
        f"serial = {lock.serial}",
        f"epoch = {lock.epoch}",
        f"distribution = {_quote(lock.distribution)}",
        f"release = {_quote(lock.release)}",
        f"architecture = {_quote(lock.architecture)}",
        f"recipe = {_quote(lock.recipe)}",
        *_render_base(lock),
        *_render_builder(lock.builder),
        *_render_rows(
            "recipe_keys", ({"key": k.key, "digest": k.digest} for k in lock.recipe_keys)
        ),
        *_render_rows("files", (_render_file(item) for item in lock.files)),
        *_render_rows("repositories", (_render_repository(item) for item in lock.repositories)),
        *_render_rows("packages", (_render_package(item) for item in lock.packages)),
        *_render_rows("tools", (_render_package(item) for item in lock.tools)),
    ]
    return "\n".join(lines) + "\n"


def parse_lock(text: str, *, where: str) -> Lock:
    """Return the lock that *text* is.

    Raises:
        InputError: with every fault, each with *where* and its key path.
    """
    faults = Faults(where)
    top = Table(parse_toml(text, where=where), faults=faults)
    top.number("version", least=VERSION, most=VERSION)
    lock = Lock(
        serial=top.number("serial", least=1, most=_MOST),
        epoch=top.number("epoch", most=_MOST),
        distribution=top.text("distribution"),
        release=top.text("release"),
        architecture=top.text("architecture"),
        recipe=Digest(top.matching("recipe", _DIGEST, "a digest")),
        recipe_keys=tuple(_read_key(table) for table in top.tables("recipe_keys")),
        files=tuple(_read_file(table) for table in top.tables("files")),
        repositories=tuple(_read_repository(table) for table in top.tables("repositories")),
        packages=tuple(_read_package(table) for table in top.tables("packages")),
        tools=tuple(_read_package(table) for table in top.tables("tools")),
        builder=_read_builder(top.table("builder")) if top.has("builder") else None,
        base=_read_base(top.table("base")) if top.has("base") else None,
        removed=top.texts("removed"),
    )
    _validate_packages(top, lock)
    top.close()
    faults.verify(hint="delete it, and it is made anew by the next build")
    return lock


def sort_packages(packages: Iterable[LockedPackage]) -> tuple[LockedPackage, ...]:
    """Return *packages* in the order in which a lock has them."""
    return tuple(sorted(packages, key=lambda item: (item.name, item.architecture, item.version)))


def digest_of_lock(lock: Lock) -> Digest:
    """Return the digest that a lock upon *lock* names."""
    return digest_of(render_lock(lock).encode())


def lay_over(locks: Sequence[Lock]) -> Lock:
    """Return what a chain of *locks*, the undermost first, means as a whole.

    It is the uppermost one, with all packages that its tree has, their repositories, and the tools.
    """
    found: dict[str, LockedPackage] = {}
    for lock in locks:
        for name in lock.removed:
            found.pop(name, None)
        found |= {item.name: item for item in lock.packages}
    repositories = {item.id: item for lock in locks for item in lock.repositories}
    return replace(
        locks[-1],
        packages=sort_packages(found.values()),
        tools=locks[0].tools,
        repositories=tuple(repositories[name] for name in sorted(repositories)),
    )


def _validate_packages(top: Table, lock: Lock) -> None:
    known = {item.id for item in lock.repositories}
    unsigned = {item.id for item in lock.repositories if not item.keys}
    files = {item.path: item.digest for item in lock.files}
    by_digest: dict[str, LockedPackage] = {}
    for key, packages in (("packages", lock.packages), ("tools", lock.tools)):
        names = set()
        for position, item in enumerate(packages):
            where = f"{key}[{position}]"
            if item.name in names:
                top.fault(where, f"{item.name!r} stands there twice")
            names.add(item.name)
            other = by_digest.setdefault(item.sha256, item)
            if (other.name, other.version) != (item.name, item.version):
                top.fault(f"{where}.sha256", f"is that of {other.name!r} too")
            if item.repository == "local":
                if files.get(item.path) != f"sha256:{item.sha256}":
                    top.fault(where, f"{item.path!r} is not among files, or with another digest")
            elif item.repository not in known:
                top.fault(where, f"{item.repository!r} is not among repositories")
            elif item.repository in unsigned:
                top.fault(where, f"{item.repository!r} has no keys: nobody signed the package")


def _render_base(lock: Lock) -> list[str]:
    if lock.base is None:
        return []
    row = {"name": lock.base.name, "serial": lock.base.serial, "digest": lock.base.digest}
    removed = [f"removed = {_quote(list(lock.removed))}"] if lock.removed else []
    return [f"base = {_render_row(row)}", *removed]


def _render_builder(builder: LockedBuilder | None) -> list[str]:
    if builder is None:
        return []
    row = {"version": builder.version, "digest": builder.digest}
    return [f"builder = {_render_row(row)}"]


def _render_file(item: LockedFile) -> dict[str, Any]:
    return {"path": item.path, "kind": item.kind, "digest": item.digest}


def _render_repository(item: LockedRepository) -> dict[str, Any]:
    return {
        "id": item.id,
        "suite": item.suite,
        "components": list(item.components),
        "keys": list(item.keys),
        "metadata": item.metadata,
        "epoch": item.epoch,
        **({"trust": item.trust} if item.trust != METADATA else {}),
    }


def _render_package(item: LockedPackage) -> dict[str, Any]:
    return {
        "name": item.name,
        "version": item.version,
        "architecture": item.architecture,
        "size": item.size_bytes,
        "sha256": item.sha256,
        "path": item.path,
        "repository": item.repository,
    }


def _render_rows(key: str, rows: Iterable[dict[str, Any]]) -> list[str]:
    # A row a line: a new lock reads well as a difference.
    lines = [f"    {_render_row(row)}," for row in rows]
    return [f"{key} = [", *lines, "]"] if lines else [f"{key} = []"]


def _render_row(row: dict[str, Any]) -> str:
    return "{ " + ", ".join(f"{name} = {_quote(value)}" for name, value in row.items()) + " }"


def _quote(value: Any) -> str:
    # JSON's strings, numbers and lists are TOML's too, but for DEL, which TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _read_base(table: Table) -> LockedBase:
    found = LockedBase(
        name=table.text("name"),
        serial=table.number("serial", least=1, most=_MOST),
        digest=Digest(table.matching("digest", _DIGEST, "a digest")),
    )
    table.close()
    return found


def _read_builder(table: Table) -> LockedBuilder:
    found = LockedBuilder(
        version=table.text("version"),
        digest=Digest(table.matching("digest", _DIGEST, "a digest")),
    )
    table.close()
    return found


def _read_key(table: Table) -> LockedKey:
    found = LockedKey(
        key=table.text("key"), digest=Digest(table.matching("digest", _DIGEST, "a digest"))
    )
    table.close()
    return found


def _read_file(table: Table) -> LockedFile:
    found = LockedFile(
        path=table.matching("path", re.compile(r"(?s)(?!/).+"), "a path beside the recipe"),
        kind=table.text("kind", choices=("file", "executable", "link", "directory")),
        digest=Digest(table.matching("digest", _DIGEST, "a digest")),
    )
    table.close()
    return found


def _read_repository(table: Table) -> LockedRepository:
    found = LockedRepository(
        id=table.text("id"),
        suite=table.text("suite"),
        components=table.texts("components"),
        keys=table.texts("keys", _FINGERPRINT, "a key's fingerprint"),
        metadata=Digest(table.matching("metadata", _DIGEST, "a digest")),
        epoch=table.number("epoch", most=_MOST),
        trust=table.text("trust", METADATA, choices=(METADATA, PACKAGES_ONLY)),
    )
    # Of one that only signs packages there may be none: see _validate_packages.
    if not found.keys and found.trust != PACKAGES_ONLY:
        table.fault("keys", "missing: nobody signed the metadata, nor the packages")
    table.close()
    return found


def _read_package(table: Table) -> LockedPackage:
    found = LockedPackage(
        name=table.text("name"),
        version=table.text("version"),
        architecture=table.text("architecture"),
        size_bytes=table.number("size", most=_MOST),
        sha256=table.matching("sha256", _SHA256, "64 hexadecimal digits"),
        path=table.matching("path", _PATH, "a path below the repository"),
        repository=table.text("repository"),
    )
    table.close()
    return found
