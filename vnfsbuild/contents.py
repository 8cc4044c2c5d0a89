"""What is in a payload, path by path, read without unpacking it and without any privilege."""

from __future__ import annotations

import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import libarchive

from vnfsbuild.compare import Item
from vnfsbuild.digest import digest_of, digest_of_stream
from vnfsbuild.errors import VerificationError
from vnfsbuild.manifest import INITRD, LAYER_SQUASHFS, SOURCE
from vnfsbuild.sandbox import tree_argv
from vnfsbuild.tools import run

WHOLE = "."
"""The path of a payload that is not looked into, or cannot be."""

_TYPES = {
    "B": "block device",
    "C": "character device",
    "D": "directory",
    "I": "pipe or socket",
    "R": "file",
    "S": "link",
}
_DATA_MARK = b"# START OF DATA - DO NOT MODIFY\n#\n"
_DEFINITION = re.compile(r"((?:[^\\ ]|\\.)*) (.*)", re.DOTALL)
_OCTAL = re.compile(rb"\\([0-7]{3}|\\)")


def list_payload(path: Path, media_type: str, *, tools: Path, work: Path) -> dict[str, Item]:
    """Return what is in the payload in the file *path*: path → item.

    *tools* is a tools tree, *work* a directory with room for the payload, unpacked.

    Raises:
        VerificationError: it is not what *media_type* says.
        ToolError: a program failed.
    """
    if media_type == LAYER_SQUASHFS:
        return _list_squashfs(path, tools=tools, work=work)
    if media_type in (INITRD, SOURCE):
        return _list_archive(path)
    with path.open("rb") as file:
        digest, _ = digest_of_stream(file)
    return {WHOLE: Item(type="file", content=digest)}


def extract_file(path: Path, media_type: str, name: str, out: Path, *, tools: Path) -> None:
    """Write the file *name* of the payload in the file *path* to *out*.

    Raises:
        VerificationError: it is not what *media_type* says, or has no such file.
        ToolError: a program failed.
    """
    if media_type == LAYER_SQUASHFS:
        with tempfile.TemporaryDirectory(dir=out.parent) as work:
            argv = ["-no-progress", "-quiet", "-no-xattrs", "-d", f"{work}/root", str(path), name]
            run(tree_argv(tools, "unsquashfs", argv))
            shutil.copyfile(Path(work, "root", name), out)
        return
    if media_type not in (INITRD, SOURCE):
        shutil.copyfile(path, out)
        return
    with libarchive.file_reader(str(path)) as entries:
        for entry in entries:
            if entry.pathname == name:
                with out.open("wb") as file:
                    file.writelines(entry.get_blocks())
                return
    raise VerificationError(f"{path}: has no file {name}")


def _list_archive(path: Path) -> dict[str, Item]:
    items = {}
    try:
        with libarchive.file_reader(str(path)) as entries:
            for entry in entries:
                content = entry.linkname or ""
                if stat.S_ISREG(entry.mode):
                    content = digest_of(b"".join(entry.get_blocks()))
                items[entry.pathname] = Item(
                    type=_type_of(entry.mode),
                    mode=stat.S_IMODE(entry.mode),
                    uid=entry.uid,
                    gid=entry.gid,
                    mtime=int(entry.mtime or 0),
                    content=content,
                )
    except libarchive.ArchiveError as error:
        raise VerificationError(f"{path}: not an archive: {error}") from error
    return items


def _type_of(mode: int) -> str:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "directory"
    return "link" if stat.S_ISLNK(mode) else f"type {stat.S_IFMT(mode):o}"


def _list_squashfs(path: Path, *, tools: Path, work: Path) -> dict[str, Item]:
    # Pseudo-file definitions hold all that a squashfs can: unpacking would take root for owners.
    with tempfile.NamedTemporaryFile(dir=work, prefix="listing.") as listing:
        run(tree_argv(tools, "unsquashfs", ["-pf", listing.name, path]))
        with Path(listing.name).open("rb") as file:
            definitions, start = _split_definitions(file, where=str(path))
            return dict(_read_definitions(definitions, file, start))


def _split_definitions(file: BinaryIO, *, where: str) -> tuple[list[str], int]:
    """Return the definitions, and where the data begins."""
    head = b""
    while _DATA_MARK not in head:
        more = file.read(1024 * 1024)
        if not more:
            raise VerificationError(f"{where}: unsquashfs wrote no data mark, expected one")
        head += more
    text = head[: head.index(_DATA_MARK)]
    # A name may hold a line feed, with a backslash before it; a line is ended by one without.
    lines = re.split(r"(?<!\\)\n", text.decode("utf-8", "surrogateescape"))
    return [line for line in lines if line and line != "#"], len(text) + len(_DATA_MARK)


def _read_definitions(
    definitions: list[str], file: BinaryIO, start: int
) -> Iterator[tuple[str, Item]]:
    items: dict[str, Item] = {}
    for line in definitions:
        found = _DEFINITION.fullmatch(line)
        assert found is not None, line
        name, rest = re.sub(r"\\(.)", r"\1", found[1], flags=re.DOTALL), found[2]
        kind, _, words = rest.partition(" ")
        if kind == "x":
            attribute, _, value = words.partition("=")
            data = _OCTAL.sub(_unescape, value.encode("utf-8", "surrogateescape"))
            items[name].xattrs[attribute] = data  # type: ignore[index]  # still ours
        elif kind == "L":
            items[name] = items[re.sub(r"\\(.)", r"\1", words, flags=re.DOTALL)]
        else:
            items[name] = _make_item(kind, words, file, start)
    yield from items.items()


def _make_item(kind: str, words: str, file: BinaryIO, start: int) -> Item:
    mtime, mode, uid, gid, *more = words.split(" ", 4)
    content = more[0] if more else ""
    if kind == "R":
        size_bytes, offset, _ = map(int, content.split())
        file.seek(start + offset)
        content = digest_of(file.read(size_bytes))
    return Item(
        type=_TYPES.get(kind, kind),
        mode=int(mode, 8),
        uid=int(uid),
        gid=int(gid),
        mtime=int(mtime),
        content=content,
        xattrs={},
    )


def _unescape(found: re.Match[bytes]) -> bytes:
    word = found[1]
    return b"\\" if word == b"\\" else bytes([int(word, 8)])
