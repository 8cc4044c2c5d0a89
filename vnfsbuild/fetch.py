"""URL → file: not a byte more than promised, the promised digest, whole or not there at all.

What was begun goes on where it stopped, from whichever mirror answers: the digest decides in the
end, not the mirror.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import logging
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from vnfsbuild.digest import READ_SIZE_BYTES, Digest
from vnfsbuild.errors import VnfsbuildError
from vnfsbuild.files import sync_directory

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 60
ATTEMPTS = 3
HINT = "try again, or name another mirror: VNFS_MIRROR=…"

_CONTENT_RANGE = re.compile(r"bytes (\d+)-")


class FetchError(VnfsbuildError):
    """A server does not answer, has no such file, or sent other bytes than expected."""

    def __init__(
        self, message: str, *, again: bool, missing: bool = False, anew: bool = False
    ) -> None:
        super().__init__(message, hint=HINT)
        self.again = again
        """whether it may go well next time"""
        self.missing = missing
        """whether the server answered that there is no such file"""
        self.anew = anew
        """whether what came so far cannot be the beginning of what the server has"""


def fetch(
    urls: Sequence[str],
    path: Path,
    *,
    digest: Digest,
    size_bytes: int,
    proxies: Mapping[str, str] | None = None,
    on_bytes: Callable[[int], object] = lambda _: None,
    on_failure: Callable[[str], object] = lambda _: None,
    retry_seconds: float = 1.0,
) -> None:
    """Put what one of *urls* serves at *path*; *on_bytes* hears of each piece that arrives.

    The next URL is asked where one fails, and all again, a few times. What came until then is kept
    beside *path* for the next time, and taken back from *on_bytes* where it was of no use.
    *on_failure* hears of URLs whose server did not answer.

    Raises:
        FetchError: none has it; *path* is as it was.
        VnfsbuildError: it cannot be written.
    """
    download = _Download(path, digest, size_bytes, proxies or {}, on_bytes)
    with download.held() as file:
        if file is None:
            on_bytes(size_bytes)
            return
        left = list(urls)
        errors: dict[str, FetchError] = {}
        for attempt in range(1, ATTEMPTS + 1):
            for url in tuple(left):
                try:
                    download.run(url, file)
                    return
                except FetchError as error:
                    errors[url] = error
                    if error.anew:
                        download.forget(file)
                    if not error.again:
                        left.remove(url)
                    else:
                        on_failure(url)
            if not left or attempt == ATTEMPTS:
                break
            logger.info("%s; asking again", errors[left[-1]])
            time.sleep(retry_seconds * attempt)
        raise _none_has_it(errors, path)


def fetch_bytes(
    url: str,
    *,
    limit_bytes: int,
    proxies: Mapping[str, str] | None = None,
    retry_seconds: float = 1.0,
) -> bytes:
    """Return what *url* serves, of which nothing is known beforehand but that it is not large.

    Raises:
        FetchError: no answer, an error, or more than *limit_bytes*.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with _open(url, proxies or {}) as answer:
                data = b""
                for piece in _read_pieces(url, answer):
                    data += piece
                    if len(data) > limit_bytes:
                        raise FetchError(f"{url}: more than {limit_bytes} bytes", again=False)
                return data
        except FetchError as error:
            if not error.again or attempt == ATTEMPTS:
                raise
            logger.info("%s; asking again", error)
        time.sleep(retry_seconds * attempt)
    raise AssertionError("unreachable")


