"""Root trees in the cache of stages: a list, and the contents of files one after the other.

What the tree has of another one that the cache holds, its parent, is not stored again. Whoever
restores a tree has what the packer would have seen of it, and nothing of the host that made it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vnfsbuild.digest import Digest
from vnfsbuild.errors import VerificationError, VnfsbuildError
from vnfsbuild.layer import CAPABILITY, Entry
from vnfsbuild.stagecache import PARENT, Draft, StageCache, open_verified
from vnfsbuild.stagecache import Entry as Stored
from vnfsbuild.treelist import number_links, parse_list, render_list

LIST, DATA = "list", "data"

_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """Where a content is."""

    descriptor: int
    offset: int


def digest_contents(entries: Sequence[Entry], root: Path) -> list[Entry]:
    """Return *entries* of the tree *root* with the digests of the contents of files.

    Raises:
        VnfsbuildError: a file is not as long as its entry says.
    """
    known: dict[int, str] = {}
    found = []
    for entry in entries:
        if stat.S_ISREG(entry.mode):
            content = known.get(entry.inode) if entry.inode else None
            if content is None:
                content = _digest_file(f"{root}/{entry.path}", entry.size_bytes)
                known[entry.inode] = content
            found.append(replace(entry, content=content))
        else:
            found.append(entry)
    return found


def save_tree(
    draft: Draft,
    entries: Sequence[Entry],
    root: Path,
    *,
    cache: StageCache,
    parent: Stored | None = None,
) -> None:
    """Put the tree *root* into *draft*: *entries*, with the digests of contents.

    Raises:
        VnfsbuildError: a file is not as long as its entry says.
        OSError: it cannot be written.
    """
    entries = number_links(entries)
    (draft.directory / LIST).write_bytes(render_list(entries))
    held = _list_held(parent, cache)
    with (draft.directory / DATA).open("wb") as data:
        for entry in entries:
            if stat.S_ISREG(entry.mode) and entry.size_bytes and entry.content not in held:
                held.add(entry.content)
                _append(f"{root}/{entry.path}", entry.size_bytes, data.fileno())
    draft.facts[PARENT] = parent.key if parent else None


def load_tree_list(stored: Stored) -> list[Entry]:
    """Return the list of the tree *stored*.

    Raises:
        VerificationError: it is damaged.
        OSError: it cannot be read.
    """
    with open_verified(stored, LIST) as file:
        return parse_list(file.read(), where=str(stored.directory / LIST))


def restore_tree(stored: Stored, cache: StageCache, root: Path) -> list[Entry]:
    """Make the tree *root* what *stored* holds; return its list.

    Raises:
        VerificationError: it is damaged, or what it is stored upon is gone.
        OSError: it cannot be read, or there is no room for it.
    """
    with contextlib.ExitStack() as stack:
        entries, places = _open_contents(stored, cache, stack)
        os.mkdir(root, 0o700)  # noqa: PTH102
        _make_entries(entries, places, str(root))
    return entries


def _open_contents(
    stored: Stored, cache: StageCache, stack: contextlib.ExitStack
) -> tuple[list[Entry], dict[str, _Place]]:
    places: dict[str, _Place] = {}
    parent = stored.facts.get(PARENT)
    if parent:
        below = cache.peek(parent)
        if below is None:
            raise VerificationError(f"{stored.directory}: what it is stored upon is gone")
        cache.touch(below)
        _, places = _open_contents(below, cache, stack)
    entries = load_tree_list(stored)
    descriptor = stack.enter_context(open_verified(stored, DATA)).fileno()
    offset = 0
    for entry in entries:
        if stat.S_ISREG(entry.mode) and entry.size_bytes and entry.content not in places:
            places[entry.content] = _Place(descriptor=descriptor, offset=offset)
            offset += entry.size_bytes
    if offset != stored.files[DATA][1]:
        raise VerificationError(f"{stored.directory}: what it is stored upon is another tree")
    return entries, places


def _list_held(parent: Stored | None, cache: StageCache) -> set[str]:
    """Return the contents that *parent* holds, and what it is stored upon itself."""
    held: set[str] = set()
    while parent:
        held |= {entry.content for entry in load_tree_list(parent)}
        above = parent.facts.get(PARENT)
        parent = cache.peek(above) if above else None
        if above and parent is None:
            raise VerificationError(f"{above}: what a tree is stored upon is gone")
    return held


def _make_entries(entries: Sequence[Entry], places: Mapping[str, _Place], root: str) -> None:
    names: dict[int, str] = {}
    for entry in entries:
        path = f"{root}/{entry.path}"
        if entry.path == ".":
            continue
        if entry.inode and entry.inode in names:
            os.link(names[entry.inode], path, follow_symlinks=False)
            continue
        if entry.inode:
            names[entry.inode] = path
        _make_one(entry, path, places)
        if not stat.S_ISDIR(entry.mode):
            _set_facts(entry, path)
    # Directories last, from within: what is made in one would change its time.
    for entry in reversed(entries):
        if stat.S_ISDIR(entry.mode):
            _set_facts(entry, root if entry.path == "." else f"{root}/{entry.path}")


def _make_one(entry: Entry, path: str, places: Mapping[str, _Place]) -> None:
    kind = stat.S_IFMT(entry.mode)
    if kind == stat.S_IFREG:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            if entry.size_bytes:
                _copy(places[entry.content], entry.size_bytes, descriptor)
        finally:
            os.close(descriptor)
    elif kind == stat.S_IFDIR:
        os.mkdir(path, 0o700)  # noqa: PTH102
    elif kind == stat.S_IFLNK:
        os.symlink(entry.target, path)  # noqa: PTH211
    else:
        os.mknod(path, kind | 0o600, entry.device)


def _set_facts(entry: Entry, path: str) -> None:
    if entry.uid or entry.gid:
        os.chown(path, entry.uid, entry.gid, follow_symlinks=False)
    if not stat.S_ISLNK(entry.mode):
        os.chmod(path, stat.S_IMODE(entry.mode))  # noqa: PTH101
    if entry.xattrs:
        os.setxattr(path, CAPABILITY, entry.xattrs[CAPABILITY], follow_symlinks=False)
    os.utime(path, (entry.mtime, entry.mtime), follow_symlinks=False)


def _copy(place: _Place, size_bytes: int, descriptor: int) -> None:
    offset, left = place.offset, size_bytes
    while left:
        sent = os.sendfile(descriptor, place.descriptor, offset, left)
        if not sent:
            raise VerificationError("the contents of a tree end too early")
        offset, left = offset + sent, left - sent


def _append(path: str, size_bytes: int, out: int) -> None:
    source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        left = size_bytes
        while left:
            sent = os.sendfile(out, source, None, left)
            if not sent:
                raise VnfsbuildError(f"{path}: was changed while it was stored")
            left -= sent
    finally:
        os.close(source)


def _digest_file(path: str, size_bytes: int) -> Digest:
    hasher = hashlib.sha256()
    seen_bytes = 0
    for piece in _read_pieces(path):
        hasher.update(piece)
        seen_bytes += len(piece)
    if seen_bytes != size_bytes:
        raise VnfsbuildError(f"{path}: was changed while it was read")
    return Digest(f"sha256:{hasher.hexdigest()}")


def _read_pieces(path: str) -> Iterator[bytes]:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        while piece := os.read(descriptor, _PIECE_BYTES):
            yield piece
    finally:
        os.close(descriptor)
