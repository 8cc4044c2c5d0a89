"""Blobs in a directory that a server exports by NFS: the same digests as by HTTP, the same refusal.

The export is mounted for as long as something is fetched; what is read is copied, never run from.
Who waits for a server that fell silent may hang in the kernel: so another process reads, and it is
mounted *soft*, that such a process can be ended.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import signal
import socket
import struct
import subprocess
import time
from pathlib import Path
from typing import Callable, Generator, List, Optional, Tuple

from provisiond.agent.sources import CHUNK_BYTES, STALL_SECONDS, AbsentError, refuse_other_size
from vnfsbuild.digest import Digest

MODULE = "nfsv4"
MOUNT_SECONDS = 40.0
HEAD = struct.Struct("!iq")
"""What the reading process says first: what went wrong, if anything; the size of the file."""
ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM)
OPTIONS = ("vers=4.1", "proto=tcp", "sec=sys", "ro", "soft", "timeo=50", "retrans=2")
"""A request has 5 s, then 10 and 15 more; tenths of seconds."""

_EXPORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9][A-Za-z0-9.-]*):(/[!-~]*)\Z")


def split_export(export: str) -> Tuple[str, str]:
    """Return server and path of ``SERVER:/PATH``.

    Raises:
        AbsentError: it is something else.
    """
    match = _EXPORT.match(export)
    if not match:
        raise AbsentError(f"found {export!r:.80}, expected SERVER:/PATH")
    return match.group(1).strip("[]"), match.group(2)


def mount_argv(export: str, directory: Path, address: str) -> List[str]:
    """Return the argv that mounts *export* of the server with this *address* at *directory*.

    Without mount.nfs the kernel wants to be told the address.
    """
    options = ",".join((*OPTIONS, f"addr={address}"))
    return ["mount", "-t", "nfs4", "-o", options, export, str(directory)]


def mount_export(export: str, directory: Path) -> None:
    """Mount *export* at *directory*, which is made.

    Raises:
        AbsentError: *export* is no address of an export, or this bootstrap has no driver for it.
        OSError: it cannot be mounted now.
    """
    server, _ = split_export(export)
    address = socket.getaddrinfo(server, 2049, proto=socket.IPPROTO_TCP)[0][4][0]
    if not _knows_nfs() and _run(["modprobe", MODULE])[0] != 0 and not _knows_nfs():
        raise AbsentError(
            f"no kernel module {MODULE} here: it is in drivers.cpio (provisionctl node set drivers)"
        )
    directory.mkdir(parents=True, exist_ok=True)
    status, said = _run(mount_argv(export, directory, str(address)))
    if status != 0:
        raise OSError(f"cannot be mounted: {said or f'mount ended with status {status}'}")


def unmount(directory: Path) -> None:
    """Unmount *directory*, at the latest when nobody uses it any more."""
    _run(["umount", "-f", "-l", str(directory)])


class NfsSource:
    """``PATH/sha256/HEX`` of an export is where a blob is. It is mounted when first asked."""

    def __init__(
        self,
        export: str,
        directory: Path,
        *,
        mount: Callable[[str, Path], None] = mount_export,
        unmount: Callable[[Path], None] = unmount,
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        self.base = export
        self._directory = directory
        self._mount = mount
        self._unmount = unmount
        self._stall_seconds = stall_seconds
        self._mounted = False

    def read(
        self,
        digest: Digest,
        first_byte: int,
        *,
        size_bytes: Optional[int] = None,
        end: Optional[int] = None,
    ) -> "Generator[bytes, None, None]":
        """Yield the blob's bytes from *first_byte* to before *end*, or to its own end.

        Raises:
            AbsentError: it is not here, or is of another size.
            OSError: it does not come now, or not to its end.
        """
        if not self._mounted:
            self._mount(self.base, self._directory)
            self._mounted = True
        with _Reader(self._directory / digest.replace(":", "/"), first_byte, end) as reader:
            try:
                found = reader.head(self._stall_seconds)
                refuse_other_size(found, size_bytes)
                left = (found if end is None else min(end, found)) - first_byte
                while left > 0:
                    chunk = reader.chunk(self._stall_seconds)
                    if not chunk:
                        raise OSError(f"broke off, {left} bytes before the end")
                    left -= len(chunk)
                    yield chunk
            except socket.timeout:
                # A new mount has a better chance than one that hangs.
                self.close()
                raise

    def close(self) -> None:
        """Unmount it."""
        if self._mounted:
            # One that cannot be unmounted now hides nothing that is needed.
            with contextlib.suppress(OSError):
                self._unmount(self._directory)
        self._mounted = False


class _Reader:
    """A process that reads a file, so that we can leave it when the file's server falls silent."""

    def __init__(self, path: Path, first_byte: int, end: Optional[int]) -> None:
        self._pipe, to_us = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            # Nothing of Python's may be waited for here: another thread may have held it.
            status = 1
            try:
                os.close(self._pipe)
                status = _copy_file(path, first_byte, end, to_us)
            finally:
                os._exit(status)
        os.close(to_us)

    def __enter__(self) -> "_Reader":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._pipe)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        for _try in range(20):
            if os.waitpid(self._pid, os.WNOHANG)[0]:
                return
            time.sleep(0.05)

    def head(self, stall_seconds: float) -> int:
        """Return how large the file is.

        Raises:
            AbsentError: it is not there, or not for us.
            OSError: it cannot be opened now.
        """
        head = b""
        while len(head) < HEAD.size:
            more = self._receive(HEAD.size - len(head), stall_seconds)
            if not more:
                raise OSError("broke off before the first byte")
            head += more
        fault, size_bytes = HEAD.unpack(head)
        if fault in ABSENT:
            raise AbsentError(os.strerror(fault))
        if fault:
            raise OSError(fault, os.strerror(fault))
        return int(size_bytes)

    def chunk(self, stall_seconds: float) -> bytes:
        """Return what comes next; nothing at the end, or where reading failed."""
        return self._receive(CHUNK_BYTES, stall_seconds)

    def _receive(self, size_bytes: int, stall_seconds: float) -> bytes:
        ready, _, _ = select.select([self._pipe], [], [], stall_seconds)
        if not ready:
            raise socket.timeout()
        return os.read(self._pipe, size_bytes)


