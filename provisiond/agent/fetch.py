"""Blobs, from whichever server has them: what they must be is known before the first byte.

Plain HTTP on purpose. A blob may come from a mirror, a proxy, a cache that nobody trusts: the
digest decides. A broken or stalled connection is resumed where it broke; other bytes are thrown
away and fetched again from the next server.
"""

from __future__ import annotations

import http.client
import random
import ssl
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, Callable, Iterator, Optional, Sequence
from urllib.parse import urlsplit

from provisiond.agent.backoff import delays
from provisiond.agent.client import NetworkError, split_server, told
from provisiond.agent.console import Tell
from vnfsbuild.digest import Digest, digest_of, verify_stream
from vnfsbuild.errors import InputError, VerificationError, VnfsbuildError
from vnfsbuild.manifest import Descriptor

CHUNK_BYTES = 256 * 1024
MOVED_BYTES = 64 * 1024
"""A connection that brought so much was worth it: the count of tries starts anew."""


class AbsentError(Exception):
    """A server that does not have a blob: the next one is asked at once."""


@dataclass(frozen=True)
class Patience:
    """How long to hold on to what does not answer."""

    stall_seconds: float = 20.0
    """A connection that brings nothing for so long is given up."""
    tries: int = 6
    """Connections in a row, per server, that bring nothing new."""
    least_delay_seconds: float = 0.5
    most_delay_seconds: float = 15.0


class Fetcher:
    """Fetches blobs from *bases*, in that order; ``BASE/sha256/HEX`` is where a blob is."""

    def __init__(
        self,
        bases: Sequence[str],
        *,
        tell: Tell,
        patience: Optional[Patience] = None,
        advance: Callable[[int], None] = lambda count: None,
        random_source: Optional[random.Random] = None,
    ) -> None:
        self._bases = tuple(base.rstrip("/") for base in bases)
        self._tell = tell
        self._patience = patience or Patience()
        self._advance = advance
        self._random = random_source or random.SystemRandom()

    def fetch_small(self, digest: Digest, *, limit_bytes: int, where: str) -> bytes:
        """Return the blob *digest*, whose size is not known, from the first server that has it.

        Raises:
            NetworkError: no server has it.
            VerificationError: all have other bytes, or more than *limit_bytes*.
        """
        wrong = None
        for base in self._bases:
            try:
                data = self._read_small(base, digest, limit_bytes)
            except NetworkError as error:
                self._tell(f"{where}: {error}")
                continue
            found = digest_of(data)
            if found == digest:
                return data
            what = (
                f"more than {limit_bytes} bytes" if len(data) > limit_bytes else f"digest {found}"
            )
            wrong = VerificationError(f"{where}: found {what}, expected {digest}")
            self._tell(f"{wrong} (from {base})")
        raise wrong or NetworkError(
            f"{where}: cannot be had from {', '.join(self._bases) or 'nowhere'}"
        )

    def fetch_into(self, file: BinaryIO, blob: Descriptor, *, where: str) -> None:
        """Append *blob* to the unbuffered *file*; when this raises, that ends where it did before.

        Each server is the first to be asked once, so that one with wrong bytes spoils nothing.

        Raises:
            NetworkError: no server brings it to its end.
            VerificationError: each has other bytes.
        """
        start = file.tell()
        fault: VnfsbuildError = NetworkError(f"{where}: the plan names no server that has blobs")
        for first in range(len(self._bases)):
            order = self._bases[first:] + self._bases[:first]
            try:
                self._copy(self._resume(order, blob, where), file, blob, where)
                return
            except VerificationError as error:
                fault = error
                self._rewind(file, start)
                self._tell(f"{error} (from {order[0]})")
            except BaseException:
                self._rewind(file, start)
                raise
        raise fault

    def _copy(self, chunks: Iterator[bytes], file: BinaryIO, blob: Descriptor, where: str) -> None:
        for chunk in verify_stream(
            chunks, digest=blob.digest, size_bytes=blob.size_bytes, where=where
        ):
            write_all(file, chunk, where=where)
            self._advance(len(chunk))

    def _rewind(self, file: BinaryIO, start: int) -> None:
        self._advance(start - file.tell())
        file.seek(start)
        file.truncate()

    def _resume(self, order: Sequence[str], blob: Descriptor, where: str) -> Iterator[bytes]:
        """Yield the blob's bytes, going on where a connection broke, until no server is left."""
        got_bytes = 0
        faults = []
        for base in order:
            fault, fruitless, waits = "", 0, self._waits()
            while fruitless < self._patience.tries:
                before = got_bytes
                try:
                    for chunk in self._read(base, blob.digest, got_bytes):
                        yield chunk
                        got_bytes += len(chunk)
                    if got_bytes >= blob.size_bytes:
                        return
                    fault = f"ended after {got_bytes} of {blob.size_bytes} bytes"
                except AbsentError as error:
                    fault = str(error)
                    break
                except (OSError, http.client.HTTPException) as error:
                    fault = told(error)
                if got_bytes - before >= MOVED_BYTES:
                    fruitless, waits = 0, self._waits()
                fruitless += 1
                self._pause(next(waits), f"{where}: {base}: {fault}")
            faults.append(f"{base}: {fault}")
        raise NetworkError(f"{where}: cannot be had: {'; '.join(faults)}")

    def _waits(self) -> Iterator[float]:
        return delays(
            least_seconds=self._patience.least_delay_seconds,
            most_seconds=self._patience.most_delay_seconds,
            random_source=self._random,
        )

    def _pause(self, seconds: float, why: str) -> None:
        self._tell(f"{why}; going on in {seconds:.0f} s")
        time.sleep(seconds)

    def _read_small(self, base: str, digest: Digest, limit_bytes: int) -> bytes:
        data = bytearray()
        try:
            for chunk in self._read(base, digest, 0):
                data += chunk
                if len(data) > limit_bytes:
                    break
        except (OSError, http.client.HTTPException) as error:
            raise NetworkError(f"{base}: {told(error)}") from error
        except AbsentError as error:
            raise NetworkError(f"{base}: {error}") from error
        return bytes(data)

    def _read(self, base: str, digest: Digest, offset: int) -> Iterator[bytes]:
        """Yield what *base* has of the blob from *offset* on, as it arrives."""
        with self._get(base, digest, offset) as response:
            skip = offset if response.status == http.HTTPStatus.OK else 0
            for chunk in iter(lambda: response.read1(CHUNK_BYTES), b""):
                if len(chunk) > skip:
                    yield chunk[skip:]
                skip = max(skip - len(chunk), 0)

    @contextmanager
    def _get(self, base: str, digest: Digest, offset: int) -> Iterator[http.client.HTTPResponse]:
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        connection = connect(base, self._patience.stall_seconds)
        try:
            path = urlsplit(base).path + "/" + digest.replace(":", "/")
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            refuse_other_answers(response, offset)
            yield response
        finally:
            connection.close()


