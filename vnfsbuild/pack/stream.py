"""A tree list and its contents as one tar stream: what packers read instead of a file system.

Owner, mode, time, device numbers, links and attributes are those of the list. So a packer needs no
privilege to store what its user could never have made, and where the files lie has no say.
Format: POSIX ustar with pax headers, as tar programs and packers read it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from vnfsbuild.errors import VnfsbuildError
from vnfsbuild.layer import Entry, packed_xattrs

BLOCK_BYTES = 512
END = bytes(2 * BLOCK_BYTES)

_NAME_BYTES = 100
_PIECE_BYTES = 1 << 18

_HARD_LINK = b"1"
_PAX = b"x"
_TYPES = {
    stat.S_IFREG: b"0",
    stat.S_IFLNK: b"2",
    stat.S_IFCHR: b"3",
    stat.S_IFBLK: b"4",
    stat.S_IFDIR: b"5",
    stat.S_IFIFO: b"6",
}


def write_stream(entries: Iterable[Entry], root: Path, out: IO[bytes]) -> None:
    """Write *entries*, parents before children, with contents from the tree *root*, to *out*.

    Without the root itself, which has no name, and without sockets, which nobody listens on.

    Raises:
        VnfsbuildError: a file is not as long as its entry says.
    """
    for entry, first in _resolve_links(entries):
        out.write(render_entry(entry, first))
        if stat.S_ISREG(entry.mode) and first is None:
            _copy_content(root / entry.path, entry.size_bytes, out)
            out.write(bytes(-entry.size_bytes % BLOCK_BYTES))
    out.write(END)


def render_entry(entry: Entry, first: str | None = None) -> bytes:
    """Return all that stands before the content of *entry*.

    *first* is given for a hard link: the path by which the stream already has that file.
    """
    path, link = _encode(entry.path), _encode(entry.target if first is None else first)
    records = b""
    if len(path) > _NAME_BYTES:
        records += _render_record(b"path", path)
    if len(link) > _NAME_BYTES:
        records += _render_record(b"linkpath", link)
    if first is None:
        for name, value in sorted(packed_xattrs(entry).items()):
            records += _render_record(b"SCHILY.xattr." + name.encode(), value)
    if not records:
        return _render_header(entry, path, link, hard=first is not None)
    return (
        _render_block(b"pax", _PAX, size_bytes=len(records))
        + records
        + bytes(-len(records) % BLOCK_BYTES)
        + _render_header(entry, path, link, hard=first is not None)
    )


def _resolve_links(entries: Iterable[Entry]) -> Iterator[tuple[Entry, str | None]]:
    names: dict[int, str] = {}
    for entry in entries:
        if entry.path == "." or stat.S_IFMT(entry.mode) not in _TYPES:
            continue
        first = None
        if entry.inode and not stat.S_ISDIR(entry.mode):
            first = names.get(entry.inode)
            names.setdefault(entry.inode, entry.path)
        yield entry, first


def _render_header(entry: Entry, path: bytes, link: bytes, *, hard: bool) -> bytes:
    kind = stat.S_IFMT(entry.mode)
    holds = kind == stat.S_IFREG and not hard
    return _render_block(
        path[:_NAME_BYTES],
        _HARD_LINK if hard else _TYPES[kind],
        mode=stat.S_IMODE(entry.mode),
        uid=entry.uid,
        gid=entry.gid,
        mtime=max(entry.mtime, 0),
        size_bytes=entry.size_bytes if holds else 0,
        link=link[:_NAME_BYTES],
        device=entry.device if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0,
    )


def _render_block(
    name: bytes,
    kind: bytes,
    *,
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    mtime: int = 0,
    size_bytes: int = 0,
    link: bytes = b"",
    device: int = 0,
) -> bytes:
    block = b"".join(
        (
            name.ljust(_NAME_BYTES, b"\0"),
            _render_number(mode, 8),
            _render_number(uid, 8),
            _render_number(gid, 8),
            _render_number(size_bytes, 12),
            _render_number(mtime, 12),
            b" " * 8,  # the checksum is computed with blanks in its place
            kind,
            link.ljust(_NAME_BYTES, b"\0"),
            b"ustar\x0000",
            bytes(64),  # names of owner and group: the host would resolve them
            _render_number(os.major(device), 8),
            _render_number(os.minor(device), 8),
            bytes(167),
        )
    )
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _render_number(value: int, width: int) -> bytes:
    """Return *value* as a field of *width* bytes: octal, and binary where that is too small."""
    if value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    return b"\x80" + value.to_bytes(width - 1, "big")


def _render_record(key: bytes, value: bytes) -> bytes:
    # The number in front counts itself.
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + len(str(len(rest)))
    if len(str(length)) + len(rest) != length:
        length += 1
    return str(length).encode() + rest


def _encode(path: str) -> bytes:
    return os.fsencode(path)


def _copy_content(path: Path, size_bytes: int, out: IO[bytes]) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        left = size_bytes
        while left > 0:
            data = os.read(descriptor, min(left, _PIECE_BYTES))
            if not data:
                break
            out.write(data)
            left -= len(data)
        if left or os.read(descriptor, 1):
            raise VnfsbuildError(f"{path}: was changed while it was packed")
    finally:
        os.close(descriptor)
