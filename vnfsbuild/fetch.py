"""URL → file: not a byte more than promised, the promised digest, whole or not there at all."""

from __future__ import annotations

import http.client
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from vnfsbuild.digest import READ_SIZE_BYTES, Digest, verify_stream
from vnfsbuild.errors import VerificationError, VnfsbuildError
from vnfsbuild.files import open_atomic

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 60
ATTEMPTS = 3


class FetchError(VnfsbuildError):
    """A server does not answer, has no such file, or sent other bytes than expected."""

    def __init__(self, message: str, *, again: bool) -> None:
        super().__init__(message, hint="try again, or name another mirror: VNFS_MIRROR=…")
        self.again = again
        """whether it may go well next time"""


def fetch(
    url: str,
    path: Path,
    *,
    digest: Digest,
    size_bytes: int,
    proxies: Mapping[str, str] | None = None,
    on_bytes: Callable[[int], object] = lambda _: None,
    retry_seconds: float = 1.0,
) -> None:
    """Put what *url* serves at *path*; *on_bytes* hears of each piece that arrives.

    A server that fails is asked again, a few times; what came before is taken back from
    *on_bytes*.

    Raises:
        FetchError: no answer, an error, or other bytes; *path* is as it was.
    """
    for attempt in range(1, ATTEMPTS + 1):
        seen_bytes = 0
        try:
            with open_atomic(path) as file:
                pieces = _read_pieces(url, proxies or {})
                try:
                    for piece in verify_stream(
                        pieces, digest=digest, size_bytes=size_bytes, where=url
                    ):
                        file.write(piece)
                        seen_bytes += len(piece)
                        on_bytes(len(piece))
                except VerificationError as error:
                    raise FetchError(error.message, again=True) from error
            return
        except FetchError as error:
            on_bytes(-seen_bytes)
            if not error.again or attempt == ATTEMPTS:
                raise
            logger.info("%s; asking again", error)
        time.sleep(retry_seconds * attempt)


def _read_pieces(url: str, proxies: Mapping[str, str]) -> Iterator[bytes]:
    """Yield what *url* serves; whatever the network does wrong comes out as a FetchError."""
    try:
        with _make_opener(proxies).open(url, timeout=TIMEOUT_SECONDS) as answer:
            yield from iter(lambda: answer.read(READ_SIZE_BYTES // 8), b"")
    except urllib.error.HTTPError as error:
        with error:
            raise FetchError(
                f"{url}: {error.code} {error.reason}", again=error.code >= 500
            ) from error
    except TimeoutError as error:
        raise FetchError(f"{url}: no answer in {TIMEOUT_SECONDS} seconds", again=True) from error
    except (OSError, http.client.HTTPException) as error:
        raise FetchError(f"{url}: {getattr(error, 'reason', error)}", again=True) from error


def _make_opener(proxies: Mapping[str, str]) -> urllib.request.OpenerDirector:
    # Proxies of the environment count as well; those that are given win.
    found = {**urllib.request.getproxies(), **proxies}
    return urllib.request.build_opener(urllib.request.ProxyHandler(found))
