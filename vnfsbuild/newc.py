"""Cpio archives in the *newc* format, as the Linux kernel unpacks an initramfs.

Format: ``Documentation/driver-api/early-userspace/buffer-format.rst`` of the kernel. Times and
inode numbers are written as zero, owners as root: what goes into an initramfs has no use for them,
and so the bytes follow from names, modes and contents alone.
"""

from __future__ import annotations

import stat
from typing import List

from vnfsbuild.errors import InputError

MAX_FILE_BYTES = 0xFFFFFFFF
TRAILER = "TRAILER!!!"


def entry_header(name: str, mode: int, size_bytes: int) -> bytes:
    """Return header, name and padding of an entry; *size_bytes* bytes and :func:`padding` follow.

    *mode* carries the type bits of :mod:`stat`. *name* has no leading slash.

    Raises:
        InputError: the content is too large for the format.
    """
    if size_bytes > MAX_FILE_BYTES:
        raise InputError(f"{name}: {size_bytes} bytes, expected less than 4 GiB in an initramfs")
    encoded = name.encode("utf-8", "surrogateescape") + b"\0"
    # One link, for directories too: with two, and no inode numbers, some readers (libarchive) take
    # all directories for hard links to the first.
    fields = [0, mode, 0, 0, 1, 0, size_bytes, 0, 0, 0, 0, len(encoded), 0]
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
    return header + padding(len(header))


def padding(length: int) -> bytes:
    """Return the zero bytes that bring *length* to a multiple of four."""
    return b"\0" * (-length % 4)


def render_entry(name: str, mode: int, data: bytes = b"") -> bytes:
    """Return a whole entry. A symbolic link's *data* is where it points."""
    return entry_header(name, mode, len(data)) + data + padding(len(data))


def render_directories(path: str) -> bytes:
    """Return an entry for each directory above *path*, the outermost first."""
    parts = path.split("/")[:-1]
    names = ["/".join(parts[: n + 1]) for n in range(len(parts))]
    return b"".join(render_entry(name, stat.S_IFDIR | 0o755) for name in names)


def render_trailer() -> bytes:
    """Return the entry that ends an archive."""
    return render_entry(TRAILER, 0)


def render_archive(files: "List[tuple[str, int, bytes]]") -> bytes:
    """Return an archive of *files*, (name, mode, data), in the order given."""
    return b"".join(render_entry(*entry) for entry in files) + render_trailer()
