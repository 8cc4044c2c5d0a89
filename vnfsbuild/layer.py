"""Tree lists, and what of them goes into which layer.

A layer is computed from lists and never taken from a file system: what the build user cannot
express there stands in the list, and the packer applies it.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from vnfsbuild.errors import InputError

MODULES = "usr/lib/modules"
BOOT = "boot"

CAPABILITY = "security.capability"
"""The one extended attribute that is kept. Everything else is chance: SELinux labels of the build
host, ACLs that squashfs cannot hold, marks of overlayfs, which would bring deleted files back."""

_REVISION_MASK = 0xFF000000
_REVISION_2 = 0x02000000
_REVISION_3 = 0x03000000
_PLAIN_BYTES = 20
"""of revision 2; revision 3 adds four bytes: the namespace's root, who it was on the build host"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A path of a tree, without its content."""

    path: str
    """relative to the root; the root itself is ``.``"""
    mode: int
    """with the bits of the file's type, as :mod:`stat` reads them"""
    uid: int
    gid: int
    mtime: int
    size_bytes: int
    target: str = ""
    """of a symbolic link"""
    device: int = 0
    """of a device node"""
    inode: int = 0
    """the same number: the same file by another name"""
    xattrs: Mapping[str, bytes] = field(default_factory=dict)
    content: str = ""
    """digest of a file's content, where it was asked for"""


def split_layers(entries: Sequence[Entry], *, exclude: Sequence[str]) -> dict[str, list[Entry]]:
    """Return the layers of the whole tree *entries* without *exclude*: name → entries.

    Kernel modules are a layer of their own: they dominate every update of a kernel, and are
    untouched by all others. The kernel itself is a payload.

    Raises:
        InputError: an exclude is no pattern.
    """
    kept = leave_out(entries, exclude)
    return {
        "rootfs": leave_out(kept, (f"{MODULES}/*", f"{BOOT}/*")),
        "modules": keep_below(kept, MODULES),
    }


def split_difference(
    lower: Sequence[Entry], upper: Sequence[Entry], *, epoch: int
) -> tuple[dict[str, list[Entry]], bool]:
    """Return the layers that, laid over those of the whole tree *lower*, make it *upper*.

    Name → entries; a layer in which nothing would be is left out. The second value tells whether
    *upper* has the modules of another kernel: its layer of modules is then a whole one, and takes
    the place of all below.
    """
    without = (f"{MODULES}/*", f"{BOOT}/*")
    trees = [keep_below(tree, MODULES) for tree in (lower, upper)]
    kernels = [_list_kernels(tree) for tree in trees]
    replaced = bool(kernels[1]) and not kernels[0] & kernels[1]
    found = {
        "rootfs": make_difference(
            leave_out(lower, without), leave_out(upper, without), epoch=epoch
        ),
        "modules": trees[1] if replaced else make_difference(*trees, epoch=epoch),
    }
    return {name: entries for name, entries in found.items() if entries}, replaced


def _list_kernels(entries: Iterable[Entry]) -> set[str]:
    # By their files: a directory may be left of a kernel that went.
    depth = len(MODULES.split("/"))
    paths = (entry.path.split("/") for entry in entries if stat.S_ISREG(entry.mode))
    return {parts[depth] for parts in paths if len(parts) > depth + 1}


def leave_out(entries: Iterable[Entry], patterns: Sequence[str]) -> list[Entry]:
    """Return *entries* without what *patterns* match, and all that is below it.

    ``*``, ``?`` and ``[]`` stand for something in one part of a path, names with a leading dot
    among them.

    Raises:
        InputError: a pattern is none.
    """
    globs: dict[int, list[tuple[str, ...]]] = {}
    for pattern in patterns:
        glob = parse_exclude(pattern)
        globs.setdefault(len(glob), []).append(glob)
    kept: list[Entry] = []
    gone: set[str] = set()
    for entry in entries:
        parts = entry.path.split("/")
        found = any(all(map(fnmatchcase, parts, glob)) for glob in globs.get(len(parts), ()))
        if found or "/".join(parts[:-1]) in gone:
            gone.add(entry.path)
        else:
            kept.append(entry)
    return kept