class _Download:
    """One file on its way to *path*, with what is there of it already."""

    def __init__(
        self,
        path: Path,
        digest: Digest,
        size_bytes: int,
        proxies: Mapping[str, str],
        on_bytes: Callable[[int], object],
    ) -> None:
        self._path = path
        self._partial = path.with_name(f".{path.name}.part")
        self._digest = digest
        self._size_bytes = size_bytes
        self._proxies = proxies
        self._on_bytes = on_bytes
        self._hasher = hashlib.sha256()
        self._seen_bytes = 0

    @contextlib.contextmanager
    def held(self) -> Iterator[BinaryIO | None]:
        """Open the partial file, ours alone; None when somebody else brought the whole one."""
        while True:
            with self._written(), self._partial.open("a+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                if self._path.exists():
                    if self._is_still(file):
                        self._partial.unlink()  # made by opening it, for nothing
                    yield None
                    return
                if not self._is_still(file):
                    continue  # its last holder removed it, or renamed it and another one did
                self._count(file)
                try:
                    yield file
                finally:
                    file.flush()
                    if self._is_still(file) and os.fstat(file.fileno()).st_size == 0:
                        self._partial.unlink()
                return

    def run(self, url: str, file: BinaryIO) -> None:
        """Bring the rest from *url*, and the file to its place.

        Raises:
            FetchError: it failed; what came stays for the next attempt unless it is of no use.
        """
        if self._seen_bytes < self._size_bytes or not self._size_bytes:
            with _open(url, self._proxies, start=self._seen_bytes) as answer:
                if self._seen_bytes and _start_of(answer) != self._seen_bytes:
                    self.forget(file)
                for piece in _read_pieces(url, answer):
                    self._take(url, piece, file)
        if self._seen_bytes < self._size_bytes:
            raise FetchError(
                f"{url}: found {self._seen_bytes} bytes, expected {self._size_bytes}", again=True
            )
        found = f"sha256:{self._hasher.hexdigest()}"
        if found != self._digest:
            self.forget(file)
            raise FetchError(f"{url}: found digest {found}, expected {self._digest}", again=True)
        file.flush()
        os.fchmod(file.fileno(), 0o644)
        os.fsync(file.fileno())
        self._partial.replace(self._path)
        sync_directory(self._path.parent)

    def _take(self, url: str, piece: bytes, file: BinaryIO) -> None:
        self._seen_bytes += len(piece)
        self._on_bytes(len(piece))
        if self._seen_bytes > self._size_bytes:
            self.forget(file)
            raise FetchError(f"{url}: more than the {self._size_bytes} bytes expected", again=True)
        self._hasher.update(piece)
        file.write(piece)

    def _count(self, file: BinaryIO) -> None:
        """Take what an earlier attempt left as the beginning."""
        file.seek(0)
        for piece in iter(lambda: file.read(READ_SIZE_BYTES), b""):
            self._hasher.update(piece)
            self._seen_bytes += len(piece)
        self._on_bytes(self._seen_bytes)
        if self._seen_bytes > self._size_bytes:
            self.forget(file)

    def forget(self, file: BinaryIO) -> None:
        """Begin anew: what came so far is of no use."""
        file.flush()
        file.truncate(0)
        self._on_bytes(-self._seen_bytes)
        self._hasher, self._seen_bytes = hashlib.sha256(), 0

    def _is_still(self, file: BinaryIO) -> bool:
        try:
            return os.path.samestat(os.fstat(file.fileno()), self._partial.stat())
        except FileNotFoundError:
            return False

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise VnfsbuildError(
                f"{self._path}: cannot be written: {error.strerror}; "
                f"it has {self._size_bytes} bytes",
                hint="free some space, or keep the cache elsewhere: VNFS_CACHE=/path vnfsbuild …",
            ) from error


@contextlib.contextmanager
def _open(
    url: str, proxies: Mapping[str, str], *, start: int = 0
) -> Iterator[http.client.HTTPResponse]:
    headers = {"Range": f"bytes={start}-"} if start else {}
    request = urllib.request.Request(url, headers=headers)
    with _told(url):
        answer = _make_opener(proxies).open(request, timeout=TIMEOUT_SECONDS)
    with answer:
        yield answer


def _start_of(answer: http.client.HTTPResponse) -> int:
    """Return which byte of the file the answer begins with."""
    found = _CONTENT_RANGE.match(answer.headers.get("Content-Range") or "")
    return int(found[1]) if found and answer.status == http.client.PARTIAL_CONTENT else 0


def _read_pieces(url: str, answer: http.client.HTTPResponse) -> Iterator[bytes]:
    while True:
        with _told(url):
            piece = answer.read(READ_SIZE_BYTES // 8)
        if not piece:
            return
        yield piece


@contextlib.contextmanager
def _told(url: str) -> Iterator[None]:
    """Turn whatever the network does wrong into a FetchError."""
    try:
        yield
    except urllib.error.HTTPError as error:
        with error:
            shorter = error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE
            raise FetchError(
                f"{url}: {error.code} {error.reason}",
                again=error.code >= 500 or shorter,
                missing=error.code in (http.client.NOT_FOUND, http.client.GONE),
                anew=shorter,
            ) from error
    except TimeoutError as error:
        raise FetchError(f"{url}: no answer in {TIMEOUT_SECONDS} seconds", again=True) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        absent = url.startswith("file:") and isinstance(reason, FileNotFoundError | str)
        raise FetchError(f"{url}: {reason}", again=not absent, missing=absent) from error


def _none_has_it(errors: Mapping[str, FetchError], path: Path) -> FetchError:
    missing = bool(errors) and all(error.missing for error in errors.values())
    lines = [error.message for error in errors.values()]
    text = "\n".join(lines) if lines else f"{path.name}: no mirror is known that may have it"
    return FetchError(text, again=False, missing=missing)


def _make_opener(proxies: Mapping[str, str]) -> urllib.request.OpenerDirector:
    # Proxies of the environment count as well; those that are given win.
    found = {**urllib.request.getproxies(), **proxies}
    return urllib.request.build_opener(urllib.request.ProxyHandler(found))
