"""What a registry answers, and how its errors and those of the network are told.

What comes in is believed nothing: texts are shown without control characters and cut, bodies are
read with a limit, and bytes count only once their digest was computed, by whoever asked for them.
"""

from __future__ import annotations

import contextlib
import email.utils
import json
import re
import ssl
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import urllib3

from vnfsbuild.errors import VnfsbuildError
from vnfsbuild.manifest import MAX_METADATA_BYTES

PIECE_BYTES = 128 * 1024
MAX_ERROR_BYTES = 64 * 1024
MAX_REASON_LENGTH = 200
MAX_TEXT_SECONDS = 120

_COUNT = re.compile(r"[0-9]{1,18}")


class RegistryError(VnfsbuildError):
    """A registry does not answer, or answers something else than was expected."""

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        status: int | None = None,
        again: bool = False,
        wait_seconds: float = 0.0,
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.again = again
        """whether it may go well next time"""
        self.wait_seconds = wait_seconds
        """how long the registry asked us to wait"""


@dataclass(kw_only=True, slots=True)
class Answer:
    """What came back: status and headers at once, the body as it is read."""

    status: int
    headers: Mapping[str, str]
    url: str
    raw: urllib3.BaseHTTPResponse = field(repr=False)

    def pieces(self) -> Iterator[bytes]:
        """Read the body.

        Raises:
            RegistryError: the connection broke.
        """
        while True:
            with told(self.url):
                piece = self.raw.read(PIECE_BYTES, decode_content=False)
            if not piece:
                return
            yield piece

    def read(self, *, limit_bytes: int = MAX_METADATA_BYTES) -> bytes:
        """Return the body.

        Raises:
            RegistryError: the connection broke, or more than *limit_bytes* came.
        """
        data = b""
        until = time.monotonic() + MAX_TEXT_SECONDS
        for piece in self.pieces():
            data += piece
            if len(data) > limit_bytes:
                raise RegistryError(f"{shown(self.url)}: sent more than {limit_bytes} bytes")
            if time.monotonic() > until:
                raise RegistryError(
                    f"{shown(self.url)}: found {len(data)} bytes after {MAX_TEXT_SECONDS} seconds, "
                    "and no end"
                )
        return data


def retry_after(text: str | None, now: float) -> float:
    """Return the seconds that a header ``Retry-After`` asks for: a number, or a date."""
    if not text:
        return 0.0
    seconds = read_count(text)
    if seconds is not None:
        return float(seconds)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - now)
    except (TypeError, ValueError, OverflowError):
        return 0.0


def read_count(text: str | None) -> int | None:
    """Return the number that a header holds; none when it holds something else.

    What Python calls digits is more than that, and a number may be too long for it.
    """
    found = _COUNT.fullmatch((text or "").strip())
    return int(found[0]) if found else None


def reason(answer: Answer) -> str:
    """Return what an error says, as text for people."""
    try:
        data = answer.read(limit_bytes=MAX_ERROR_BYTES)
    except RegistryError:
        return ""
    try:
        errors = json.loads(data)["errors"]
        text = "; ".join(f"{item.get('code')}: {item.get('message')}" for item in errors[:3])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        text = data.decode("utf-8", "replace").strip().partition("\n")[0]
    return "".join(char if char.isprintable() else " " for char in text)[:MAX_REASON_LENGTH]


def shown(url: str) -> str:
    """Return *url* as messages have it: the query of a redirect may let anybody in."""
    parts = urllib.parse.urlsplit(url)
    text = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
    return "".join(char if char.isprintable() else "?" for char in text)


@contextlib.contextmanager
def told(url: str, *, first: bool = False) -> Iterator[None]:
    """Turn what the network does wrong into a RegistryError; on *first* contact it is final."""
    where = shown(url)
    try:
        yield
    except urllib3.exceptions.SSLError as error:
        raise RegistryError(f"{where}: TLS: {_plainly(error)}", hint=_tls_hint(error)) from error
    except urllib3.exceptions.NewConnectionError as error:
        raise RegistryError(f"{where}: {_plainly(error)}", again=not first) from error
    except urllib3.exceptions.TimeoutError as error:
        raise RegistryError(f"{where}: no answer in time", again=True) from error
    except urllib3.exceptions.ProxyError as error:
        raise RegistryError(f"{where}: proxy: {_plainly(error)}", again=not first) from error
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise RegistryError(f"{where}: {_plainly(error)}", again=True) from error
    except ValueError as error:
        raise RegistryError(f"{where}: {_plainly(error)}") from error


def _plainly(error: BaseException) -> str:
    """Return the innermost reason, which urllib3 wraps."""
    while True:
        inner = getattr(error, "original_error", None) or error.__cause__ or error.__context__
        if not isinstance(inner, OSError | urllib3.exceptions.HTTPError) or inner is error:
            break
        error = inner
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not believed: {error.verify_message}"
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return "".join(char if char.isprintable() else " " for char in text)


def _tls_hint(error: BaseException) -> str:
    text = str(error)
    if "WRONG_VERSION_NUMBER" in text or "RECORD_LAYER_FAILURE" in text:
        return "is this a registry without TLS? then --plain-http"
    return "--ca-file FILE names the authority of a registry that has its own; or SSL_CERT_FILE"
