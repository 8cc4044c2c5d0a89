"""Parts of a file that lies on a web server, any that answers range requests, and what else does.

What the server says is bounded and compared: the file must stay the same one while it is read,
and a part must be the part that was asked for. What the bytes are worth, a digest decides.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Protocol

import urllib3

from vnfsbuild.errors import InputError, VnfsbuildError, quote_untrusted

logger = logging.getLogger(__name__)

TIMEOUT = urllib3.Timeout(connect=20, read=60)
ATTEMPTS = 4
CONNECTIONS = 4
RETRY_SECONDS = 1.0
FIRST_BYTES = 64 * 1024
"""Asked for at once in the beginning: more than most capsules have before their payloads."""

MOVED_BYTES = 64 * 1024
"""A connection that brought fewer before it broke has failed as one that brought nothing."""

LOOK_AHEAD_BYTES = 1024
"""The padding of a member and the header of the next one."""

_PIECE_BYTES = 128 * 1024
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")
_OK, _PARTIAL = 200, 206


class RangeReader(Protocol):
    """Something to read parts of; several threads may at once."""

    def read(self, first_byte: int, size_bytes: int) -> Iterator[bytes]:
        """Return exactly *size_bytes* bytes from *first_byte* on, in pieces.

        Raises:
            VnfsbuildError: it cannot be read, or is not as long.
        """
        ...


class Forward(Protocol):
    """A file that is read from its beginning, and in which one may go forward."""

    def read(self, size: int = -1, /) -> bytes: ...

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int: ...


class ServerError(VnfsbuildError):
    """A server did not answer, or not with what was asked for."""

    def __init__(self, message: str, *, again: bool, missing: bool = False) -> None:
        # A server's words stand in it.
        hint = "the same command again goes on where it stopped"
        super().__init__(quote_untrusted(message), hint=hint)
        self.again = again
        """whether it may go well next time"""
        self.missing = missing
        """whether the server said that there is no such file"""


class RemoteFile:
    """The file at *url*, as a :class:`RangeReader`, once :meth:`open` found that it can be one."""

    def __init__(self, url: str) -> None:
        self._url, self._headers = _parse_url(url)
        self.shown = self._url
        """The URL without what is secret in it."""
        self.size_bytes = 0
        self._mark: tuple[str | None, ...] = ()
        self._pool = _make_pool(self._url)

    def close(self) -> None:
        """Close all connections."""
        self._pool.clear()

    @contextlib.contextmanager
    def open(self) -> Iterator[Forward]:
        """Open the file to be read from its beginning.

        What comes back can seek forward when the server answers range requests; then
        :attr:`size_bytes` is set. When it cannot, the file comes in one stream.

        Raises:
            ServerError: there is no such file, or no answer.
        """
        with contextlib.closing(self._ask_first()) as answer:
            if answer.status == _OK:
                yield _Whole(answer, self.shown)
                return
            first, last, self.size_bytes = _content_range(answer, self.shown)
            self._mark = _mark_of(answer, self.size_bytes)
            if (first, last + 1) != (0, min(FIRST_BYTES, self.size_bytes)):
                raise ServerError(f"{self.shown}: answered with another part", again=False)
            beginning = bytearray()
            # Where the connection breaks, what comes later is asked for then.
            with contextlib.suppress(ServerError), _told(self.shown):
                for piece in _pieces(answer, last + 1):
                    beginning += piece
        yield _Sparse(self, bytes(beginning))

    def _ask_first(self) -> urllib3.BaseHTTPResponse:
        for attempt in range(1, ATTEMPTS):
            try:
                return self._ask(f"bytes=0-{FIRST_BYTES - 1}")
            except ServerError as error:
                if not error.again:
                    raise
                self._wait(error, attempt)
        return self._ask(f"bytes=0-{FIRST_BYTES - 1}")

    def read(self, first_byte: int, size_bytes: int) -> Iterator[bytes]:
        """Return exactly these bytes; goes on where a connection broke.

        Raises:
            ServerError: they do not come, or the file was changed.
        """
        done = 0
        failures = 0
        while done < size_bytes:
            before = done
            try:
                for piece in self._read_once(first_byte + done, size_bytes - done):
                    done += len(piece)
                    yield piece
            except ServerError as error:
                failures = 1 if done >= before + MOVED_BYTES else failures + 1
                if not error.again or failures == ATTEMPTS:
                    raise
                self._wait(error, failures)

    def _read_once(self, first_byte: int, size_bytes: int) -> Iterator[bytes]:
        answer = self._ask(f"bytes={first_byte}-{first_byte + size_bytes - 1}")
        with contextlib.closing(answer):
            if answer.status == _OK:
                raise ServerError(
                    f"{self.shown}: answered with the whole file, expected a part", again=True
                )
            first, _, total_bytes = _content_range(answer, self.shown)
            if _mark_of(answer, total_bytes) != self._mark:
                raise ServerError(f"{self.shown}: was changed while it was fetched", again=False)
            if first != first_byte:
                raise ServerError(f"{self.shown}: answered with another part", again=False)
            seen = 0
            with _told(self.shown):
                for piece in _pieces(answer, size_bytes):
                    seen += len(piece)
                    yield piece
            if seen < size_bytes:
                raise ServerError(f"{self.shown}: the connection broke", again=True)
            with _told(self.shown), contextlib.suppress(urllib3.exceptions.HTTPError):
                answer.drain_conn()  # its end, so that the connection can be used again

    def _ask(self, part: str) -> urllib3.BaseHTTPResponse:
        headers = {**self._headers, "Range": part, "Accept-Encoding": "identity"}
        return _ask(self._pool, self._url, headers)

    def _wait(self, error: VnfsbuildError, attempt: int) -> None:
        logger.info("%s; asking again", error)
        time.sleep(RETRY_SECONDS * attempt)


def get_bytes(url: str, *, limit_bytes: int) -> bytes:
    """Return what *url* serves, of which nothing is known beforehand but that it is not large.

    Raises:
        ServerError: no answer, an error, or more than *limit_bytes*.
    """
    plain, headers = _parse_url(url)
    pool = _make_pool(plain)
    answer = _ask(pool, plain, {**headers, "Accept-Encoding": "identity"})
    with contextlib.closing(answer), _told(plain):
        data = b"".join(_pieces(answer, limit_bytes + 1))
    pool.clear()
    if len(data) > limit_bytes:
        raise ServerError(f"{plain}: found more than {limit_bytes} bytes", again=False)
    return data


class _Whole(io.RawIOBase):
    """An answer that cannot seek: the file from its beginning to its end."""

    def __init__(self, answer: urllib3.BaseHTTPResponse, shown: str) -> None:
        self._answer = answer
        self._shown = shown

    def read(self, size: int = -1, /) -> bytes:
        with _told(self._shown):
            return bytes(self._answer.read(size))


class _Sparse(io.RawIOBase):
    """A file that is read forwards, and whose parts between are passed over unread."""

    def __init__(self, remote: RemoteFile, beginning: bytes) -> None:
        self._remote = remote
        self._held = beginning
        self._held_from = 0
        self._position = 0
        self._ahead_bytes = FIRST_BYTES

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._position = offset + (self._position if whence == io.SEEK_CUR else 0)
        # What is read once something was passed over is short, and something is passed over again.
        self._ahead_bytes = LOOK_AHEAD_BYTES
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1, /) -> bytes:
        left_bytes = max(self._remote.size_bytes - self._position, 0)
        wanted = left_bytes if size < 0 else min(size, left_bytes)
        start = self._position - self._held_from
        if not 0 <= start < len(self._held) and wanted:
            count = min(max(wanted, self._ahead_bytes), left_bytes)
            self._held = b"".join(self._remote.read(self._position, count))
            self._held_from, start = self._position, 0
        data = self._held[start : start + wanted]
        self._position += len(data)
        return data


def _ask(pool: urllib3.PoolManager, url: str, headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
    with _told(url):
        answer = pool.request(
            "GET", url, headers=headers, preload_content=False, decode_content=False,
            retries=urllib3.Retry(connect=0, read=0, status=0, other=0, redirect=5),
            timeout=TIMEOUT,
        )  # fmt: skip
    if answer.status not in (_OK, _PARTIAL):
        answer.close()
        raise ServerError(
            f"{url}: {answer.status} {answer.reason}",
            again=answer.status >= 500 or answer.status == 429,
            missing=answer.status in (404, 410),
        )
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        answer.close()
        raise ServerError(f"{url}: answered with other bytes than the file has", again=False)
    return answer


def _pieces(answer: urllib3.BaseHTTPResponse, most_bytes: int) -> Iterator[bytes]:
    """Read on, but never more than *most_bytes*."""
    while most_bytes > 0:
        piece = answer.read(min(_PIECE_BYTES, most_bytes))
        if not piece:
            return
        most_bytes -= len(piece)
        yield piece


def _content_range(answer: urllib3.BaseHTTPResponse, shown: str) -> tuple[int, int, int]:
    """Return first byte, last byte and the size of the file, as the server says."""
    text = answer.headers.get("Content-Range") or "nothing"
    found = _CONTENT_RANGE.fullmatch(text)
    if answer.status != _PARTIAL or not found:
        raise ServerError(
            f"{shown}: found {text!r} as the answered part, expected bytes FIRST-LAST/SIZE",
            again=False,
        )
    first, last, size_bytes = (int(number) for number in found.groups())
    return first, last, size_bytes


def _mark_of(answer: urllib3.BaseHTTPResponse, size_bytes: int) -> tuple[str | None, ...]:
    """Return what tells this file from one that took its place."""
    return (str(size_bytes), answer.headers.get("ETag"), answer.headers.get("Last-Modified"))


@contextlib.contextmanager
def _told(url: str) -> Iterator[None]:
    """Turn whatever the network does wrong into a ServerError."""
    try:
        yield
    except urllib3.exceptions.TimeoutError as error:
        raise ServerError(f"{url}: no answer", again=True) from error
    except urllib3.exceptions.ProtocolError as error:
        raise ServerError(f"{url}: the connection broke", again=True) from error
    except (urllib3.exceptions.HTTPError, OSError) as error:
        reason = str(getattr(error, "reason", None) or error)
        again = not isinstance(error, urllib3.exceptions.MaxRetryError) or "SSL" not in reason
        raise ServerError(f"{url}: {_plain(reason)}", again=again) from error


def _plain(reason: str) -> str:
    """Return what went wrong, without the addresses of Python's objects."""
    return re.sub(r"^<[^>]*>: |^HTTPS?Connection\([^)]*\): ", "", reason)


def _parse_url(url: str) -> tuple[str, dict[str, str]]:
    """Return *url* without name and password, and the headers that stand for these.

    Raises:
        InputError: it is not a URL that we can ask.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"{parts.scheme or url}: expected a URL http://… or https://…")
    if "@" not in parts.netloc:
        return url, {}
    login, _, host = parts.netloc.rpartition("@")
    headers = urllib3.make_headers(basic_auth=urllib.parse.unquote(login))
    return urllib.parse.urlunsplit(parts._replace(netloc=host)), dict(headers)


def _make_pool(url: str) -> urllib3.PoolManager:
    """Return a pool of connections, through the proxy that the environment names for *url*."""
    parts = urllib.parse.urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
        return urllib3.ProxyManager(proxy, maxsize=CONNECTIONS, block=True)
    return urllib3.PoolManager(maxsize=CONNECTIONS, block=True)
