"""Requests to one registry: who we are, redirects, patience."""

from __future__ import annotations

import contextlib
import functools
import logging
import random
import ssl
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import urllib3

from vnfsbuild import __version__
from vnfsbuild.errors import InputError
from vnfsbuild.registry.answer import Answer, RegistryError, reason, retry_after, shown, told
from vnfsbuild.registry.login import Credentials
from vnfsbuild.transfer.parallel import Interrupted

logger = logging.getLogger(__name__)

T = TypeVar("T")

CONNECT_SECONDS = 20
READ_SECONDS = 60
ATTEMPTS = 5
MAX_PAUSE_SECONDS = 30.0
MAX_RETRY_AFTER_SECONDS = 120.0
"""A registry may ask for more patience than ours, up to this."""
MAX_REDIRECTS = 5
CONNECTIONS = 8

REDIRECTS = (301, 302, 303, 307, 308)
BUSY = (408, 425, 429, 500, 502, 503, 504)
"""Answers after which it may go well next time."""

Body = bytes | Callable[[], Iterable[bytes]]
"""What is sent; a function where it is long, called again for each attempt."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How often and how soon to try again."""

    attempts: int = ATTEMPTS
    first_seconds: float = 0.5

    def pause(self, attempt: int, asked_seconds: float = 0.0) -> float:
        """Return how long to wait after the *attempt*-th failure, by chance a bit less."""
        longest = min(MAX_PAUSE_SECONDS, self.first_seconds * 2.0 ** (attempt - 1))
        # Many nodes or pipelines that failed together shall not come back together.
        ours = longest * random.uniform(0.5, 1.0)
        return max(ours, min(asked_seconds, MAX_RETRY_AFTER_SECONDS))


