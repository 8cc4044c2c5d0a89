"""Rootfs layers as squashfs, by the mksquashfs of the tools tree.

zstd level 6 and 128 KiB blocks are where size and time meet, and where an update sends least
(docs/adr). Bytes follow from the tree alone: neither the number of processors nor the day matters.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from vnfsbuild.errors import InputError
from vnfsbuild.sandbox import tree_argv
from vnfsbuild.tools import run

LEVEL = 6
BLOCK_BYTES = 128 * 1024

MODULES = "usr/lib/modules"
ROOTFS_EXCLUDES = (f"{MODULES}/*", "boot/*")
"""What the first layer leaves out: modules are a layer of their own, the kernel a payload."""

# Everything else is chance: SELinux labels of the build host, ACLs that squashfs cannot hold, and
# marks of overlayfs, which would bring deleted files back.
XATTRS = r"^security\.capability$"


def squashfs_argv(
    root: Path | str,
    out: Path | str,
    *,
    level: int = LEVEL,
    block_bytes: int = BLOCK_BYTES,
    excludes: Sequence[str] = (),
) -> list[str]:
    """Return the arguments that make mksquashfs pack *root* into *out*, without *excludes*."""
    argv = [
        os.fspath(root), os.fspath(out),
        "-noappend", "-no-progress", "-quiet", "-no-recovery", "-exit-on-error",
        "-comp", "zstd", "-Xcompression-level", str(level), "-b", str(block_bytes),
        "-xattrs-include", XATTRS,
    ]  # fmt: skip
    # -e takes all that follows.
    return [*argv, "-wildcards", "-e", *excludes] if excludes else argv


def only_argv(path: str) -> list[str]:
    """Return excludes that leave just *path* and the directories above it."""
    parts = path.strip("/").split("/")
    return ["/".join([*parts[:depth], f"!({part})"]) for depth, part in enumerate(parts)]


def parse_exclude(pattern: str) -> str:
    """Return the glob *pattern* of a recipe as mksquashfs takes it.

    Raises:
        InputError: it names no path below the root, or uses what mksquashfs does not know.
    """
    parts = pattern.strip("/").split("/")
    if "**" in pattern or any(part in ("", ".", "..", "...") for part in parts):
        raise InputError(
            f"exclude.paths: found {pattern!r}, expected a path with *, ? or [] in its parts"
        )
    return "/".join(parts)


def pack_squashfs(
    tools: Path,
    root: Path,
    out: Path,
    *,
    epoch: int,
    level: int = LEVEL,
    excludes: Sequence[str] = (),
    only: str | None = None,
) -> None:
    """Pack *root* into the file *out* with the tools tree *tools*.

    Without what *excludes* matches; of the rest just *only* and the directories above it, when it
    is given. No time in it is later than *epoch*.

    Raises:
        ToolError: mksquashfs failed.
        InputError: a pattern is none.
    """
    patterns = [parse_exclude(pattern) for pattern in excludes]
    if only:
        patterns = [*only_argv(only), *patterns]
    argv = squashfs_argv(root, out, level=level, excludes=patterns)
    # mksquashfs takes its own time and the latest of files from here; -mkfs-time clamps nothing.
    run(tree_argv(tools, "mksquashfs", argv), env={"SOURCE_DATE_EPOCH": str(epoch)})