def keep_below(entries: Iterable[Entry], path: str) -> list[Entry]:
    """Return of *entries* just *path*, what is below it, and the directories above it."""
    parts = path.split("/")
    above = {".", *("/".join(parts[:count]) for count in range(1, len(parts) + 1))}
    return [entry for entry in entries if entry.path in above or entry.path.startswith(f"{path}/")]


def parse_exclude(pattern: str) -> tuple[str, ...]:
    """Return the parts of the glob *pattern* of a recipe.

    Raises:
        InputError: it names no path below the root.
    """
    parts = tuple(pattern.strip("/").split("/"))
    if "**" in pattern or any(part in ("", ".", "..") for part in parts):
        raise InputError(
            f"exclude.paths: found {pattern!r}, expected a path with *, ? or [] in its parts"
        )
    return parts


def make_difference(lower: Sequence[Entry], upper: Sequence[Entry], *, epoch: int) -> list[Entry]:
    """Return the layer that, laid over *lower*, makes it *upper*: whole trees, with contents.

    What is gone becomes a whiteout of the time *epoch*. A directory that is in both is merged, so
    that no mark of opaqueness is needed: each name that vanished from it has its own whiteout.
    """
    before = {entry.path: entry for entry in lower}
    after = {entry.path: entry for entry in upper}
    names = (_link_names(lower), _link_names(upper))
    wanted: set[str] = set()
    for path, entry in after.items():
        old = before.get(path)
        if old is None or _identity(old, names[0]) != _identity(entry, names[1]):
            wanted |= {path, *_parents(path)}
    gone = _find_vanished(before, after)
    for path in gone:
        wanted |= set(_parents(path))
    layer = [after[path] for path in wanted] + [make_whiteout(path, epoch) for path in gone]
    return sorted(layer, key=lambda entry: _order(entry.path))


def make_whiteout(path: str, epoch: int) -> Entry:
    """Return the entry that hides *path* of the layers below."""
    return Entry(path=path, mode=stat.S_IFCHR, uid=0, gid=0, mtime=epoch, size_bytes=0)


def packed_xattrs(entry: Entry) -> dict[str, bytes]:
    """Return those of the extended attributes of *entry* that a layer keeps."""
    found = entry.xattrs.get(CAPABILITY)
    return {} if found is None else {CAPABILITY: plain_capability(found)}


def plain_capability(value: bytes) -> bytes:
    """Return the file capability *value* as the first namespace has it.

    One that was set in a user namespace also names who that namespace's root was outside, which
    says who built it, and would keep the kernel from heeding it on a node.
    """
    magic = int.from_bytes(value[:4], "little")
    if magic & _REVISION_MASK != _REVISION_3:
        return value
    plain = (magic & ~_REVISION_MASK) | _REVISION_2
    return plain.to_bytes(4, "little") + value[4:_PLAIN_BYTES]


def _identity(entry: Entry, names: Mapping[int, tuple[str, ...]]) -> tuple[object, ...]:
    """Return what makes two entries the same; of hard links, all their names."""
    shared = names.get(entry.inode, ())
    return (
        entry.mode, entry.uid, entry.gid, entry.mtime, entry.size_bytes, entry.target,
        entry.device, entry.content, packed_xattrs(entry), shared if len(shared) > 1 else (),
    )  # fmt: skip


def _link_names(entries: Iterable[Entry]) -> dict[int, tuple[str, ...]]:
    found: dict[int, list[str]] = {}
    for entry in entries:
        if entry.inode and not stat.S_ISDIR(entry.mode):
            found.setdefault(entry.inode, []).append(entry.path)
    return {inode: tuple(sorted(paths)) for inode, paths in found.items()}


def _find_vanished(before: Mapping[str, Entry], after: Mapping[str, Entry]) -> list[str]:
    """Return the topmost paths that are gone, where only a whiteout hides them.

    Below a directory that became something else nothing shows through.
    """
    return [
        path
        for path in before
        if path not in after
        and (parent := _parents(path)[0]) in after
        and stat.S_ISDIR(after[parent].mode)
    ]


def _parents(path: str) -> list[str]:
    """Return the directories above *path*, the nearest first, the root last."""
    if path == ".":
        return []
    parts = path.split("/")[:-1]
    return ["/".join(parts[:count]) for count in range(len(parts), 0, -1)] + ["."]


def _order(path: str) -> list[bytes]:
    if path == ".":
        return []
    return [part.encode("utf-8", "surrogateescape") for part in path.split("/")]
