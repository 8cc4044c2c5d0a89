"""What mksquashfs is told."""

import stat

from vnfsbuild.layer import Entry
from vnfsbuild.pack.squashfs import squashfs_argv

TOP = Entry(path=".", mode=stat.S_IFDIR | 0o750, uid=7, gid=70_000, mtime=1700, size_bytes=0)


def test_the_stream_has_no_root_so_the_arguments_do():
    assert squashfs_argv(TOP, "out", level=9) == [
        "-", "out", "-tar",
        "-noappend", "-no-progress", "-quiet", "-no-recovery", "-exit-on-error",
        "-comp", "zstd", "-Xcompression-level", "9", "-b", "131072",
        "-exports",
        "-root-mode", "750", "-root-uid", "7", "-root-gid", "70000", "-root-time", "1700",
    ]  # fmt: skip