def write_all(file: BinaryIO, data: bytes, *, where: str) -> None:
    """Write all of *data* to the unbuffered *file*.

    Raises:
        VnfsbuildError: there is no room; on a node that means no memory.
    """
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise VnfsbuildError(f"{where}: cannot be kept: {error.strerror}") from error


def connect(base: str, stall_seconds: float) -> http.client.HTTPConnection:
    """Return a connection to the server of blobs *base*; nothing is sent yet.

    Raises:
        AbsentError: *base* is no address of a web server.
    """
    try:
        host, port = split_server(base)
    except InputError as error:
        raise AbsentError(str(error)) from error
    scheme = urlsplit(base).scheme
    if scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=stall_seconds)
    if scheme == "https":
        # The digest decides, not the mirror's certificate, for which a node has no authorities.
        context = ssl._create_unverified_context()
        return http.client.HTTPSConnection(host, port, timeout=stall_seconds, context=context)
    raise AbsentError(f"found {base!r:.80}, expected an http:// address")


def refuse_other_answers(response: http.client.HTTPResponse, offset: int) -> None:
    """Return when *response* brings the blob from *offset* on, or all of it.

    Raises:
        AbsentError: this server does not have it.
        OSError: it does not give it now.
    """
    status = response.status
    if status == http.HTTPStatus.OK:
        return
    if status == http.HTTPStatus.PARTIAL_CONTENT:
        found = response.headers.get("Content-Range", "")
        if found.startswith(f"bytes {offset}-"):
            return
        raise AbsentError(f"gave the range {found!r:.80}, expected one from {offset}")
    if status in (408, 429) or status >= 500:
        raise OSError(f"answered {status} {response.reason}")
    raise AbsentError(f"answered {status} {response.reason}")
