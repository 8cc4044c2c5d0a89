"""Payloads on their way here, in ``CACHE/incoming``: by chunks or whole, to be gone on with.

Nothing here is trusted. What lies in a partial file from an earlier attempt, what an index says and
what chunks of other capsules hold is compared before it is used, and :meth:`Partials.bring`
returns only a file whose digest is the one that was asked for.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import logging
import os
import stat
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vnfsbuild.digest import digest_of_stream
from vnfsbuild.errors import VerificationError, VnfsbuildError
from vnfsbuild.manifest import Descriptor
from vnfsbuild.transfer.chunks import Chunk, Fetch, Piece, choose_fetch, name_chunk
from vnfsbuild.transfer.parallel import Interrupted, run_parallel
from vnfsbuild.transfer.ranges import RangeReader

logger = logging.getLogger(__name__)

CONNECTIONS = 4
"""Ranges of one payload that are fetched at the same time."""

KEPT_SECONDS = 14 * 24 * 3600
"""What nobody went on with for so long is removed."""

WHOLE, CHUNKED, LOCK = ".whole", ".chunked", ".lock"

Advance = Callable[[int], object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a chunk is said to be."""

    path: Path
    first_byte: int


LocalChunks = Mapping[bytes, Place]
"""Name of a chunk → where on this machine it is said to be. Compared when it is used."""


