"""From a URL into the store: only what is not here is fetched, and only of what may run.

Any web server will do. Of one that answers range requests the head of the capsule is read first,
then the verdict falls, then everything between the payloads is compared, and then the payloads
come, by chunks where that pays. Of any other the file is read as it comes, in the same order.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import math
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from vnfsbuild import ustar
from vnfsbuild.capsule import Head, blob_name, payloads_after, read_capsule, read_head
from vnfsbuild.digest import Digest
from vnfsbuild.errors import VerificationError
from vnfsbuild.listing import render_size
from vnfsbuild.manifest import Descriptor
from vnfsbuild.store.blobs import Incoming
from vnfsbuild.store.index import StoredCapsule
from vnfsbuild.store.store import Store
from vnfsbuild.transfer.chunkindex import find_local_chunks
from vnfsbuild.transfer.chunks import ChunkIndex, most_index_bytes, parse_chunk_index
from vnfsbuild.transfer.parallel import run_parallel
from vnfsbuild.transfer.partials import Partials, open_partials
from vnfsbuild.transfer.ranges import Forward, RangeReader, RemoteFile, ServerError, get_bytes
from vnfsbuild.trust import Trust

logger = logging.getLogger(__name__)

PAYLOADS_AT_ONCE = 2

MOST_HEAD_BYTES = 64 * 1024 * 1024
"""Before the verdict no more is read than this; most capsules need less than a thousandth."""

INDEX_PAYS_BYTES = 1024 * 1024
"""When less than this is missing, an index would not make it less."""

Bar = Callable[[int], contextlib.AbstractContextManager[Callable[[int], None]]]
"""Shows how much of so many bytes is done; see :func:`vnfsbuild.progress.bar`."""

LoadIndex = Callable[[int], "bytes | None"]
"""Fetches the text of the chunk index, of at most so many bytes; None where there is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """What it took to bring the payloads of a capsule."""

    payload_bytes: int
    fetched_bytes: int
    """of them, from the server"""
    index_bytes: int
    requests: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Imported:
    """A capsule that came from a URL."""

    capsule: StoredCapsule
    fetched: Fetched


def chunks_url(url: str) -> str:
    """Return where the chunk index of the capsule at *url* lies: beside it."""
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit(parts._replace(path=f"{parts.path}.chunks"))


def import_url(
    url: str,
    store: Store,
    *,
    trust: Trust,
    now: int,
    cache: Path,
    current: bool = True,
    bar: Bar | None = None,
) -> Imported:
    """Add the capsule in the ``.vnfs`` file at *url* to *store*, when *trust* says that it may run.

    The store is as it was until all of it has been verified. What was fetched before a break, or
    before this program was killed, lies in *cache* for the next time. *now* is in seconds since
    1970.

    Raises:
        InputError: *url* is none.
        VerificationError: the file is damaged, or not signed as it must be.
        VnfsbuildError: the server does not answer, or the disk is full.
    """
    show = bar or _no_bar
    remote = RemoteFile(url)
    fetched: list[Fetched] = []
    with contextlib.ExitStack() as stack:
        stack.callback(remote.close)

        def bring(incoming: Incoming, admit: Callable[[Head], None]) -> Head:
            with remote.open() as stream:
                if not remote.size_bytes:
                    return _read_stream(stream, remote.shown, incoming, admit, show, fetched)
                head, places = _read_skeleton(stream, remote, admit)
            payloads = payloads_after(head)
            total_bytes = sum(payload.size_bytes for payload in payloads)
            partials = stack.enter_context(open_partials(cache / "incoming", payloads))
            with show(total_bytes) as advance:
                found = bring_payloads(
                    head,
                    incoming,
                    partials,
                    store=store,
                    readers={digest: _Part(remote, place) for digest, place in places.items()},
                    load_index=lambda limit_bytes: _get_index(url, limit_bytes),
                    advance=advance,
                )
            fetched.append(found)
            return head

        capsule = store.import_from(bring, trust=trust, now=now, current=current)
    return Imported(capsule=capsule, fetched=fetched[0])


def bring_payloads(
    head: Head,
    incoming: Incoming,
    partials: Partials,
    *,
    store: Store,
    readers: Mapping[Digest, RangeReader],
    load_index: LoadIndex,
    advance: Callable[[int], None],
) -> Fetched:
    """Give all payloads of *head*, which was admitted, to *incoming*.

    Those that the store has are taken from there; of the others the chunks that no capsule in it
    has are fetched by *readers*, or all of a payload where that is no dearer.

    Raises:
        VerificationError: a payload is not what was signed.
        VnfsbuildError: it cannot be fetched or written.
    """
    step = _one_at_a_time(advance)
    payloads = payloads_after(head)
    missing = [payload for payload in payloads if not incoming.keep(payload)]
    missing_bytes = sum(payload.size_bytes for payload in missing)
    total_bytes = sum(payload.size_bytes for payload in payloads)
    step(total_bytes - missing_bytes)
    index, index_bytes = _choose_index(head, missing_bytes, store, load_index)
    wanted = {blob.digest: index[blob.digest] for blob in missing if blob.digest in index}
    local = find_local_chunks(store, wanted, name=head.name) if wanted else {}

    paths: dict[Descriptor, Path] = {}

    def bring(blob: Descriptor) -> None:
        paths[blob] = partials.bring(
            blob,
            readers[blob.digest],
            chunks=wanted.get(blob.digest, ()),
            local=local,
            on_bytes=step,
        )

    jobs = [functools.partial(bring, blob) for blob in missing]
    run_parallel(jobs, workers=PAYLOADS_AT_ONCE, stop=partials.stop)
    # Not before all are here: what is in the cache stays there after a kill, this does not.
    for blob in missing:
        incoming.adopt(blob, paths[blob])
    partials.forget(missing)
    logger.info(
        "fetched %s of %s; the rest was here",
        render_size(partials.fetched_bytes + index_bytes),
        render_size(total_bytes),
    )
    return Fetched(
        payload_bytes=total_bytes,
        fetched_bytes=partials.fetched_bytes,
        index_bytes=index_bytes,
        requests=partials.requests,
    )


