"""Squashfs 4.0 as mksquashfs writes it: what is in it, and the contents of files.

Format: the Linux kernel's fs/squashfs/squashfs_fs.h. All numbers are little-endian. Nothing that
stands in the file is believed: it may lead to an error, but never out of the file, to endless work,
or to more memory than its own header bounds.
"""

from __future__ import annotations

import functools
import lzma
import os
import stat
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyzstd

from vnfsbuild.layer import Entry
from vnfsbuild.unpack.piece import Piece

MAGIC = 0x73717368
METADATA_BYTES = 8192
MAX_BLOCK_BYTES = 1 << 20
MAX_ENTRIES = 10_000_000
MAX_XATTR_BYTES = 1 << 20
MAX_TARGET_BYTES = 65_536

_SUPERBLOCK = struct.Struct("<IIIIIHHHHHHQQQQQQQQ")
_INODE = struct.Struct("<HHHHII")
_DIRECTORY = struct.Struct("<IIHHI")
_LARGE_DIRECTORY = struct.Struct("<IIIIHHI")
_FILE = struct.Struct("<IIII")
_LARGE_FILE = struct.Struct("<QQQIIII")
_LINK = struct.Struct("<II")
_NODE = struct.Struct("<II")
_NUMBER = struct.Struct("<I")
_SHORT = struct.Struct("<H")
_POSITION = struct.Struct("<Q")
_FRAGMENT = struct.Struct("<QII")
_HEADER = struct.Struct("<III")
_NAME = struct.Struct("<HhHH")
_XATTR_TABLE = struct.Struct("<QII")
_XATTRS = struct.Struct("<QII")
_XATTR = struct.Struct("<HH")

_TYPES = (stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK, stat.S_IFBLK, stat.S_IFCHR, stat.S_IFIFO,
          stat.S_IFSOCK)  # fmt: skip
_LARGE = 7
"""The types from 8 on are those from 1 on, with more in them."""
_NONE = 0xFFFFFFFF
_PREFIXES = ("user.", "trusted.", "security.")
_ELSEWHERE = 0x100
_STORED_METADATA = 0x8000
_STORED_DATA = 1 << 24


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """Where the content of a file is."""

    size_bytes: int
    start: int
    blocks: tuple[int, ...]
    fragment: int
    offset: int


