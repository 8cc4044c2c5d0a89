"""Leases: blobs of a store that a writer relies on, though no capsule names them yet.

Whoever builds a capsule adds its blobs one after the other, and the capsule last. In between
nothing but the lease says that they are needed: a file below ``.leases``, which its writer holds
locked for as long as it lives. So the lease of a writer that was killed is void at once, without
any period of grace. A lease is written, and leases are read, by who holds the store's lock; it
needs not be durable, since its writer does not survive a crash either.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import threading
import weakref
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from vnfsbuild.digest import Digest
from vnfsbuild.files import list_directory

LEASES_NAME = ".leases"


class Lease:
    """What one writer relies on; void when this object, or its process, is no more.

    Threads may share it: what one of them dropped, another still has.
    """

    def __init__(self, store: Path) -> None:
        above = store / LEASES_NAME
        above.mkdir(exist_ok=True)
        self._descriptor, name = tempfile.mkstemp(dir=above)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        self._held: Counter[tuple[int, Digest]] = Counter()
        weakref.finalize(self, _end, self._descriptor, name, os.getpid())

    def add(self, digest: Digest) -> None:
        """Rely on a blob."""
        self._append(f"+{digest}\n")
        self._held[threading.get_ident(), digest] += 1

    def drop(self, digests: Iterable[Digest]) -> bool:
        """Rely on these no more, each as often as it stands there and this thread added it.

        Tell whether anything is left that it relies on.
        """
        counted = Counter((threading.get_ident(), digest) for digest in digests) & self._held
        self._held -= counted
        if self._held and counted:
            lines = (f"-{digest}\n" for _, digest in counted.elements())
            # Without them the blobs stay leased for a while longer: no reason to fail.
            with contextlib.suppress(OSError):
                self._append("".join(lines))
        return bool(self._held)

    def _append(self, text: str) -> None:
        """Write all of *text* or none: a full disk must not void what was written before."""
        size = os.lseek(self._descriptor, 0, os.SEEK_END)
        data = text.encode("ascii")
        try:
            if os.write(self._descriptor, data) != len(data):
                raise OSError(28, os.strerror(28))
        except OSError:
            os.ftruncate(self._descriptor, size)
            raise


def read_leases(store: Path) -> set[Digest]:
    """Return the blobs that living writers rely on. The caller holds the lock of the store."""
    leased: set[Digest] = set()
    for path, living in _list_leases(store):
        if living:
            with contextlib.suppress(FileNotFoundError):  # its writer ended just now
                leased |= _parse(path.read_text(encoding="ascii"))
    return leased


def find_void_leases(store: Path) -> list[Path]:
    """Return the leases of writers that live no more. The caller holds the lock of the store."""
    return [path for path, living in _list_leases(store) if not living]


def _list_leases(store: Path) -> list[tuple[Path, bool]]:
    found = []
    for path in list_directory(store / LEASES_NAME):
        if path.is_symlink() or (path.exists() and not path.is_file()):
            found.append((path, False))  # nobody's lease; and a pipe would be waited for
            continue
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                found.append((path, False))
            except BlockingIOError:
                found.append((path, True))
    return found


def _parse(text: str) -> set[Digest]:
    counted: Counter[Digest] = Counter()
    for line in text.splitlines():
        counted[Digest(line[1:])] += 1 if line.startswith("+") else -1
    return {digest for digest, count in counted.items() if count > 0}


def _end(descriptor: int, name: str, pid: int) -> None:
    """End the lease; in a child that has a copy of it, only the copy."""
    if os.getpid() == pid:
        with contextlib.suppress(OSError):
            os.unlink(name)  # noqa: PTH108 - no Path is made while the interpreter ends
    os.close(descriptor)
