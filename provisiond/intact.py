"""Files that firmware is given: are they still what was signed? Firmware itself cannot tell.

Reading them all for each machine would be slow, so each is read once, and again when it is
another file than before, or was touched.
"""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path
from typing import BinaryIO

from vnfsbuild.digest import digest_of_stream
from vnfsbuild.manifest import Descriptor

_Identity = tuple[int, ...]


class IntactFiles:
    """What was found of files when they were read last. Any thread may ask."""

    def __init__(self) -> None:
        self._found: dict[Path, tuple[Descriptor, _Identity, str]] = {}
        self._reading = threading.Lock()

    def find_damage(self, path: Path, blob: Descriptor) -> str:
        """Return in what *path* differs from *blob*; empty when it is that.

        May read the whole file. Of many who ask at once, one does.
        """
        with self._reading:
            try:
                # Not blocking: it could be a pipe that nobody writes to.
                with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
                    status = os.fstat(file.fileno())
                    known = self._found.get(path)
                    if known and known[:2] == (blob, _identify(status)):
                        return known[2]
                    damage = _compare(file, status, blob)
            except OSError as error:
                return f"{error.strerror}"
            self._found[path] = (blob, _identify(status), damage)
            return damage

    def last_damage(self, path: Path, blob: Descriptor) -> str:
        """Return what :meth:`find_damage` found last; the disk is left alone."""
        known = self._found.get(path)
        return known[2] if known and known[0] == blob else ""


def _identify(status: os.stat_result) -> _Identity:
    # The time of the last change of any kind is the one that nobody can set.
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _compare(file: BinaryIO, status: os.stat_result, blob: Descriptor) -> str:
    if not stat.S_ISREG(status.st_mode):
        return "not a file"
    if status.st_size != blob.size_bytes:
        return f"found {status.st_size} bytes, expected {blob.size_bytes}"
    digest, _ = digest_of_stream(file)
    return "" if digest == blob.digest else f"found digest {digest}, expected {blob.digest}"
