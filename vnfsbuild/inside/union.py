"""Layers as the one tree that a node sees, and ways through it. Pure: lists in, a tree out.

The rules are those of the kernel's overlayfs, by which nodes mount layers: what is above hides what
is below; directories that are in both are merged; whiteouts and opaque marks delete.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from vnfsbuild.errors import InputError
from vnfsbuild.layer import Entry

MAX_LINKS = 40
"""How many symbolic links a path may lead through, as in the kernel."""

_OVERLAY = "trusted.overlay."
_OPAQUE = "trusted.overlay.opaque"
_WHITEOUT = "trusted.overlay.whiteout"

TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "link",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
}
WHITEOUT = "whiteout"


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """An entry, and which of several layers it comes from."""

    entry: Entry
    layer: int


def make_union(layers: Sequence[Iterable[Entry]]) -> dict[str, Placed]:
    """Return the tree of *layers*, the undermost first: path → entry; sorted, the root first."""
    union: dict[str, Placed] = {}
    for number, entries in enumerate(layers):
        gone, closed = set(), set()
        added = {}
        for entry in entries:
            if is_whiteout(entry):
                gone.add(entry.path)
                continue
            added[entry.path] = Placed(entry=_without_marks(entry), layer=number)
            if not stat.S_ISDIR(entry.mode) or entry.xattrs.get(_OPAQUE) == b"y":
                closed.add(entry.path)
        union = {
            path: placed
            for path, placed in union.items()
            if path not in gone and not _is_hidden(path, gone, closed)
        } | added
    return dict(sorted(union.items(), key=lambda item: sort_key(item[0])))


def is_whiteout(entry: Entry) -> bool:
    """Tell whether *entry* only says that there is nothing."""
    if stat.S_ISCHR(entry.mode):
        return entry.device == 0
    return stat.S_ISREG(entry.mode) and entry.size_bytes == 0 and _WHITEOUT in entry.xattrs


def type_of(entry: Entry) -> str:
    """Return what *entry* is, in words."""
    return TYPES.get(stat.S_IFMT(entry.mode), f"type {stat.S_IFMT(entry.mode):o}")


def sort_key(path: str) -> list[bytes]:
    """Return what paths are sorted by: their parts, as bytes; the root comes first."""
    return (
        [] if path == "." else [part.encode("utf-8", "surrogateescape") for part in path.split("/")]
    )


def resolve(union: Mapping[str, Placed], path: str) -> Placed:
    """Return what *path* is on a node, every link followed inside of *union* and nowhere else.

    As in the kernel, ``..`` of the root is the root.

    Raises:
        InputError: there is nothing, or links go round in circles.
    """
    at: list[str] = []
    left = list(reversed(path.split("/")))
    found = union["."]
    links = 0
    while left:
        part = left.pop()
        if not stat.S_ISDIR(found.entry.mode):
            raise InputError(f"{shown(found.entry.path)} is no directory")
        if part in ("", ".", ".."):
            at = at[:-1] if part == ".." else at
            found = union["/".join(at) or "."]
            continue
        name = "/".join([*at, part])
        step = union.get(name)
        if step is None:
            raise InputError(f"{shown(name)} is not there" if links else "not there")
        if stat.S_ISLNK(step.entry.mode):
            links += 1
            if links > MAX_LINKS:
                raise InputError(f"leads through more than {MAX_LINKS} links")
            target = step.entry.target
            at = [] if target.startswith("/") else at
            found = union["/".join(at) or "."]
            left += reversed(target.split("/"))
        else:
            at, found = [*at, part], step
    return found


def is_chosen(path: str, globs: Sequence[str]) -> bool:
    """Tell whether one of *globs* names *path* or a directory that it is in; so does no glob.

    One with a slash is a path from the root; one without is a name, wherever it is. ``*``, ``?``
    and ``[]`` stand for something within one part.
    """
    parts = path.split("/")
    for glob in globs:
        wanted = glob.strip("/").split("/")
        if not glob.strip("/"):
            return True
        if "/" not in glob.rstrip("/"):
            if any(fnmatchcase(part, wanted[0]) for part in parts):
                return True
        elif len(wanted) <= len(parts) and all(map(fnmatchcase, parts, wanted)):
            return True
    return not globs


def shown(path: str) -> str:
    """Return the path of an entry as people are told it: from the root, in one line, printable."""
    text = "/" if path == "." else f"/{path}"
    return plain(text)


def plain(text: str) -> str:
    """Return *text* in one line: with escapes like ``\\n`` and ``\\xff`` where it needs them."""
    if text.isprintable() and "\\" not in text:
        return text
    data = text.replace("\\", "\\\\")
    return "".join(letter if letter.isprintable() else _escape(letter) for letter in data)


def _escape(letter: str) -> str:
    if letter == "\n":
        return "\\n"
    return "".join(f"\\x{byte:02x}" for byte in letter.encode("utf-8", "surrogateescape"))


def _is_hidden(path: str, gone: set[str], closed: set[str]) -> bool:
    """Tell whether something above *path* in the tree lets nothing of lower layers through."""
    cut = path.rfind("/")
    while cut > 0:
        above = path[:cut]
        if above in gone or above in closed:
            return True
        cut = path.rfind("/", 0, cut)
    return path != "." and "." in closed


def _without_marks(entry: Entry) -> Entry:
    if not any(name.startswith(_OVERLAY) for name in entry.xattrs):
        return entry
    kept = {name: value for name, value in entry.xattrs.items() if not name.startswith(_OVERLAY)}
    return replace(entry, xattrs=kept)
