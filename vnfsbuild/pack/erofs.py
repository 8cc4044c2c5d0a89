"""Rootfs layers as erofs, by the mkfs.erofs of the tools tree.

lz4hc, for every kernel with a compressed erofs reads it: zstd takes Linux 6.10. Bytes follow from
the tree list and the contents alone, as those of a squashfs do: from a tar stream.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

from vnfsbuild.layer import Entry
from vnfsbuild.pack.stream import render_entry, write_stream
from vnfsbuild.sandbox import tree_argv
from vnfsbuild.tools import feed

LEVEL = 9
BLOCK_BYTES = 4096
CLUSTER_BYTES = 128 * 1024
NO_UUID = "00000000-0000-0000-0000-000000000000"


def erofs_argv(out: Path | str, *, epoch: int, level: int = LEVEL) -> list[str]:
    """Return the arguments that make mkfs.erofs pack a tar stream into *out*.

    Every one that has a default of the machine's or of chance is named. The number of workers is
    left to the machine: it has no say as long as there is one, which 0 would not be.
    """
    return [
        "--tar=f", "--quiet", "--sort=path",
        # Without the second word all files would get that time.
        f"-T{epoch}", "--mkfs-time",
        f"-U{NO_UUID}",
        f"-b{BLOCK_BYTES}", f"-zlz4hc,level={level}", f"-C{CLUSTER_BYTES}",
        os.fspath(out),
    ]  # fmt: skip


def pack_erofs(
    tools: Path,
    entries: Sequence[Entry],
    root: Path,
    out: Path,
    *,
    epoch: int,
    level: int = LEVEL,
) -> None:
    """Pack *entries*, the root first, into the file *out* with the tools tree *tools*.

    Contents are read from the tree *root*. The file system's own time is *epoch*.

    Raises:
        ToolError: mkfs.erofs failed.
        VnfsbuildError: a file of *root* is not as its entry says.
    """

    def write(stream: IO[bytes]) -> None:
        # This name for the root mkfs.erofs takes; other readers of streams make a directory of it.
        stream.write(render_entry(replace(entries[0], path="./")))
        write_stream(entries, root, stream)

    argv = tree_argv(tools, "mkfs.erofs", erofs_argv(out, epoch=epoch, level=level))
    # All contents, not yet compressed, lie in a file there meanwhile: /tmp may be memory.
    feed(argv, write, env={"TMPDIR": os.fspath(out.absolute().parent)})