def _copy_file(path: Path, position: int, end: Optional[int], pipe: int) -> int:
    """Write to *pipe* the size of the file, and its bytes from *position* on; return a status."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        size_bytes = os.fstat(descriptor).st_size
        os.write(pipe, HEAD.pack(0, size_bytes))
    except OSError as error:
        os.write(pipe, HEAD.pack(error.errno or errno.EIO, 0))
        return 1
    try:
        stop = size_bytes if end is None else min(end, size_bytes)
        while position < stop:
            chunk = os.pread(descriptor, min(CHUNK_BYTES, stop - position), position)
            if not chunk:
                return 1
            # What was read is not needed twice, and memory is short here.
            os.posix_fadvise(descriptor, position, len(chunk), os.POSIX_FADV_DONTNEED)
            position += len(chunk)
            while chunk:
                chunk = chunk[os.write(pipe, chunk) :]
    except OSError:
        return 1
    return 0


def _knows_nfs() -> bool:
    try:
        words = Path("/proc/filesystems").read_text(encoding="ascii").split()
    except OSError:
        return False
    return "nfs4" in words


def _run(argv: List[str]) -> Tuple[int, str]:
    """Return exit status and what was said, in a line.

    Raises:
        OSError: it cannot be run, or does not end.
    """
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=MOUNT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(f"{argv[0]}: no end after {MOUNT_SECONDS:.0f} s") from error
    return done.returncode, " ".join(done.stdout.decode("utf-8", "replace").split())
