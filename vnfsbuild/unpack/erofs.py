"""Erofs as mkfs.erofs writes it: what is in it, but no contents of files.

Names, owners, attributes and the targets of links stand in it as they are, which is read here.
Contents are compressed in ways that the programs of the tools tree know: see :mod:`.contents`.
Format: the Linux kernel's Documentation/filesystems/erofs.rst and fs/erofs/erofs_fs.h; numbers are
little-endian. Nothing that stands in the file is believed.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from vnfsbuild.layer import Entry
from vnfsbuild.unpack.piece import Piece

SUPERBLOCK_BYTES = 1024
"""Where the header is."""
MAGIC = 0xE0F5E1E2
SLOT_BYTES = 32
"""What the number of an inode counts in."""
MAX_ENTRIES = 10_000_000
MAX_LISTING_BYTES = 1 << 28
MAX_TARGET_BYTES = 65_536

_SUPERBLOCK = struct.Struct("<IIIBBHQQIIII")
_COMPACT = struct.Struct("<HHHHIIIIHHI")
_EXTENDED = struct.Struct("<HHHHQIIIIQII16x")
_NAME = struct.Struct("<QHBB")
_XATTR_HEADER = struct.Struct("<IB7x")
_XATTR = struct.Struct("<BBH")
_NUMBER = struct.Struct("<I")

_PLAIN = 0
_INLINE = 2
_PREFIXES = {
    1: "user.",
    2: "system.posix_acl_access",
    3: "system.posix_acl_default",
    4: "trusted.",
    6: "security.",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Inode:
    """What stands in an inode."""

    layout: int
    start: int
    """byte of what stands inline, after the inode and its attributes"""
    xattr_start: int
    xattr_count: int
    mode: int
    size_bytes: int
    word: int
    """first block, or device"""
    uid: int
    gid: int
    mtime: int


class Erofs:
    """The erofs in *piece*."""

    def __init__(self, piece: Piece) -> None:
        """Read its header.

        Raises:
            VerificationError: it is no erofs.
        """
        self._piece = piece
        if piece.size_bytes < SUPERBLOCK_BYTES + 128:
            raise piece.damaged(f"found {piece.size_bytes} bytes, expected an erofs")
        (
            magic, _, _, bits, _, self._root, self._inodes, self._mtime, _, _, meta, xattrs,
        ) = piece.unpack(_SUPERBLOCK, SUPERBLOCK_BYTES)  # fmt: skip
        if magic != MAGIC or not 9 <= bits <= 16:
            raise piece.damaged("no erofs")
        self._block_bytes = 1 << bits
        self._meta = meta << bits
        self._shared = xattrs << bits

    def list_entries(self) -> list[Entry]:
        """Return what is in it, the root first, a directory before what is in it.

        Raises:
            VerificationError: it is damaged, or of a kind that is not known.
        """
        root = self._read_inode(self._root)
        if not stat.S_ISDIR(root.mode):
            raise self._piece.damaged("the root is no directory")
        found, seen = [self._make_entry(".", self._root, root)], {self._root}
        below = [(".", root)]
        while below:
            directory, listing = below.pop()
            for name, number in self._read_names(listing):
                path = name if directory == "." else f"{directory}/{name}"
                inode = self._read_inode(number)
                found.append(self._make_entry(path, number, inode))
                if len(found) > min(MAX_ENTRIES, 8 * (self._inodes + 1)):
                    raise self._piece.damaged(f"more than {len(found) - 1} names")
                if stat.S_ISDIR(inode.mode):
                    # Else a directory could lie in itself.
                    if number in seen:
                        raise self._piece.damaged(f"{path}: a directory with two names")
                    seen.add(number)
                    below.append((path, inode))
        return found

    def _read_inode(self, number: int) -> _Inode:
        start = self._meta + number * SLOT_BYTES
        (form,) = struct.unpack("<H", self._piece.read(start, 2))
        extended = bool(form & 1)
        if extended:
            _, xattrs, mode, _, size_bytes, word, _, uid, gid, mtime, _, _ = self._piece.unpack(
                _EXTENDED, start
            )
        else:
            _, xattrs, mode, _, size_bytes, _, word, _, uid, gid, _ = self._piece.unpack(
                _COMPACT, start
            )
            mtime = self._mtime
        after = start + (_EXTENDED.size if extended else _COMPACT.size)
        return _Inode(
            layout=form >> 1 & 7,
            start=after + (_XATTR_HEADER.size + 4 * (xattrs - 1) if xattrs else 0),
            xattr_start=after,
            xattr_count=xattrs,
            mode=mode,
            size_bytes=size_bytes,
            word=word,
            uid=uid,
            gid=gid,
            mtime=mtime,
        )

    def _make_entry(self, path: str, number: int, inode: _Inode) -> Entry:
        target, device = "", 0
        if stat.S_ISLNK(inode.mode):
            target = os.fsdecode(self._read_data(path, inode, MAX_TARGET_BYTES))
        elif stat.S_ISCHR(inode.mode) or stat.S_ISBLK(inode.mode):
            word = inode.word
            device = os.makedev((word >> 8) & 0xFFF, (word & 0xFF) | (word >> 12) & 0xFFF00)
        return Entry(
            path=path,
            mode=inode.mode,
            uid=inode.uid,
            gid=inode.gid,
            mtime=inode.mtime,
            size_bytes=inode.size_bytes if stat.S_ISREG(inode.mode) else 0,
            target=target,
            device=device,
            inode=number,
            xattrs=dict(self._read_xattrs(inode)),
        )

    def _read_data(self, path: str, inode: _Inode, most: int) -> bytes:
        """Return what a directory or a link holds, which is not compressed."""
        if inode.size_bytes > most:
            raise self._piece.damaged(f"{path}: holds {inode.size_bytes} bytes")
        if inode.layout not in (_PLAIN, _INLINE):
            raise self._piece.damaged(f"{path}: layout {inode.layout}, which is not read here")
        inline = inode.size_bytes % self._block_bytes if inode.layout == _INLINE else 0
        if inode.layout == _INLINE and inode.size_bytes and not inline:
            inline = self._block_bytes
        outside = inode.size_bytes - inline
        data = b""
        if outside:
            data = self._piece.read(inode.word * self._block_bytes, outside)
        return data + self._piece.read(inode.start, inline)

    def _read_names(self, inode: _Inode) -> Iterator[tuple[str, int]]:
        """Return the names in a directory, each with the number of its inode."""
        data = self._read_data("a directory", inode, MAX_LISTING_BYTES)
        for start in range(0, len(data), self._block_bytes):
            yield from self._read_name_block(data[start : start + self._block_bytes])

    def _read_name_block(self, block: bytes) -> Iterator[tuple[str, int]]:
        first = _NAME.unpack_from(block)[1] if len(block) >= _NAME.size else 0
        if not _NAME.size <= first <= len(block) or first % _NAME.size:
            raise self._piece.damaged(f"names at byte {first} of a block of {len(block)}")
        rows = [_NAME.unpack_from(block, at) for at in range(0, first, _NAME.size)]
        ends = [*(row[1] for row in rows[1:]), len(block)]
        for (number, start, _, _), end in zip(rows, ends, strict=True):
            if not first <= start < end <= len(block):
                raise self._piece.damaged(f"a name at byte {start} to {end}")
            # The last one is filled up with zeros.
            name = os.fsdecode(block[start:end].partition(b"\0")[0])
            if not name or "/" in name:
                raise self._piece.damaged(f"the name {name!r}")
            if name not in (".", ".."):
                yield name, number

    def _read_xattrs(self, inode: _Inode) -> Iterator[tuple[str, bytes]]:
        if not inode.xattr_count:
            return
        _, shared = self._piece.unpack(_XATTR_HEADER, inode.xattr_start)
        start = inode.xattr_start + _XATTR_HEADER.size
        for position in range(shared):
            (number,) = self._piece.unpack(_NUMBER, start + position * _NUMBER.size)
            yield self._read_xattr(self._shared + number * 4)[0]
        start += shared * _NUMBER.size
        while start < inode.start:
            found, size_bytes = self._read_xattr(start)
            yield found
            start += size_bytes

    def _read_xattr(self, start: int) -> tuple[tuple[str, bytes], int]:
        length, kind, value_bytes = self._piece.unpack(_XATTR, start)
        if kind not in _PREFIXES:
            raise self._piece.damaged(f"an attribute of kind {kind}")
        data = self._piece.read(start + _XATTR.size, length + value_bytes)
        size_bytes = _XATTR.size + length + value_bytes
        name = _PREFIXES[kind] + os.fsdecode(data[:length])
        return (name, data[length:]), size_bytes + -size_bytes % 4
