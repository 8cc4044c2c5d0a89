"""Payloads that are archives, source, initrd, drivers: what is in them, and contents of files.

An initrd is what the kernel unpacks: cpio archives in the newc format, one after another, with
zeros between them, all of it compressed. Libraries stop at the first end, or at the zeros.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import tarfile
from collections.abc import Collection, Iterator
from dataclasses import replace

import pyzstd

from vnfsbuild.digest import Digest, digest_of
from vnfsbuild.layer import Entry
from vnfsbuild.manifest import DRIVERS, INITRD
from vnfsbuild.newc import TRAILER
from vnfsbuild.unpack.piece import Piece

MAX_UNPACKED_BYTES = 1 << 32
_HEADER_BYTES = 110
_NEWC = b"070701"
_TAR_TYPES = {
    tarfile.REGTYPE: stat.S_IFREG,
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.SYMTYPE: stat.S_IFLNK,
}


class Archive:
    """The archive in *piece*, unpacked in memory."""

    def __init__(self, piece: Piece, media_type: str) -> None:
        """List what is in it.

        Raises:
            VerificationError: it is no archive of that type.
        """
        self._piece = piece
        data = b"".join(piece.chunks())
        if media_type == INITRD:
            data = self._decompress(data)
        reads_cpio = media_type in (INITRD, DRIVERS)
        found = self._read_cpio(data) if reads_cpio else self._read_tar(data)
        # Of several with one name the last counts, as it does when they are unpacked.
        self._members = {entry.path: (entry, content) for entry, content in found}
        self.entries = [entry for entry, _ in self._members.values()]

    def read_file(self, path: str) -> Iterator[bytes]:
        """Return the content of the file *path*."""
        yield self._members[path][1]

    def digest_files(self, paths: Collection[str]) -> dict[str, Digest]:
        """Return the digests of the contents of the files *paths*."""
        return {path: digest_of(self._members[path][1]) for path in paths}

    def _read_tar(self, data: bytes) -> Iterator[tuple[Entry, bytes]]:
        try:
            with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
                for member in tar:
                    kind = _TAR_TYPES.get(member.type)
                    if kind is None:
                        raise self._piece.damaged(f"{member.name}: type {member.type!r}")
                    content = tar.extractfile(member) if kind == stat.S_IFREG else None
                    entry = Entry(
                        path=_tidy(member.name),
                        mode=kind | stat.S_IMODE(member.mode),
                        uid=member.uid,
                        gid=member.gid,
                        mtime=int(member.mtime),
                        size_bytes=member.size if content else 0,
                        target=member.linkname if kind == stat.S_IFLNK else "",
                    )
                    yield entry, content.read() if content else b""
        except tarfile.TarError as error:
            raise self._piece.damaged(str(error)) from error

    def _read_cpio(self, plain: bytes) -> Iterator[tuple[Entry, bytes]]:
        at = 0
        while at < len(plain):
            if plain[at : at + 4] == bytes(4):
                at += 4
                continue
            entry, start = self._read_header(plain, at)
            size_bytes = int(plain[at + 54 : at + 62], 16)
            content = bytes(plain[start : start + size_bytes])
            if len(content) < size_bytes:
                raise self._piece.damaged(f"{entry.path}: ends within its content")
            at = start + size_bytes + -size_bytes % 4
            if entry.path == TRAILER:
                continue
            if stat.S_ISLNK(entry.mode):
                yield replace(entry, target=os.fsdecode(content.rstrip(b"\0"))), b""
            else:
                yield entry, content

    def _decompress(self, data: bytes) -> bytes:
        """Return what is in the frames of *data*, among which zeros may stand."""
        plain = bytearray()
        try:
            while data := data.lstrip(b"\0"):
                frame = pyzstd.ZstdDecompressor()
                plain += frame.decompress(data, MAX_UNPACKED_BYTES - len(plain))
                if not frame.eof:
                    raise self._piece.damaged(f"unpacks to {len(plain)} bytes or more")
                data = frame.unused_data
        except pyzstd.ZstdError as error:
            raise self._piece.damaged(f"cannot be decompressed: {error}") from error
        return bytes(plain)

    def _read_header(self, plain: bytes, at: int) -> tuple[Entry, int]:
        """Return the entry whose header is at *at*, and where its content begins."""
        header = plain[at : at + _HEADER_BYTES]
        if header[:6] != _NEWC:
            raise self._piece.damaged(f"byte {at}: no header of a newc archive")
        try:
            fields = [int(word, 16) for (word,) in struct.iter_unpack("8s", header[6:])]
        except (ValueError, struct.error) as error:
            raise self._piece.damaged(f"byte {at}: a header that is none") from error
        inode, mode, uid, gid, _, mtime, size_bytes, _, _, major, minor, length, _ = fields
        name = plain[at + _HEADER_BYTES : at + _HEADER_BYTES + length].rstrip(b"\0")
        entry = Entry(
            path=_tidy(os.fsdecode(name)),
            mode=mode,
            uid=uid,
            gid=gid,
            mtime=mtime,
            size_bytes=size_bytes if stat.S_ISREG(mode) else 0,
            device=os.makedev(major, minor),
            inode=inode,
        )
        end = at + _HEADER_BYTES + length
        return entry, end + -(_HEADER_BYTES + length) % 4


def _tidy(name: str) -> str:
    return "/".join(part for part in name.split("/") if part not in ("", ".")) or "."
