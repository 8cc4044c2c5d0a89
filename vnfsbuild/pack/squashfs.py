"""Rootfs layers as squashfs, by the mksquashfs of the tools tree.

zstd level 6 and 128 KiB blocks are where size and time meet, and where an update sends least
(docs/adr). Bytes follow from the tree list and the contents alone: mksquashfs reads both as a tar
stream, so that neither the file system nor its user, the number of processors nor the day matters.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from vnfsbuild.layer import Entry
from vnfsbuild.pack.stream import write_stream
from vnfsbuild.sandbox import tree_argv
from vnfsbuild.tools import feed

LEVEL = 6
BLOCK_BYTES = 128 * 1024


def squashfs_argv(
    top: Entry, out: Path | str, *, level: int = LEVEL, block_bytes: int = BLOCK_BYTES
) -> list[str]:
    """Return the arguments that make mksquashfs pack a tar stream into *out*.

    *top* is the root of the tree, which has no name that could stand in the stream.
    """
    return [
        "-", os.fspath(out), "-tar",
        "-noappend", "-no-progress", "-quiet", "-no-recovery", "-exit-on-error",
        "-comp", "zstd", "-Xcompression-level", str(level), "-b", str(block_bytes),
        "-exports",
        "-root-mode", f"{stat.S_IMODE(top.mode):o}",
        "-root-uid", str(top.uid), "-root-gid", str(top.gid),
        "-root-time", str(top.mtime),
    ]  # fmt: skip


def pack_squashfs(
    tools: Path,
    entries: Sequence[Entry],
    root: Path,
    out: Path,
    *,
    epoch: int,
    level: int = LEVEL,
) -> None:
    """Pack *entries*, the root first, into the file *out* with the tools tree *tools*.

    Contents are read from the tree *root*. The file system's own time is *epoch*, and no time in
    it is later.

    Raises:
        ToolError: mksquashfs failed.
        VnfsbuildError: a file of *root* is not as its entry says.
    """
    argv = tree_argv(tools, "mksquashfs", squashfs_argv(entries[0], out, level=level))
    feed(
        argv,
        lambda stream: write_stream(entries, root, stream),
        # mksquashfs takes its own time and the latest of files from here.
        env={"SOURCE_DATE_EPOCH": str(epoch)},
    )
