"""What a new lock changes, in words that can be reviewed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import zip_longest

from vnfsbuild.lock import Lock, LockedPackage
from vnfsbuild.rpmversion import compare_rpm_versions


class Kind(StrEnum):
    """What happens to a package."""

    ADDED = "added"
    REMOVED = "removed"
    UP = "up"
    DOWN = "down"
    OTHER_BYTES = "other bytes"
    """of the same version"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A package that is not as it was."""

    part: str
    """``packages``, or ``tools``"""
    name: str
    kind: Kind
    before: str | None
    """version; None: it was not there"""
    after: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyChange:
    """A repository that other keys sign than before."""

    repository: str
    before: tuple[str, ...]
    after: tuple[str, ...]


def make_changes(before: Lock | None, after: Lock) -> tuple[Change, ...]:
    """Return what is not in *after* as it was in *before*, by part and name."""
    return (
        *_compare("packages", before.packages if before else (), after.packages),
        *_compare("tools", before.tools if before else (), after.tools),
    )


def make_key_changes(before: Lock | None, after: Lock) -> tuple[KeyChange, ...]:
    """Return the repositories whose keys are others than in *before*."""
    known = {item.id: item.keys for item in before.repositories} if before else {}
    return tuple(
        KeyChange(repository=item.id, before=known[item.id], after=item.keys)
        for item in after.repositories
        if item.id in known and known[item.id] != item.keys
    )


def render_changes(changes: Sequence[Change], keys: Sequence[KeyChange]) -> list[str]:
    """Return *changes* and *keys* as lines for people; downgrades come first and loudly."""
    lines = [
        f"signed by other keys: {item.repository}: {', '.join(item.before)} → "
        f"{', '.join(item.after)}"
        for item in keys
    ]
    order = [Kind.DOWN, Kind.ADDED, Kind.REMOVED, Kind.OTHER_BYTES, Kind.UP]
    for change in sorted(changes, key=lambda item: (item.part, order.index(item.kind), item.name)):
        what = "DOWNGRADE" if change.kind is Kind.DOWN else change.kind
        versions = " → ".join(text for text in (change.before, change.after) if text)
        part = "" if change.part == "packages" else f" ({change.part})"
        lines.append(f"{what}: {change.name} {versions}{part}")
    return lines


def compare_versions(one: str, other: str) -> int:
    """Return less than, equal to or more than 0, as Debian's policy (§5.6.12) orders versions."""
    first, second = _split_version(one), _split_version(other)
    if first[0] != second[0]:
        return first[0] - second[0]
    return _compare_part(first[1], second[1]) or _compare_part(first[2], second[2])


def _compare(
    part: str, before: Iterable[LockedPackage], after: Iterable[LockedPackage]
) -> list[Change]:
    old = {item.name: item for item in before}
    new = {item.name: item for item in after}
    found = []
    for name in sorted(old.keys() | new.keys()):
        was, will = old.get(name), new.get(name)
        if kind := _kind_of(was, will):
            found.append(
                Change(
                    part=part,
                    name=name,
                    kind=kind,
                    before=was.version if was else None,
                    after=will.version if will else None,
                )
            )
    return found


def _kind_of(was: LockedPackage | None, will: LockedPackage | None) -> Kind | None:
    if was is None or will is None:
        return Kind.ADDED if was is None else Kind.REMOVED
    rpm = any(item.path.endswith(".rpm") for item in (was, will))
    compare = compare_rpm_versions if rpm else compare_versions
    order = compare(was.version, will.version)
    if order:
        return Kind.UP if order < 0 else Kind.DOWN
    return Kind.OTHER_BYTES if was.sha256 != will.sha256 else None


def _split_version(version: str) -> tuple[int, str, str]:
    epoch, colon, rest = version.partition(":")
    if not colon or not epoch.isdigit():
        epoch, rest = "0", version
    upstream, dash, revision = rest.rpartition("-")
    return (int(epoch), upstream, revision) if dash else (int(epoch), rest, "")


def _compare_part(one: str, other: str) -> int:
    # Words and numbers take turns, a word first.
    pattern = re.compile(r"(\D*)(\d*)")
    for first, second in zip_longest(
        pattern.findall(one), pattern.findall(other), fillvalue=("", "")
    ):
        ranks = [[_rank(letter) for letter in word] + [0] for word in (first[0], second[0])]
        if ranks[0] != ranks[1]:
            return -1 if ranks[0] < ranks[1] else 1
        numbers = [int(digits or 0) for digits in (first[1], second[1])]
        if numbers[0] != numbers[1]:
            return numbers[0] - numbers[1]
    return 0


def _rank(letter: str) -> int:
    # "~" is before the end of a word, letters before all that is none.
    if letter == "~":
        return -1
    return ord(letter) if letter.isalpha() else ord(letter) + 256
