"""The agent's side of the wire: check-ins and overlays, by TLS straight to provisiond.

The server is the one that the pinned CA vouches for. Dates of certificates are passed over, since
a node's clock may say 1970; the clock is set from the answer. Requests leave from a privileged
port: on a node where users run programs, none of those can speak for the node.
"""

from __future__ import annotations

import errno
import http.client
import json
import random
import socket
import ssl
from contextlib import contextmanager
from typing import Dict, Iterator, List, Mapping, Optional, Sequence, Tuple
from urllib.parse import urlsplit

from provisiond.agent.order import spread
from provisiond.agent.site import Site
from provisiond.protocol import (
    MAX_DETAIL_CHARACTERS,
    Answer,
    Checkin,
    PlannedOverlay,
    clean,
    parse_answer,
    render_checkin,
)
from vnfsbuild.digest import READ_SIZE_BYTES
from vnfsbuild.errors import InputError, VnfsbuildError

NO_CHECK_TIME = 0x200000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which Python's ssl has no name for."""

PRIVILEGED_PORTS = range(512, 1024)
PORT_TRIES = 32
MAX_ANSWER_BYTES = 1024 * 1024
KEEPALIVE = {"TCP_KEEPIDLE": 20, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
"""Seconds of silence, then seconds between questions, and how many without an answer."""
CHECKIN_TIMEOUT_SECONDS = 20.0


class NetworkError(VnfsbuildError):
    """No server can be reached, or none answers as it should: try again later."""

    def __init__(
        self,
        message: str,
        *,
        retry_after_seconds: Optional[int] = None,
        is_answered: bool = False,
    ) -> None:
        """*is_answered*: a server did answer, so that the network is there."""
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        self.is_answered = is_answered


class OverlayGone(NetworkError):
    """The overlay that was planned is not the node's any more: the server has another plan."""


class Client:
    """Speaks to the servers of a site, the one that answered last first."""

    def __init__(
        self,
        site: Site,
        *,
        timeout_seconds: float = CHECKIN_TIMEOUT_SECONDS,
        source_ports: Optional[Sequence[int]] = PRIVILEGED_PORTS,
        random_source: Optional[random.Random] = None,
        node_id: str = "",
    ) -> None:
        """The servers are asked in the order of *node_id*; without one in that of the site.

        *source_ports* None leaves the choice to the kernel, for who is not root.
        """
        self._servers = list(spread(site.servers, node_id) if node_id else site.servers)
        self._context = make_context(site)
        self._timeout = timeout_seconds
        self._source_ports = source_ports
        self._random = random_source or random.SystemRandom()

    def checkin(self, checkin: Checkin, *, timeout_seconds: Optional[float] = None) -> Answer:
        """Return a server's answer to *checkin*.

        Raises:
            NetworkError: no server answered, or not in a way that may be acted on.
        """
        timeout = (timeout_seconds or self._timeout) + checkin.wait_seconds
        faults = []
        retry_after: List[int] = []
        is_answered = False
        for server in list(self._servers):
            try:
                answer = self._checkin(server, checkin, timeout)
            except (OSError, http.client.HTTPException, InputError) as error:
                faults.append(f"{server}: {told(error)}")
                continue
            except NetworkError as error:
                faults.append(f"{server}: {error}")
                is_answered = True
                if error.retry_after_seconds is not None:
                    retry_after.append(error.retry_after_seconds)
                continue
            self._servers.remove(server)
            self._servers.insert(0, server)
            return answer
        raise NetworkError(
            "; ".join(faults),
            retry_after_seconds=min(retry_after, default=None),
            is_answered=is_answered,
        )

    def overlay(
        self, overlay: PlannedOverlay, *, node_id: str, boot_id: str, node_key: Optional[str]
    ) -> Iterator[bytes]:
        """Yield the bytes of *overlay*, unverified, from the first server that can be reached.

        Raises:
            OverlayGone: another one is planned by now.
            NetworkError: it cannot be had.
        """
        headers = {"X-Node-Id": node_id, "X-Boot-Id": boot_id}
        if node_key:
            headers["X-Node-Key"] = node_key
        path, faults = f"/v1/overlay/{overlay.digest}", []
        for server in list(self._servers):
            has_begun = False
            try:
                with self._request(server, "GET", path, None, headers, self._timeout) as response:
                    if response.status == http.client.NOT_FOUND:
                        raise OverlayGone(f"{server}: overlay: not the one of this node any more")
                    _refuse_errors(response)
                    has_begun = True
                    yield from iter(lambda: response.read(READ_SIZE_BYTES), b"")
                    return
            except (OSError, http.client.HTTPException) as error:
                faults.append(f"{server}: overlay: {told(error)}")
                if has_begun:
                    break
        raise NetworkError("; ".join(faults))

    def _checkin(self, server: str, checkin: Checkin, timeout: float) -> Answer:
        headers = {"Content-Type": "application/json"}
        body = render_checkin(checkin)
        with self._request(server, "POST", "/v1/checkin", body, headers, timeout) as response:
            _refuse_errors(response)
            data = response.read(MAX_ANSWER_BYTES + 1)
        if len(data) > MAX_ANSWER_BYTES:
            raise InputError(f"answer: more than {MAX_ANSWER_BYTES} bytes")
        try:
            value = json.loads(data.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise InputError(f"answer: not JSON: {error}") from error
        return parse_answer(value)

    @contextmanager
    def _request(
        self,
        server: str,
        method: str,
        path: str,
        body: Optional[bytes],
        headers: Mapping[str, str],
        timeout: float,
    ) -> Iterator[http.client.HTTPResponse]:
        connection = self._connect(server, timeout)
        try:
            connection.request(method, path, body=body, headers=dict(headers))
            yield connection.getresponse()
        finally:
            connection.close()

    def _connect(self, server: str, timeout: float) -> http.client.HTTPSConnection:
        host, port = split_server(server)
        for address in self._source_addresses():
            connection = http.client.HTTPSConnection(
                host,
                port,
                timeout=min(timeout, self._timeout),
                source_address=address,
                context=self._context,
            )
            try:
                connection.connect()
            except OSError as error:
                connection.close()
                if address and error.errno in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
                    continue
                raise
            connection.sock.settimeout(timeout)
            notice_silence(connection.sock)
            return connection
        raise OSError(errno.EADDRINUSE, f"no free privileged port in {PORT_TRIES} tries")

    def _source_addresses(self) -> "Sequence[Optional[Tuple[str, int]]]":
        if self._source_ports is None:
            return [None]
        tries = min(PORT_TRIES, len(self._source_ports))
        return [("", port) for port in self._random.sample(self._source_ports, tries)]


def make_context(site: Site) -> ssl.SSLContext:
    """Return what a server of *site* must prove: a certificate of its CA, for its address.

    Raises:
        VnfsbuildError: the CA's file holds no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= NO_CHECK_TIME
    try:
        context.load_verify_locations(cafile=str(site.ca_file))
    except (OSError, ssl.SSLError) as error:
        raise VnfsbuildError(f"{site.ca_file}: not a CA's certificate: {error}") from error
    return context


def notice_silence(end: socket.socket) -> None:
    """Let the kernel ask, while an answer is held, whether the other machine is still there.

    One that lost its power, or a cable that was pulled, is noticed within a minute then, and not
    when the answer is overdue.
    """
    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):
            end.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def split_server(server: str) -> Tuple[str, int]:
    """Return host and port of the URL *server*.

    Raises:
        InputError: it has none.
    """
    parts = urlsplit(server)
    try:
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InputError(f"{server}: {error}") from error
    if not host:
        raise InputError(f"{server}: names no host")
    return host, port or {"http": 80}.get(parts.scheme, 443)


def _refuse_errors(response: http.client.HTTPResponse) -> None:
    if response.status == http.HTTPStatus.OK:
        return
    text = response.read(4 * MAX_DETAIL_CHARACTERS).decode("utf-8", "replace")
    try:
        value: Dict[str, str] = json.loads(text)
        text = str(value["error"])
    except (ValueError, KeyError, TypeError):
        pass
    text = clean(" ".join(text.split()), limit=300) or response.reason
    retry = response.headers.get("Retry-After", "")
    raise NetworkError(
        f"answered {response.status}: {text}",
        retry_after_seconds=int(retry) if retry.isdigit() else None,
    )


def told(error: BaseException) -> str:
    """Return what went wrong with a connection, in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not to be trusted: {error.verify_message}"
    if isinstance(error, socket.timeout):  # an alias of TimeoutError since Python 3.10
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
