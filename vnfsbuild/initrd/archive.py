"""What goes into an initramfs, and how it becomes a file: sorted, without times, compressed."""

from __future__ import annotations

import stat
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

from vnfsbuild import newc
from vnfsbuild.digest import READ_SIZE_BYTES
from vnfsbuild.errors import InputError
from vnfsbuild.sandbox import tree_argv
from vnfsbuild.tools import run

LEVEL = 19
THREADS = 2
"""Fixed: zstd's bytes are the same for any number of threads, but other ones without threads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One entry of an archive."""

    mode: int
    """with the type, as in :mod:`stat`"""
    data: bytes | Path = b""
    """content, the file that has it, or where a link points"""


Members = Mapping[str, Member]
"""Path without a leading slash → entry. Directories above need not be named."""


def regular(data: bytes | Path, *, mode: int = 0o644) -> Member:
    """Return a file with the content *data*."""
    return Member(mode=stat.S_IFREG | mode, data=data)


def link(target: str) -> Member:
    """Return a symbolic link to *target*."""
    return Member(mode=stat.S_IFLNK | 0o777, data=target.encode())


def directory(*, mode: int = 0o755) -> Member:
    """Return a directory."""
    return Member(mode=stat.S_IFDIR | mode)


def with_directories(members: Members) -> dict[str, Member]:
    """Return *members* and the directories above them, sorted so that those come first."""
    found = dict(members)
    for path in members:
        for parent in list(Path(path).parents)[:-1]:
            found.setdefault(str(parent), directory())
    return dict(sorted(found.items(), key=lambda item: item[0].split("/")))


def write_archive(members: Members, file: IO[bytes]) -> None:
    """Write *members* to *file* as one newc archive.

    Raises:
        InputError: a file cannot be read.
    """
    for path, member in with_directories(members).items():
        if isinstance(member.data, bytes):
            file.write(newc.render_entry(path, member.mode, member.data))
            continue
        try:
            with member.data.open("rb") as source:
                size_bytes = member.data.stat().st_size
                file.write(newc.entry_header(path, member.mode, size_bytes))
                for chunk in _chunks(source):
                    file.write(chunk)
                file.write(newc.padding(size_bytes))
        except OSError as error:
            raise InputError(f"{member.data}: {error.strerror}") from error
    file.write(newc.render_trailer())


def zstd_argv(source: Path, out: Path) -> list[str]:
    """Return the arguments that make zstd pack *source* into *out*."""
    return [
        f"-{LEVEL}", f"--threads={THREADS}", "--quiet", "--force", "--no-progress",
        str(source), "-o", str(out),
    ]  # fmt: skip


def write_initrd(members: Members, out: Path, *, tools: Path) -> None:
    """Write *members* to the file *out* as a compressed initramfs, with zstd of the tree *tools*.

    Raises:
        InputError: a file cannot be read.
        ToolError: zstd failed.
    """
    with tempfile.NamedTemporaryFile(dir=out.parent, prefix=f".{out.name}.") as plain:
        write_archive(members, plain)
        plain.flush()
        run(tree_argv(tools, "zstd", zstd_argv(Path(plain.name), out)))
    with out.open("ab") as file:
        # Loaders may join it with the next archive as it is, and the kernel looks for a cpio header
        # only at multiples of four. It skips zeros.
        file.write(newc.padding(file.tell()))
    out.chmod(0o644)


def _chunks(source: BinaryIO) -> Iterable[bytes]:
    return iter(lambda: source.read(READ_SIZE_BYTES), b"")