class RegistryHttp:
    """The registry *host*; safe to be used by several threads.

    *ca_file* has authorities that are believed besides those of the system (or, as with every
    program that uses OpenSSL, of ``SSL_CERT_FILE``).
    """

    def __init__(
        self,
        host: str,
        *,
        plain_http: bool = False,
        ca_file: Path | None = None,
        credentials: Credentials | None = None,
        patience: Patience | None = None,
    ) -> None:
        self.host = host
        server = "registry-1.docker.io" if host == "docker.io" else host
        self.base = f"{'http' if plain_http else 'https'}://{server}"
        self.patience = patience or Patience()
        self._plain_http = plain_http
        self._credentials = credentials or Credentials(host=host, plain_http=plain_http)
        self._context = _make_context(ca_file)
        self._pools: dict[str | None, urllib3.PoolManager] = {}
        self._lock = threading.Lock()
        self._answered = False
        self.stop = threading.Event()
        """is set when whatever goes on shall end"""

    def close(self) -> None:
        """Close all connections."""
        for pool in self._pools.values():
            pool.clear()

    @contextlib.contextmanager
    def request(
        self,
        method: str,
        url: str,
        *,
        statuses: Collection[int],
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        size_bytes: int | None = None,
        scopes: tuple[str, ...] = (),
        attempts: int | None = None,
    ) -> Iterator[Answer]:
        """Send a request, again where that may help, and give the answer to the block.

        *url* may be a path of the registry. *size_bytes* is that of a *body* that is a function.

        Raises:
            RegistryError: no answer, or none with one of *statuses*.
        """
        target = urllib.parse.urljoin(self.base, url)
        send = functools.partial(
            self._once, method, target, statuses, headers or {}, body, size_bytes, scopes
        )
        answer = self.patiently(send, attempts=attempts)
        try:
            yield answer
        finally:
            # What was not read to its end must not be taken for the next answer.
            answer.raw.close()

    def patiently(self, act: Callable[[], T], *, attempts: int | None = None) -> T:
        """Return what *act* returns, which is called again where that may help.

        Raises:
            RegistryError: it failed for good.
        """
        for attempt in range(1, attempts or self.patience.attempts):
            try:
                return act()
            except RegistryError as error:
                if not error.again:
                    raise
                self.wait(attempt, error)
        return act()

    def wait(self, attempt: int, error: RegistryError) -> None:
        """Say what failed the *attempt*-th time, and wait a while before the next.

        Raises:
            Interrupted: there will be no next.
        """
        seconds = self.patience.pause(attempt, error.wait_seconds)
        logger.info("%s; asking again in %.1f s", error, seconds)
        if self.stop.wait(seconds):
            raise Interrupted

    def _once(
        self,
        method: str,
        url: str,
        statuses: Collection[int],
        headers: Mapping[str, str],
        body: Body | None,
        size_bytes: int | None,
        scopes: tuple[str, ...],
    ) -> Answer:
        """Send a request, where the registry redirects us to, and as whom it wants us to."""
        renewed = False
        left = MAX_REDIRECTS
        while True:
            ours = _origin(url) == _origin(self.base)
            sent = dict(headers)
            token = self._credentials.authorization(self, scopes) if ours else None
            if token:
                sent["Authorization"] = token
            answer = self._send(method, url, sent, body, size_bytes)
            if answer.status in REDIRECTS and method in ("GET", "HEAD"):
                url = _follow(answer, left)
                left -= 1
            elif answer.status == 401 and ours and not renewed:
                renewed = True
                self._renew(answer, scopes, token)
            elif answer.status in statuses:
                return answer
            else:
                raise self._refused(method, answer)

    def _renew(self, answer: Answer, scopes: tuple[str, ...], token: str | None) -> None:
        header = answer.headers.get("WWW-Authenticate", "")
        answer.raw.close()
        if not self._credentials.take_challenge(header, scopes, token):
            raise self._unauthorized(answer)

    def _send(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        body: Body | None,
        size_bytes: int | None,
    ) -> Answer:
        if callable(body):
            content: bytes | Iterable[bytes] | None = body()
            headers["Content-Length"] = str(size_bytes)
        else:
            content = body
            if method in ("POST", "PUT", "PATCH"):
                headers["Content-Length"] = str(len(body or b""))
        logger.debug("%s %s", method, shown(url))
        with told(url, first=not self._answered):
            raw = self._pool(url).request(
                method,
                url,
                headers={"User-Agent": f"vnfsbuild/{__version__}",
                         "Accept-Encoding": "identity", **headers},
                body=content,
                preload_content=False,
                redirect=False,
                retries=False,
            )  # fmt: skip
        self._answered = True
        return Answer(status=raw.status, headers=raw.headers, url=url, raw=raw)

    def send_elsewhere(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None
    ) -> bytes:
        """Return what a server of tokens answers; nobody's login is added to *headers*.

        Raises:
            RegistryError: no answer, or an error.
        """
        answer = self._send(method, url, dict(headers), body, None)
        with contextlib.closing(answer.raw):
            if answer.status != 200:
                raise self._refused(method, answer)
            return answer.read()

    def _pool(self, url: str) -> urllib3.PoolManager:
        parts = urllib.parse.urlsplit(url)
        proxy = urllib.request.getproxies().get(parts.scheme)
        if proxy and urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]):
            proxy = None
        with self._lock:
            if proxy not in self._pools:
                self._pools[proxy] = self._make_pool(proxy)
            return self._pools[proxy]

    def _make_pool(self, proxy: str | None) -> urllib3.PoolManager:
        timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS)
        if proxy is None:
            return urllib3.PoolManager(
                maxsize=CONNECTIONS, timeout=timeout, ssl_context=self._context
            )
        parts = urllib.parse.urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        login = urllib.parse.unquote(parts.netloc.rpartition("@")[0])
        return urllib3.ProxyManager(
            parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(),
            maxsize=CONNECTIONS,
            timeout=timeout,
            ssl_context=self._context,
            proxy_headers=urllib3.make_headers(proxy_basic_auth=login) if login else None,
        )

    def _refused(self, method: str, answer: Answer) -> RegistryError:
        """Return the error for an answer that was not expected."""
        if answer.status == 401:
            return self._unauthorized(answer)
        said = reason(answer)
        answer.raw.close()
        hint = None
        if answer.status == 403:
            hint = f"is this login ({self._credentials.shown()}) allowed to do that?"
        if answer.status == 400 and "HTTPS server" in said:
            hint = "this registry has TLS: leave --plain-http out"
        return RegistryError(
            f"{shown(answer.url)}: {method}: {answer.status} {said}".rstrip(),
            hint=hint,
            status=answer.status,
            again=answer.status in BUSY,
            wait_seconds=retry_after(answer.headers.get("Retry-After"), time.time()),
        )

    def _unauthorized(self, answer: Answer) -> RegistryError:
        answer.raw.close()
        found = self._credentials.shown()
        return RegistryError(
            f"{shown(answer.url)}: {self.host} wants a login, found {found}",
            hint=f"podman login {self.host}; or docker login {self.host}",
            status=401,
        )


def _make_context(ca_file: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca_file:
        try:
            context.load_verify_locations(cafile=ca_file)
        except OSError as error:  # ssl.SSLError is one
            raise InputError(
                f"{ca_file}: {error.strerror or error}, expected certificates in PEM"
            ) from error
    return context


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urllib.parse.urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, (parts.hostname or "").lower(), port


def _follow(answer: Answer, left: int) -> str:
    """Return where a redirect leads.

    Raises:
        RegistryError: nowhere, in circles, or from TLS to none.
    """
    answer.raw.close()
    url = urllib.parse.urljoin(answer.url, answer.headers.get("Location", ""))
    where = shown(answer.url)
    if left == 0:
        raise RegistryError(f"{where}: more than {MAX_REDIRECTS} redirects, one after another")
    scheme = urllib.parse.urlsplit(url).scheme
    if scheme not in ("http", "https") or (scheme == "http" and answer.url.startswith("https:")):
        raise RegistryError(f"{where}: redirected to {shown(url)}, expected https")
    return url
