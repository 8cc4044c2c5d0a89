"""Tree lists as text: what the cache of stages keeps of a tree besides its contents.

One list has one text. Inodes are chance, so what shares one is numbered in the order of the list.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from vnfsbuild.digest import Digest, digest_of
from vnfsbuild.errors import VerificationError
from vnfsbuild.layer import Entry, packed_xattrs


def number_links(entries: Iterable[Entry]) -> list[Entry]:
    """Return *entries* with small numbers for inodes that several of them share, and 0 for others.

    Extended attributes that no layer keeps are left out.
    """
    entries = list(entries)
    counts: dict[int, int] = {}
    for entry in entries:
        if entry.inode and not stat.S_ISDIR(entry.mode):
            counts[entry.inode] = counts.get(entry.inode, 0) + 1
    numbers: dict[int, int] = {}
    found = []
    for entry in entries:
        number = 0
        if counts.get(entry.inode, 0) > 1 and not stat.S_ISDIR(entry.mode):
            number = numbers.setdefault(entry.inode, len(numbers) + 1)
        xattrs = packed_xattrs(entry) if entry.xattrs else {}
        found.append(replace(entry, inode=number, xattrs=xattrs))
    return found


def render_list(entries: Sequence[Entry]) -> bytes:
    """Return the text of *entries*, which :func:`number_links` has numbered: a line for each."""
    return "".join(f"{json.dumps(_render(entry))}\n" for entry in entries).encode("ascii")


def parse_list(data: bytes, *, where: str) -> list[Entry]:
    """Return the entries that *data* is the text of.

    Raises:
        VerificationError: it is no such text.
    """
    try:
        rows = json.loads(b"[" + b",".join(data.splitlines()) + b"]")
        return [_parse(row) for row in rows]
    except (ValueError, TypeError) as error:
        raise VerificationError(f"{where}: no list of a tree: {error}") from error


def digest_of_list(entries: Sequence[Entry]) -> Digest:
    """Return the digest of all that a packer sees of *entries*, contents by their digests."""
    return digest_of(render_list(number_links(entries)))


def _render(entry: Entry) -> list[Any]:
    return [
        entry.path, entry.mode, entry.uid, entry.gid, entry.mtime, entry.size_bytes, entry.target,
        entry.device, entry.inode, {key: value.hex() for key, value in entry.xattrs.items()},
        entry.content,
    ]  # fmt: skip


def _parse(row: list[Any]) -> Entry:
    path, mode, uid, gid, mtime, size_bytes, target, device, inode, xattrs, content = row
    return Entry(
        path=path,
        mode=mode,
        uid=uid,
        gid=gid,
        mtime=mtime,
        size_bytes=size_bytes,
        target=target,
        device=device,
        inode=inode,
        xattrs={key: bytes.fromhex(value) for key, value in xattrs.items()} if xattrs else {},
        content=content,
    )
