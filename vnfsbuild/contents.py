"""What is in a payload, path by path, read without unpacking it and without any privilege."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from vnfsbuild.compare import Item
from vnfsbuild.digest import digest_of_stream
from vnfsbuild.errors import VerificationError
from vnfsbuild.inside.union import type_of
from vnfsbuild.layer import Entry
from vnfsbuild.manifest import DRIVERS, INITRD, LAYER_TYPES, SOURCE
from vnfsbuild.unpack.archives import Archive
from vnfsbuild.unpack.layers import Layer, open_layer
from vnfsbuild.unpack.piece import Piece

WHOLE = "."
"""The path of a payload that is not looked into, or cannot be."""


def list_payload(path: Path, media_type: str, *, tools: Path) -> dict[str, Item]:
    """Return what is in the payload in the file *path*: path → item.

    *tools* is a tools tree: erofs takes its programs.

    Raises:
        VerificationError: it is not what *media_type* says.
        ToolError: a program failed.
    """
    with _open(path, media_type, tools) as image:
        if image is None:
            with path.open("rb") as file:
                return {WHOLE: Item(type="file", content=digest_of_stream(file)[0])}
        files = [entry.path for entry in image.entries if stat.S_ISREG(entry.mode)]
        digests = image.digest_files(files)
        return {
            "/" if entry.path == "." else entry.path: _make_item(entry, digests.get(entry.path))
            for entry in image.entries
        }


def extract_file(path: Path, media_type: str, name: str, out: Path, *, tools: Path) -> None:
    """Write the file *name* of the payload in the file *path* to *out*.

    Raises:
        VerificationError: it is not what *media_type* says, or has no such file.
        ToolError: a program failed.
    """
    with _open(path, media_type, tools) as image, out.open("wb") as file:
        if image is None:
            file.write(path.read_bytes())
            return
        if name not in {entry.path for entry in image.entries if stat.S_ISREG(entry.mode)}:
            raise VerificationError(f"{path}: has no file {name}")
        file.writelines(image.read_file(name))


@contextlib.contextmanager
def _open(path: Path, media_type: str, tools: Path) -> Iterator[Layer | Archive | None]:
    """Return what is in the payload, or None for one that is a file by itself."""
    with path.open("rb") as file:
        piece = Piece(
            descriptor=file.fileno(),
            offset=0,
            size_bytes=os.fstat(file.fileno()).st_size,
            where=str(path),
        )
        if media_type in LAYER_TYPES:
            yield open_layer(piece, media_type, find_tools=lambda: tools)
        elif media_type in (DRIVERS, INITRD, SOURCE):
            yield Archive(piece, media_type)
        else:
            yield None


def _make_item(entry: Entry, digest: str | None) -> Item:
    content = digest or entry.target
    if stat.S_ISCHR(entry.mode) or stat.S_ISBLK(entry.mode):
        content = f"{os.major(entry.device)} {os.minor(entry.device)}"
    return Item(
        type=type_of(entry),
        mode=stat.S_IMODE(entry.mode),
        uid=entry.uid,
        gid=entry.gid,
        mtime=entry.mtime,
        content=content,
        xattrs=entry.xattrs,
    )
