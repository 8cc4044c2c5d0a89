"""The lock: exactly what a recipe meant on one day. TOML, sorted, the same text for the same lock.

A lock and the packages it names are all that a root tree is made from; with the recipe and its
files beside it, no network and no calendar has a say any more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from vnfsbuild.digest import Digest
from vnfsbuild.fields import Faults, Table, parse_toml

VERSION = 1
MAX_BYTES = 16 * 1024 * 1024
"""No lock is larger; a reader need not hold more."""

_MOST = 2**62
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PATH = re.compile(r"(?!/)(?!(.*/)?\.\.(/|\Z))\S+")


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedFile:
    """A file beside the recipe that it names."""

    path: str
    """below the recipe's directory"""
    digest: Digest
    """of the content; of the target, for a symbolic link"""
    kind: str = "file"
    """``file``, ``executable`` or ``link``"""


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedRepository:
    """A repository, and the signed metadata that packages were chosen from."""

    id: str
    suite: str
    components: tuple[str, ...]
    metadata: Digest
    epoch: int
    """the date that the metadata gives itself"""


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
        files=tuple(_read_file(table) for table in top.tables("files")),
        repositories=tuple(_read_repository(table) for table in top.tables("repositories")),
        packages=tuple(_read_package(table) for table in top.tables("packages")),
        tools=tuple(_read_package(table) for table in top.tables("tools")),
    )
    top.close()
    faults.verify(hint="delete it, and it is made anew by the next build")
    return lock


def sort_packages(packages: Iterable[LockedPackage]) -> tuple[LockedPackage, ...]:
    """Return *packages* in the order in which a lock has them."""
    return tuple(sorted(packages, key=lambda item: (item.name, item.architecture, item.version)))


def _render_file(item: LockedFile) -> dict[str, Any]:
    return {"path": item.path, "kind": item.kind, "digest": item.digest}


def _render_repository(item: LockedRepository) -> dict[str, Any]:
    return {
        "id": item.id,
        "suite": item.suite,
        "components": list(item.components),
        "metadata": item.metadata,
        "epoch": item.epoch,
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
    lines = [
        "    { " + ", ".join(f"{name} = {_quote(value)}" for name, value in row.items()) + " },"
        for row in rows
    ]
    return [f"{key} = [", *lines, "]"] if lines else [f"{key} = []"]


def _quote(value: Any) -> str:
    # JSON's strings, numbers and lists are TOML's too, but for DEL, which TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _read_file(table: Table) -> LockedFile:
    found = LockedFile(
        path=table.matching("path", re.compile(r"(?s)(?!/).+"), "a path beside the recipe"),
        kind=table.text("kind", choices=("file", "executable", "link")),
        digest=Digest(table.matching("digest", _DIGEST, "a digest")),
    )
    table.close()
    return found


def _read_repository(table: Table) -> LockedRepository:
    found = LockedRepository(
        id=table.text("id"),
        suite=table.text("suite"),
        components=table.texts("components"),
        metadata=Digest(table.matching("metadata", _DIGEST, "a digest")),
        epoch=table.number("epoch", most=_MOST),
    )
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