class Partials:
    """What is fetched into *directory*; made by :func:`open_partials`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._counted = threading.Lock()
        self.stop = threading.Event()
        """Set it, and all fetching ends."""
        self.fetched_bytes = 0
        """How much came from the server."""
        self.requests = 0

    def bring(
        self,
        blob: Descriptor,
        reader: RangeReader,
        *,
        chunks: Sequence[Chunk] = (),
        local: LocalChunks | None = None,
        on_bytes: Advance = lambda _: None,
    ) -> Path:
        """Return a file that is *blob*; what it consists of is fetched where it is not here.

        *chunks* are what an index says that it consists of, *local* is where chunks may be.
        *on_bytes* hears of each piece that is in its place; less than nothing where it was wrong.
        Threads may bring different blobs at the same time.

        Raises:
            VerificationError: what the server has is not *blob*.
            VnfsbuildError: it cannot be fetched, or written; what came is kept for next time.
        """
        with _written(self._directory):
            path = self._bring_chunks(blob, reader, chunks, local or {}, on_bytes)
            return path or self._bring_whole(blob, reader, on_bytes)

    def forget(self, blobs: Iterable[Descriptor]) -> None:
        """Remove what is left of *blobs*, which are not needed here any more."""
        for blob in blobs:
            for kind in (WHOLE, CHUNKED):
                self._path(blob, kind).unlink(missing_ok=True)

    def _bring_whole(self, blob: Descriptor, reader: RangeReader, on_bytes: Advance) -> Path:
        path = self._path(blob, WHOLE)
        if _size_of(path) > blob.size_bytes:
            path.unlink()
        # What is here from before may be to blame: then it is fetched once more, from the start.
        for _ in range(2 if _size_of(path) else 1):
            self._append(path, blob, reader, on_bytes)
            if _is(path, blob):
                return path
            on_bytes(-blob.size_bytes)
            path.unlink()
        raise VerificationError(
            f"{blob.media_type}: what was fetched is not {blob.digest}, which was signed"
        )

    def _append(self, path: Path, blob: Descriptor, reader: RangeReader, on_bytes: Advance) -> None:
        with os.fdopen(_open_own(path), "r+b") as file:
            here_bytes = file.seek(0, os.SEEK_END)
            on_bytes(here_bytes)
            if here_bytes < blob.size_bytes:
                for piece in self._read(reader, here_bytes, blob.size_bytes - here_bytes):
                    file.write(piece)
                    on_bytes(len(piece))

    def _bring_chunks(
        self,
        blob: Descriptor,
        reader: RangeReader,
        chunks: Sequence[Chunk],
        local: LocalChunks,
        on_bytes: Advance,
    ) -> Path | None:
        """Return the file, or None where all of it is to be fetched at once."""
        if not chunks:
            return None
        path = self._path(blob, CHUNKED)
        with _open_partial(path) as file:
            assembly = _Assembly(file, chunks, on_bytes)
            plan = choose_fetch(chunks, assembly.here | local.keys())
            left_bytes = blob.size_bytes - _size_of(self._path(blob, WHOLE))
            if plan.whole or (plan.ranges and left_bytes <= plan.size_bytes):
                on_bytes(-assembly.done_bytes)
                return None
            assembly.copy(local)
            self._fetch(choose_fetch(chunks, assembly.here), reader, assembly)
        if _is(path, blob):
            return path
        logger.info("%s: the chunk index is wrong: all of it is fetched", blob.digest[:19])
        path.unlink()
        on_bytes(-assembly.done_bytes)
        return None

    def _fetch(self, plan: Fetch, reader: RangeReader, assembly: _Assembly) -> None:
        def fetch(pieces: Sequence[Piece]) -> None:
            size_bytes = sum(piece.chunk.size_bytes for piece in pieces)
            if not assembly.is_wrong:
                assembly.take(pieces, self._read(reader, pieces[0].first_byte, size_bytes))

        jobs = [functools.partial(fetch, pieces) for pieces in plan.ranges]
        run_parallel(jobs, workers=CONNECTIONS, stop=self.stop)
        if self.stop.is_set():
            raise Interrupted

    def _read(self, reader: RangeReader, first_byte: int, size_bytes: int) -> Iterator[bytes]:
        with self._counted:
            self.requests += 1
        for piece in reader.read(first_byte, size_bytes):
            if self.stop.is_set():
                raise Interrupted
            with self._counted:
                self.fetched_bytes += len(piece)
            yield piece

    def _path(self, blob: Descriptor, kind: str) -> Path:
        return self._directory / f"{blob.digest.removeprefix('sha256:')}{kind}"


class _Assembly:
    """A file that is put together of chunks; what is in its place has been compared."""

    def __init__(self, descriptor: int, chunks: Sequence[Chunk], on_bytes: Advance) -> None:
        self._file = descriptor
        self._on_bytes = on_bytes
        self._sizes = {chunk.name: chunk.size_bytes for chunk in chunks}
        self._missing: dict[bytes, list[int]] = defaultdict(list)
        """Name of a chunk → where it belongs, and is not."""
        self._found: dict[bytes, int] = {}
        """Name of a chunk → where in this file it is."""
        self._lock = threading.Lock()
        self.done_bytes = 0
        self.is_wrong = False
        """What was fetched is not what the index names."""
        is_new = os.fstat(descriptor).st_size == 0
        position = 0
        for chunk in chunks:
            if is_new or name_chunk(os.pread(descriptor, chunk.size_bytes, position)) != chunk.name:
                self._missing[chunk.name].append(position)
            else:
                self._done(chunk.name, position)
            position += chunk.size_bytes
        os.truncate(descriptor, position)

    @property
    def here(self) -> set[bytes]:
        """Return the names of the chunks that are wherever they belong."""
        return self._found.keys() - self._missing.keys()

    def copy(self, local: LocalChunks) -> None:
        """Bring what is on this machine to its places."""
        with contextlib.ExitStack() as stack:
            files: dict[Path, int | None] = {}
            for name in list(self._missing):
                data = b""
                if name in self._found:
                    data = os.pread(self._file, self._sizes[name], self._found[name])
                elif name in local:
                    place = local[name]
                    if place.path not in files:
                        files[place.path] = _open_local(place.path, stack)
                    file = files[place.path]
                    if file is not None:
                        data = os.pread(file, self._sizes[name], place.first_byte)
                if data and name_chunk(data) == name:
                    self._put(name, data)

    def take(self, pieces: Sequence[Piece], stream: Iterator[bytes]) -> None:
        """Take what was fetched: *pieces* that follow each other, up to the first wrong one."""
        held = bytearray()
        for piece in pieces:
            while len(held) < piece.chunk.size_bytes and (more := next(stream, b"")):
                held += more
            data = bytes(held[: piece.chunk.size_bytes])
            del held[: piece.chunk.size_bytes]
            if name_chunk(data) != piece.chunk.name:
                self.is_wrong = True
                return
            self._put(piece.chunk.name, data)

    def _put(self, name: bytes, data: bytes) -> None:
        with self._lock:
            places = self._missing.pop(name, [])
        for place in places:
            _write(self._file, data, place)
            self._done(name, place)

    def _done(self, name: bytes, place: int) -> None:
        with self._lock:
            self._found[name] = place
            self.done_bytes += self._sizes[name]
        self._on_bytes(self._sizes[name])


@contextlib.contextmanager
def open_partials(directory: Path, blobs: Iterable[Descriptor]) -> Iterator[Partials]:
    """Make *directory* the place where *blobs* are fetched to, ours alone while the block runs.

    Who wants to fetch the same waits, and then finds it in the store.

    Raises:
        VnfsbuildError: it cannot be made.
    """
    with contextlib.ExitStack() as stack:
        with _written(directory):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _remove_old(directory, now=time.time())
        # In one order for all, so that no two wait for each other.
        for digest in sorted({blob.digest for blob in blobs}):
            lock = directory / f"{digest.removeprefix('sha256:')}{LOCK}"
            with _written(directory):
                stack.enter_context(_held(lock))
        yield Partials(directory)


@contextlib.contextmanager
def _held(lock: Path) -> Iterator[None]:
    """Hold the file *lock*, which is there only as long as somebody does."""
    while True:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(lock, flags, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.info("waiting for another command that fetches the same")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if not _is_still(descriptor, lock):
                continue  # its last holder removed it
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
            return
        finally:
            os.close(descriptor)


def _is_still(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _open_partial(path: Path) -> Iterator[int]:
    descriptor = _open_own(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _open_own(path: Path) -> int:
    """Open the file *path*; one that others could write to as well is removed first."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    for _ in range(2):
        try:
            descriptor = os.open(path, flags, 0o600)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENXIO):
                raise
        else:
            found = os.fstat(descriptor)
            if stat.S_ISREG(found.st_mode) and (found.st_uid, found.st_nlink) == (os.geteuid(), 1):
                return descriptor
            os.close(descriptor)
        path.unlink()
    raise VnfsbuildError(f"{path}: somebody else writes here", hint="VNFS_CACHE=/path vnfsbuild …")


def _open_local(path: Path, stack: contextlib.ExitStack) -> int | None:
    try:
        return stack.enter_context(path.open("rb")).fileno()
    except OSError:  # deleted meanwhile
        return None


def _write(descriptor: int, data: bytes, place: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, place)
        view, place = view[written:], place + written


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _is(path: Path, blob: Descriptor) -> bool:
    with path.open("rb") as file:
        return digest_of_stream(file) == (blob.digest, blob.size_bytes)


def _remove_old(directory: Path, *, now: float) -> None:
    for path in directory.iterdir():
        with contextlib.suppress(OSError):
            ours = path.suffix in (WHOLE, CHUNKED)
            if ours and now - path.stat().st_mtime > KEPT_SECONDS:
                path.unlink()


@contextlib.contextmanager
def _written(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise VnfsbuildError(
            f"{directory}: {error.strerror or error}",
            hint="make space, or keep the cache elsewhere: VNFS_CACHE=/path vnfsbuild …"
            if full
            else None,
        ) from error
