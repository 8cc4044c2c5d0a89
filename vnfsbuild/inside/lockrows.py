"""The packages of a lock of any version of ours: of what is compared, and never built again."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

from vnfsbuild.digest import Digest
from vnfsbuild.errors import InputError
from vnfsbuild.lock import (
    MAX_BYTES,
    Lock,
    LockedPackage,
    LockedRepository,
    parse_lock,
    sort_packages,
)


def read_rows(data: bytes, *, where: str) -> Lock:
    """Return what the lock *data* says of packages and keys, even if another version wrote it.

    Raises:
        InputError: it is no lock.
    """
    try:
        text = data[:MAX_BYTES].decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not a text") from error
    try:
        return parse_lock(text, where=where)
    except InputError:
        pass  # of another version, most likely: names and versions were always called so
    try:
        found = tomllib.loads(text)
        return Lock(
            serial=0,
            epoch=0,
            distribution="",
            release="",
            architecture="",
            recipe=Digest(""),
            files=(),
            repositories=tuple(
                _make_repository(row) for row in found.get("repositories", ()) if "keys" in row
            ),
            packages=_make_packages(found["packages"]),
            tools=_make_packages(found.get("tools", ())),
        )
    except (tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{where}: found no list of packages in it") from error


def _make_packages(rows: Iterable[Mapping[str, Any]]) -> tuple[LockedPackage, ...]:
    return sort_packages(
        LockedPackage(
            name=str(row["name"]),
            version=str(row["version"]),
            architecture=str(row.get("architecture", "")),
            size_bytes=0,
            sha256=str(row.get("sha256", "")),
            path="",
            repository="",
        )
        for row in rows
    )


def _make_repository(row: Mapping[str, Any]) -> LockedRepository:
    return LockedRepository(
        id=str(row["id"]),
        suite="",
        components=(),
        keys=tuple(map(str, row["keys"])),
        metadata=Digest(""),
        epoch=0,
    )
