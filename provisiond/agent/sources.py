"""A server of blobs by HTTP: what it has of a blob, from a byte on, as it arrives.

Plain HTTP on purpose: the digest decides. What a server answers is told in three ways: bytes,
:class:`AbsentError` (this server is not to be asked for this blob again), or an OSError (now it
cannot; :class:`BusyError` when it says until when).
"""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import re
import socket
import ssl
import threading
import time
from typing import Generator, Iterator, Mapping, Optional, Union
from urllib.parse import urlsplit

from provisiond.agent.client import split_server
from vnfsbuild.digest import Digest
from vnfsbuild.errors import InputError

CHUNK_BYTES = 256 * 1024
CONNECT_SECONDS = 10.0
STALL_SECONDS = 20.0
LEAST_BYTES = 16 * 1024
"""A connection that brings less in *stall_seconds* has stalled, though a few bytes drip."""
MOST_RETRY_SECONDS = 600
"""Nobody is believed who says to come again later than that."""

_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)\Z")


class AbsentError(Exception):
    """A server that does not have a blob, or has something else: the next one is asked at once."""


class BusyError(OSError):
    """A server that says when it wants to be asked again."""

    def __init__(self, message: str, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class HttpSource:
    """``BASE/sha256/HEX`` is where a blob is. A connection is kept for the next request."""

    def __init__(
        self, base: str, *, stall_seconds: float = STALL_SECONDS, least_bytes: int = LEAST_BYTES
    ) -> None:
        self.base = base.rstrip("/")
        self._stall_seconds = stall_seconds
        self._least_bytes = least_bytes
        self._kept: Optional[http.client.HTTPConnection] = None

    def read(
        self,
        digest: Digest,
        first_byte: int,
        *,
        size_bytes: Optional[int] = None,
        end: Optional[int] = None,
    ) -> "Generator[bytes, None, None]":
        """Yield the blob's bytes from *first_byte* to before *end*, or to its own end.

        *size_bytes*: how large it must be, where that is known.

        Raises:
            AbsentError: it is not here, or is of another size.
            OSError, http.client.HTTPException: it does not come now, or not to its end.
        """
        whole = end is None or end == size_bytes
        headers = {}
        if first_byte or not whole:
            last = "" if whole or end is None else end - 1
            headers["Range"] = f"bytes={first_byte}-{last}"
        connection, response = self._ask(digest, headers)
        try:
            refuse_other_answers(response, first_byte, size_bytes)
            partial = response.status == http.HTTPStatus.PARTIAL_CONTENT
            left = None if end is None else end - first_byte
            yield from self._body(response, skip=0 if partial else first_byte, left=left)
            if response.isclosed() and connection is not None and connection.sock is not None:
                # Read to its end: the connection is free for the next request.
                self._kept, connection = connection, None
        finally:
            if connection is not None:
                response.close()
                connection.close()

    def close(self) -> None:
        """Give up the connection that is kept."""
        if self._kept is not None:
            self._kept.close()
        self._kept = None

    def _ask(
        self, digest: Digest, headers: Mapping[str, str]
    ) -> "tuple[Optional[http.client.HTTPConnection], http.client.HTTPResponse]":
        path = urlsplit(self.base).path + "/" + digest.replace(":", "/")
        kept, self._kept = self._kept, None
        if kept is not None:
            try:
                return kept, self._answer(kept, path, headers)
            except (OSError, http.client.HTTPException):
                # The server may have closed it meanwhile: that is no fault of its.
                kept.close()
        connection = connect(self.base)
        try:
            return connection, self._answer(connection, path, headers)
        except BaseException:
            connection.close()
            raise

    def _answer(
        self, connection: http.client.HTTPConnection, path: str, headers: Mapping[str, str]
    ) -> http.client.HTTPResponse:
        """Return the head of an answer. Many a byte may come too slowly: all of it has its time."""
        if connection.sock is None:
            connection.connect()
        connection.sock.settimeout(self._stall_seconds)
        late = threading.Event()
        guard = threading.Timer(self._stall_seconds, _cut, (connection.sock, late))
        guard.daemon = True
        guard.start()
        try:
            connection.request("GET", path, headers=dict(headers))
            response = connection.getresponse()
        except (OSError, ValueError, http.client.HTTPException):
            if late.is_set():
                raise socket.timeout() from None
            raise
        finally:
            guard.cancel()
        if late.is_set():  # a head that was cut off may look like a whole one
            response.close()
            raise socket.timeout()
        return response

    def _body(
        self, response: http.client.HTTPResponse, *, skip: int, left: Optional[int]
    ) -> Iterator[bytes]:
        since, came = time.monotonic(), 0
        while left is None or left > 0:
            chunk = response.read1(CHUNK_BYTES)
            if not chunk:
                if response.length:
                    raise OSError(f"broke off, {response.length} bytes before the end")
                break
            came += len(chunk)
            now = time.monotonic()
            if now - since > self._stall_seconds:
                if came < self._least_bytes:
                    raise OSError(f"stalled: {came} bytes in {now - since:.0f} s")
                since, came = now, 0
            chunk, skip = chunk[skip:], max(skip - len(chunk), 0)
            chunk = chunk if left is None else chunk[:left]
            if chunk:
                left = None if left is None else left - len(chunk)
                yield chunk
        if not response.length:
            response.close()


def connect(base: str) -> http.client.HTTPConnection:
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
        return http.client.HTTPConnection(host, port, timeout=CONNECT_SECONDS)
    if scheme == "https":
        # The digest decides, not the mirror's certificate, for which a node has no authorities.
        context = ssl._create_unverified_context()
        return http.client.HTTPSConnection(host, port, timeout=CONNECT_SECONDS, context=context)
    raise AbsentError(f"found {base!r:.80}, expected an http:// address")


def refuse_other_answers(
    response: http.client.HTTPResponse, first_byte: int, size_bytes: Optional[int]
) -> None:
    """Return when *response* brings a blob of *size_bytes* from *first_byte* on, or all of it.

    Raises:
        AbsentError: this server does not have it.
        OSError: it does not give it now.
    """
    status = response.status
    if status == http.HTTPStatus.OK:
        refuse_other_size(response.length, size_bytes)
        return
    found = response.headers.get("Content-Range", "")
    match = _RANGE.match(found)
    total = int(match.group(3)) if match and match.group(3) != "*" else None
    if status == http.HTTPStatus.PARTIAL_CONTENT:
        if not match or match.group(1) != str(first_byte):
            raise AbsentError(f"gave the range {found!r:.80}, expected one from {first_byte}")
        refuse_other_size(total, size_bytes)
        return
    if status == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        refuse_other_size(total, size_bytes)
    if status in (408, 425, 429) or status >= 500:
        message = f"answered {status} {response.reason}"
        wait = parse_retry_after(response.headers.get("Retry-After"), response.headers.get("Date"))
        raise OSError(message) if wait is None else BusyError(message, wait)
    raise AbsentError(f"answered {status} {response.reason}")


def refuse_other_size(found: Optional[int], expected: Optional[int]) -> None:
    """Return unless a server's file has another size than the blob.

    Raises:
        AbsentError: it has.
    """
    if found is not None and expected is not None and found != expected:
        raise AbsentError(f"has {found} bytes, expected {expected}")


def parse_retry_after(text: Optional[str], date: Optional[str] = None) -> Optional[float]:
    """Return how many seconds ``Retry-After`` asks to wait: a number, or a moment.

    A moment is compared with the answer's own *date*: the clock of a node may say anything. None
    when nothing that makes sense is asked.
    """
    seconds: Union[int, float]
    if text is None:
        return None
    if text.strip().isdigit():
        seconds = int(text.strip()[:9])
    else:
        try:
            then = email.utils.parsedate_to_datetime(text)
            now = email.utils.parsedate_to_datetime(date or "")
            seconds = (then - now).total_seconds()
        except (TypeError, ValueError, IndexError):
            return None
    return float(min(max(seconds, 0), MOST_RETRY_SECONDS))


def _cut(end: socket.socket, late: threading.Event) -> None:
    late.set()
    with contextlib.suppress(OSError):  # it may have ended by itself
        end.shutdown(socket.SHUT_RDWR)
