"""Connections on which no request ever comes: closed, so that they cannot pile up.

aiohttp bounds the time between requests, and the handlers that of a body; what it does not bound
is the time until the first request has been read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from aiohttp import web

FIRST_REQUEST_SECONDS = 15.0
LOOK_SECONDS = 5.0

RequestT = TypeVar("RequestT", bound=web.BaseRequest)
Handler = Callable[[RequestT], Awaitable[web.StreamResponse]]


class SlowClients:
    """Knows which connections have brought a request."""

    def __init__(self) -> None:
        # The connections themselves, not their ids: those are used again once one is gone.
        self._served: set[Any] = set()
        self._first_seen: dict[Any, float] = {}

    def watch(self, app: web.Application) -> None:
        """Take note of each connection on which a request of *app* comes."""

        # No coroutines of their own, here and below: there would be one for each that waits.
        @web.middleware
        def note(
            request: web.Request, handler: Handler[web.Request]
        ) -> Awaitable[web.StreamResponse]:
            self._served.add(request.protocol)
            return handler(request)

        app.middlewares.append(note)

    def noting(self, handler: Handler[RequestT]) -> Handler[RequestT]:
        """Return *handler*, which from now on takes note of the connections of its requests."""

        def noted(request: RequestT) -> Awaitable[web.StreamResponse]:
            self._served.add(request.protocol)
            return handler(request)

        return noted

    async def close_them(self, server: web.Server) -> None:
        """Close slow connections of *server*, for ever."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self._close(server, now=time.monotonic())

    def _close(self, server: web.Server, *, now: float) -> None:
        open_now = set(server.connections)
        self._served &= open_now
        self._first_seen = {
            connection: self._first_seen.get(connection, now)
            for connection in open_now - self._served
        }
        for connection, since in self._first_seen.items():
            if now - since > FIRST_REQUEST_SECONDS and connection.transport is not None:
                connection.transport.abort()
