"""HTTP/1.1 over pinned TLS for many nodes in one process: no more of it than agents use."""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle

PRIVILEGED_PORTS = range(512, 1024)
"""Those that agents use."""

CONNECT_SECONDS = 30.0
PORT_TRIES = 16
MAX_HEAD_BYTES = 16 * 1024


class WireError(Exception):
    """A request had no answer, or one that is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What a server answered."""

    status: int
    body: bytes
    retry_after_seconds: float = 1.0


class Wire:
    """The requests of one node to one port; all leave from its own address.

    With *keep* the connection stays open between requests, as agents do not have it.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        source: str,
        context: ssl.SSLContext | None,
        keep: bool = False,
    ) -> None:
        self._host = host
        self._port = port
        self._source = source
        self._context = context
        self._keep = keep
        # Each connection from another port: the last one's is not forgotten for a minute.
        start = hash(source) % len(PRIVILEGED_PORTS)
        self._ports = cycle([*PRIVILEGED_PORTS[start:], *PRIVILEGED_PORTS[:start]])
        self._open: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float = 60.0,
    ) -> Reply:
        """Send a request and return the answer to it, whatever its status.

        Raises:
            WireError: there was none in time.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                reader, writer = self._open or await self._connect()
                self._open = None
                try:
                    writer.write(self._head(method, path, body, headers or {}) + body)
                    reply = await _read_reply(reader)
                except BaseException:
                    writer.transport.abort()
                    raise
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            raise WireError(f"{type(error).__name__}: {error}") from error
        if self._keep:
            self._open = reader, writer
        else:
            # As an agent, which does not wait for the other side's farewell.
            writer.transport.abort()
        return reply

    def close(self) -> None:
        """Close the connection that was kept."""
        if self._open is not None:
            self._open[1].transport.abort()
            self._open = None

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        for _ in range(PORT_TRIES):
            try:
                return await asyncio.open_connection(
                    self._host,
                    self._port,
                    ssl=self._context,
                    ssl_handshake_timeout=CONNECT_SECONDS if self._context else None,
                    local_addr=(self._source, next(self._ports)),
                )
            except OSError as error:
                if error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
                    raise
        raise OSError(errno.EADDRINUSE, f"{self._source}: no free port in {PORT_TRIES} tries")

    def _head(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._host}:{self._port}"]
        lines += [f"{key}: {value}" for key, value in headers.items()]
        if body:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        if not self._keep:
            lines.append("Connection: close")
        return "\r\n".join([*lines, "", ""]).encode("ascii")


async def _read_reply(reader: asyncio.StreamReader) -> Reply:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    if len(head) > MAX_HEAD_BYTES:
        raise ValueError("a head that does not end")
    first, *lines = head.split("\r\n")
    fields = {}
    for line in lines:
        key, _, value = line.partition(":")
        fields[key.lower()] = value.strip()
    length = int(fields["content-length"]) if "content-length" in fields else 0
    return Reply(
        status=int(first.split(" ")[1]),
        body=await reader.readexactly(length),
        retry_after_seconds=float(fields.get("retry-after", "1")),
    )