class Squashfs:
    """The squashfs in *piece*."""

    def __init__(self, piece: Piece) -> None:
        """Read its header.

        Raises:
            VerificationError: it is no squashfs, or one of a kind that is not known.
        """
        self._piece = piece
        if piece.size_bytes < _SUPERBLOCK.size:
            raise piece.damaged(f"found {piece.size_bytes} bytes, expected a squashfs")
        (
            magic, self._inodes, _, self._block_bytes, self._fragments, kind, _, _, self._ids,
            major, minor, self._root, _, self._id_table, self._xattr_table, self._inode_table,
            self._directory_table, self._fragment_table, _,
        ) = piece.unpack(_SUPERBLOCK, 0)  # fmt: skip
        if (magic, major, minor) != (MAGIC, 4, 0):
            raise piece.damaged("no squashfs of version 4.0")
        if not 4096 <= self._block_bytes <= MAX_BLOCK_BYTES:
            raise piece.damaged(f"blocks of {self._block_bytes} bytes")
        if kind not in _DECOMPRESS:
            raise piece.damaged(f"compression {kind}, which is not read here")
        self._decompress = _DECOMPRESS[kind]
        self._metadata = functools.lru_cache(maxsize=4096)(self._read_metadata)
        self._fragment = functools.lru_cache(maxsize=16)(self._read_fragment)
        self._contents: dict[str, Contents] = {}

    def list_entries(self) -> list[Entry]:
        """Return what is in it, the root first, a directory before what is in it.

        Raises:
            VerificationError: it is damaged.
        """
        root, listing = self._read_inode(".", self._root)
        found, seen = [root], {self._root}
        below = [(".", listing)]
        while below:
            directory, listing = below.pop()
            for name, reference in self._read_directory(*listing):
                path = name if directory == "." else f"{directory}/{name}"
                entry, inner = self._read_inode(path, reference)
                found.append(entry)
                if len(found) > min(MAX_ENTRIES, 8 * (self._inodes + 1)):
                    raise self._piece.damaged(f"more than {len(found) - 1} names")
                if stat.S_ISDIR(entry.mode):
                    # Else a directory could lie in itself.
                    if reference in seen:
                        raise self._piece.damaged(f"{path}: a directory with two names")
                    seen.add(reference)
                    below.append((path, inner))
        return found

    def read_file(self, path: str) -> Iterator[bytes]:
        """Return the content of the file *path*, which was listed, piece by piece.

        Raises:
            VerificationError: it is damaged.
        """
        contents = self._contents[path]
        start, left = contents.start, contents.size_bytes
        for word in contents.blocks:
            expected = min(left, self._block_bytes)
            size_bytes = word & (_STORED_DATA - 1)
            if size_bytes == 0:
                yield bytes(expected)
            else:
                yield self._block(start, word, expected, exact=True)
            start, left = start + size_bytes, left - expected
        if left:
            data = self._fragment(contents.fragment)
            if contents.offset + left > len(data):
                raise self._piece.damaged(f"{path}: more than its fragment holds")
            yield data[contents.offset : contents.offset + left]

    def _block(self, start: int, word: int, most: int, *, exact: bool) -> bytes:
        size_bytes = word & (_STORED_DATA - 1)
        if size_bytes > self._block_bytes:
            raise self._piece.damaged(f"a block of {size_bytes} bytes")
        data = self._piece.read(start, size_bytes)
        if not word & _STORED_DATA:
            data = self._expand(data, most)
        if exact and len(data) != most:
            raise self._piece.damaged(f"found {len(data)} bytes in a block, expected {most}")
        return data

    def _expand(self, data: bytes, most: int) -> bytes:
        try:
            return self._decompress(data, most)
        except (zlib.error, lzma.LZMAError, pyzstd.ZstdError, EOFError) as error:
            raise self._piece.damaged(f"a block cannot be decompressed: {error}") from error

    def _read_fragment(self, number: int) -> bytes:
        if number >= self._fragments:
            raise self._piece.damaged(f"fragment {number} of {self._fragments}")
        start, word, _ = _FRAGMENT.unpack(
            self._lookup(self._fragment_table, number, _FRAGMENT.size)
        )
        return self._block(start, word, self._block_bytes, exact=False)

    def _read_metadata(self, start: int) -> tuple[bytes, int]:
        """Return the block of metadata at *start*, and where the next one is."""
        (header,) = self._piece.unpack(_SHORT, start)
        size_bytes = header & (_STORED_METADATA - 1) or _STORED_METADATA
        if size_bytes > METADATA_BYTES:
            raise self._piece.damaged(f"metadata of {size_bytes} bytes")
        data = self._piece.read(start + _SHORT.size, size_bytes)
        if not header & _STORED_METADATA:
            data = self._expand(data, METADATA_BYTES)
        return data, start + _SHORT.size + size_bytes

    def _cursor(self, table: int, reference: int) -> _Cursor:
        return _Cursor(self._metadata, table + (reference >> 16), reference & 0xFFFF, self._piece)

    def _lookup(self, table: int, number: int, width: int) -> bytes:
        """Return entry *number* of a table whose blocks are listed at *table*."""
        each = METADATA_BYTES // width
        (start,) = self._piece.unpack(_POSITION, table + number // each * _POSITION.size)
        return _Cursor(self._metadata, start, number % each * width, self._piece).take(width)

    def _id(self, number: int) -> int:
        if number >= self._ids:
            raise self._piece.damaged(f"owner {number} of {self._ids}")
        return int(_NUMBER.unpack(self._lookup(self._id_table, number, _NUMBER.size))[0])

    def _read_inode(self, path: str, reference: int) -> tuple[Entry, tuple[int, int]]:
        """Return the entry at *path*, and of a directory where its names are, and how many bytes"""
        cursor = self._cursor(self._inode_table, reference)
        number, mode, uid, gid, mtime, inode = cursor.unpack(_INODE)
        large = number > _LARGE
        number -= _LARGE * large
        if not 1 <= number <= len(_TYPES):
            raise self._piece.damaged(f"{path}: an inode of type {number}")
        kind = _TYPES[number - 1]
        listing, size_bytes, target, device, xattrs = (0, 0), 0, "", 0, _NONE
        if kind == stat.S_IFDIR:
            listing, xattrs = self._directory_inode(cursor, large=large)
        elif kind == stat.S_IFREG:
            size_bytes, xattrs = self._file_inode(path, cursor, large=large)
        elif kind == stat.S_IFLNK:
            _, length = cursor.unpack(_LINK)
            if length > MAX_TARGET_BYTES:
                raise self._piece.damaged(f"{path}: a link to a name of {length} bytes")
            target = os.fsdecode(cursor.take(length))
        else:
            _, *rest = cursor.unpack(_NODE if kind in (stat.S_IFBLK, stat.S_IFCHR) else _NUMBER)
            device = _decode_device(rest[0]) if rest else 0
        if large and kind not in (stat.S_IFDIR, stat.S_IFREG):
            (xattrs,) = cursor.unpack(_NUMBER)
        entry = Entry(
            path=path,
            mode=kind | stat.S_IMODE(mode),
            uid=self._id(uid),
            gid=self._id(gid),
            mtime=mtime,
            size_bytes=size_bytes,
            target=target,
            device=device,
            inode=inode,
            xattrs={} if xattrs == _NONE else self._read_xattrs(xattrs),
        )
        return entry, listing

    def _directory_inode(self, cursor: _Cursor, *, large: bool) -> tuple[tuple[int, int], int]:
        if large:
            _, size_bytes, start, _, _, offset, xattrs = cursor.unpack(_LARGE_DIRECTORY)
        else:
            start, _, size_bytes, offset, _ = cursor.unpack(_DIRECTORY)
            xattrs = _NONE
        # Three bytes are said to be more than there are: for "." and "..".
        return (start << 16 | offset, max(size_bytes - 3, 0)), xattrs

    def _file_inode(self, path: str, cursor: _Cursor, *, large: bool) -> tuple[int, int]:
        if large:
            start, size_bytes, _, _, fragment, offset, xattrs = cursor.unpack(_LARGE_FILE)
        else:
            start, fragment, offset, size_bytes = cursor.unpack(_FILE)
            xattrs = _NONE
        count, rest = divmod(size_bytes, self._block_bytes)
        count += bool(rest) and fragment == _NONE
        if count > self._piece.size_bytes:
            raise self._piece.damaged(f"{path}: a file of {size_bytes} bytes")
        blocks = struct.unpack(f"<{count}I", cursor.take(4 * count))
        self._contents[path] = Contents(
            size_bytes=size_bytes, start=start, blocks=blocks, fragment=fragment, offset=offset
        )
        return size_bytes, xattrs

    def _read_directory(self, reference: int, size_bytes: int) -> Iterator[tuple[str, int]]:
        """Return the names in a directory, each with the reference of its inode."""
        if not size_bytes:
            return
        cursor = self._cursor(self._directory_table, reference)
        end = size_bytes
        while cursor.taken < end:
            count, start, _ = cursor.unpack(_HEADER)
            if count > 255:
                raise self._piece.damaged(f"{count + 1} names in a row")
            for _ in range(count + 1):
                offset, _, _, length = cursor.unpack(_NAME)
                name = os.fsdecode(cursor.take(length + 1))
                if name in (".", "..") or "/" in name or "\0" in name:
                    raise self._piece.damaged(f"the name {name!r}")
                yield name, start << 16 | offset

    def _read_xattrs(self, number: int) -> dict[str, bytes]:
        values_start, total, _ = self._piece.unpack(_XATTR_TABLE, self._xattr_table)
        if number >= total:
            raise self._piece.damaged(f"attributes {number} of {total}")
        table = self._xattr_table + _XATTR_TABLE.size
        reference, count, _ = _XATTRS.unpack(self._lookup(table, number, _XATTRS.size))
        cursor = self._cursor(values_start, reference)
        found = {}
        for _ in range(count):
            kind, length = cursor.unpack(_XATTR)
            prefix = kind & 0xFF
            if prefix >= len(_PREFIXES):
                raise self._piece.damaged(f"an attribute of kind {kind}")
            name = _PREFIXES[prefix] + os.fsdecode(cursor.take(length))
            value = self._take_value(cursor)
            if kind & _ELSEWHERE:
                (elsewhere,) = _POSITION.unpack(value)
                value = self._take_value(self._cursor(values_start, elsewhere))
            found[name] = value
        return found

    def _take_value(self, cursor: _Cursor) -> bytes:
        (length,) = cursor.unpack(_NUMBER)
        if length > MAX_XATTR_BYTES:
            raise self._piece.damaged(f"an attribute of {length} bytes")
        return cursor.take(length)


class _Cursor:
    """A place in metadata, which goes on from one block to the next."""

    def __init__(
        self,
        read: Callable[[int], tuple[bytes, int]],
        start: int,
        offset: int,
        piece: Piece,
    ) -> None:
        self._read = read
        self._piece = piece
        self._data, self._next = read(start)
        self._offset = offset
        self.taken = 0
        if offset > len(self._data):
            raise piece.damaged(f"byte {offset} of a block of {len(self._data)}")

    def take(self, count: int) -> bytes:
        """Return the next *count* bytes."""
        data = self._data[self._offset : self._offset + count]
        self._offset += len(data)
        parts = [data]
        missing = count - len(data)
        while missing:
            self._data, self._next = self._read(self._next)
            if not self._data:
                raise self._piece.damaged("an empty block of metadata")
            parts.append(self._data[:missing])
            self._offset = len(parts[-1])
            missing -= self._offset
        self.taken += count
        return b"".join(parts)

    def unpack(self, form: struct.Struct) -> tuple[int, ...]:
        """Return the next values, which have this form."""
        return form.unpack(self.take(form.size))


def _decode_device(word: int) -> int:
    return os.makedev((word >> 8) & 0xFFF, (word & 0xFF) | (word >> 12) & 0xFFF00)


def _unzip(data: bytes, most: int) -> bytes:
    return zlib.decompressobj().decompress(data, most + 1)[: most + 1]


def _unxz(data: bytes, most: int) -> bytes:
    return lzma.LZMADecompressor().decompress(data, most + 1)


def _unzstd(data: bytes, most: int) -> bytes:
    return pyzstd.ZstdDecompressor().decompress(data, most + 1)


_DECOMPRESS: dict[int, Callable[[bytes, int], bytes]] = {1: _unzip, 4: _unxz, 6: _unzstd}
"""Never more than one byte beyond what there may be, however much a block claims to hold."""
