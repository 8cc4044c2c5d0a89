"""What changed from one tree of files to another, by kind. Pure: two trees in, changes out."""

from __future__ import annotations

import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from vnfsbuild.inside.union import Placed, sort_key
from vnfsbuild.layer import Entry


class Kind(StrEnum):
    """How a file is not as it was; in the order in which changes are told."""

    ADDED = "added"
    REMOVED = "removed"
    TYPE = "type"
    CONTENT = "content"
    TARGET = "target"
    MODE = "mode"
    OWNER = "owner"
    XATTRS = "xattrs"
    TIME = "time"


@dataclass(frozen=True, kw_only=True, slots=True)
class FileChange:
    """A path at which not all is as it was."""

    path: str
    kinds: tuple[Kind, ...]
    before: Entry | None
    """None: it was not there"""
    after: Entry | None

    @property
    def only_time(self) -> bool:
        """Tell whether nothing but its time is another."""
        return self.kinds == (Kind.TIME,)


def find_comparable(
    before: Mapping[str, Placed],
    after: Mapping[str, Placed],
    *,
    same_layers: Collection[tuple[int, int]],
) -> list[str]:
    """Return the files whose contents must be read to know whether they are the same.

    *same_layers* are the pairs of layers, before and after, that are the same bytes.
    """
    return [
        path
        for path, was in before.items()
        if (now := after.get(path)) is not None
        and stat.S_ISREG(was.entry.mode)
        and stat.S_ISREG(now.entry.mode)
        and was.entry.size_bytes == now.entry.size_bytes > 0
        and (was.layer, now.layer) not in same_layers
    ]


def compare_trees(
    before: Mapping[str, Placed], after: Mapping[str, Placed], *, other_contents: Collection[str]
) -> tuple[FileChange, ...]:
    """Return what changed, sorted by path.

    *other_contents* are those of :func:`find_comparable` whose contents are not the same.
    """
    changes = []
    for path in sorted(before.keys() | after.keys(), key=sort_key):
        was, now = before.get(path), after.get(path)
        kinds = tuple(_kinds(was, now, other_content=path in other_contents))
        if kinds:
            changes.append(
                FileChange(
                    path=path,
                    kinds=kinds,
                    before=was.entry if was else None,
                    after=now.entry if now else None,
                )
            )
    return tuple(changes)


def _kinds(was: Placed | None, now: Placed | None, *, other_content: bool) -> Iterator[Kind]:
    if was is None or now is None:
        yield Kind.ADDED if was is None else Kind.REMOVED
        return
    one, other = was.entry, now.entry
    if stat.S_IFMT(one.mode) != stat.S_IFMT(other.mode):
        # What a path of another type holds is no change of its own.
        yield Kind.TYPE
        return
    if other_content or (one.size_bytes, one.device) != (other.size_bytes, other.device):
        yield Kind.CONTENT
    if one.target != other.target:
        yield Kind.TARGET
    if stat.S_IMODE(one.mode) != stat.S_IMODE(other.mode):
        yield Kind.MODE
    if (one.uid, one.gid) != (other.uid, other.gid):
        yield Kind.OWNER
    if dict(one.xattrs) != dict(other.xattrs):
        yield Kind.XATTRS
    if one.mtime != other.mtime:
        yield Kind.TIME