def _choose_index(
    head: Head, missing_bytes: int, store: Store, load_index: LoadIndex
) -> tuple[ChunkIndex, int]:
    """Return the chunk index and its size; an empty one where it is of no use, or not good."""
    if missing_bytes < INDEX_PAYS_BYTES or not store.list_capsules():
        return {}, 0
    data = load_index(most_index_bytes(head.capsule.manifest))
    if data is None:
        return {}, 0
    try:
        where = f"{head.name}: chunk index"
        return parse_chunk_index(data, head.capsule.manifest, where=where), len(data)
    except VerificationError as error:
        logger.info("%s; done without", error)
        return {}, len(data)


def _get_index(url: str, limit_bytes: int) -> bytes | None:
    try:
        return get_bytes(chunks_url(url), limit_bytes=limit_bytes)
    except ServerError as error:
        if not error.missing:
            logger.info("%s; done without the chunk index", error)
        return None


def _read_stream(
    stream: Forward,
    where: str,
    incoming: Incoming,
    admit: Callable[[Head], None],
    show: Bar,
    fetched: list[Fetched],
) -> Head:
    """Read the file as it comes: the server does not answer range requests."""
    logger.info("%s: this server answers no range requests: all of it is fetched", where)
    bounded = _Bounded(stream, where)
    with contextlib.ExitStack() as stack:
        advance: list[Callable[[int], None]] = []

        def admit_and_show(head: Head) -> None:
            bounded.lift()
            admit(head)
            total_bytes = sum(payload.size_bytes for payload in payloads_after(head))
            advance.append(stack.enter_context(show(total_bytes)))
            fetched.append(
                Fetched(
                    payload_bytes=total_bytes, fetched_bytes=total_bytes, index_bytes=0, requests=1
                )
            )

        def take(blob: Descriptor, pieces: Iterator[bytes]) -> None:
            incoming.take(blob, pieces, advance[0])

        return read_capsule(cast(BinaryIO, bounded), where=where, admit=admit_and_show, take=take)


def _read_skeleton(
    stream: Forward, remote: RemoteFile, admit: Callable[[Head], None]
) -> tuple[Head, dict[Digest, int]]:
    """Read all but the payloads; return the head, and at which byte each payload begins.

    So a file of another shape than the one that is valid is refused before a payload is fetched.
    """
    bounded = _Bounded(stream, remote.shown)
    source = ustar.Reader(cast(BinaryIO, bounded), remote.shown)
    head = read_head(source)
    bounded.lift()
    admit(head)
    places: dict[Digest, int] = {}
    for payload in payloads_after(head):
        source.header(blob_name(payload.digest), size_bytes=payload.size_bytes)
        places[payload.digest] = source.skip(payload.size_bytes)
        source.padding(payload.size_bytes)
    source.end()
    return head, places


class _Bounded(io.RawIOBase):
    """A file of which only so much is read until :meth:`lift` is called."""

    def __init__(self, stream: Forward, where: str) -> None:
        self._stream = stream
        self._where = where
        self._left_bytes: float = MOST_HEAD_BYTES

    def lift(self) -> None:
        """Let all of it be read."""
        self._left_bytes = math.inf

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(size)
        self._left_bytes -= len(data)
        if self._left_bytes < 0:
            raise VerificationError(
                f"{self._where}: found more than {MOST_HEAD_BYTES} bytes before the payloads"
            )
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._stream.seek(offset, whence)


class _Part:
    """A payload, as a part of the file that it lies in."""

    def __init__(self, remote: RemoteFile, first_byte: int) -> None:
        self._remote = remote
        self._first_byte = first_byte

    def read(self, first_byte: int, size_bytes: int) -> Iterator[bytes]:
        return self._remote.read(self._first_byte + first_byte, size_bytes)


def _one_at_a_time(advance: Callable[[int], None]) -> Callable[[int], None]:
    lock = threading.Lock()

    def step(count: int) -> None:
        with lock:
            advance(count)

    return step


@contextlib.contextmanager
def _no_bar(_: int) -> Iterator[Callable[[int], None]]:
    yield lambda _: None
