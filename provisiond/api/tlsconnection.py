"""asyncio's TLS with less memory for each connection: ten thousand nodes wait at a time.

Of what asyncio keeps for a connection two things are many kilobytes: a buffer to read into, and a
dictionary for more attributes than Python can share the keys of.
"""

from __future__ import annotations

import asyncio
import ssl
from asyncio import sslproto
from collections.abc import Callable

READ_BYTES = 16 * 1024
"""As much as a TLS record holds."""

_buffer = bytearray(READ_BYTES)
_view = memoryview(_buffer)


class TlsConnection(sslproto.SSLProtocol):
    """A connection of a node, encrypted.

    All read into the same buffer: the event loop fills it and has it emptied in one go, before it
    turns to the next connection.
    """

    # All that asyncio keeps, as of Python 3.11 to 3.13; what another version has besides goes to
    # the dictionary that its class gives us anyway.
    __slots__ = (
        "_app_protocol", "_app_protocol_buffer_updated", "_app_protocol_get_buffer",
        "_app_protocol_is_buffer", "_app_reading_paused", "_app_state", "_app_transport",
        "_app_transport_created", "_app_writing_paused", "_conn_lost", "_eof_received", "_extra",
        "_incoming", "_incoming_high_water", "_incoming_low_water", "_loop", "_outgoing",
        "_outgoing_high_water", "_outgoing_low_water", "_server_hostname", "_server_side",
        "_ssl_buffer", "_ssl_buffer_view", "_ssl_handshake_timeout", "_ssl_reading_paused",
        "_ssl_shutdown_timeout", "_ssl_writing_paused", "_sslcontext", "_sslobj", "_state",
        "_transport", "_waiter", "_write_backlog", "_write_buffer_size",
    )  # fmt: skip

    max_size = READ_BYTES

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        protocol: asyncio.BaseProtocol,
        context: ssl.SSLContext,
        *,
        handshake_seconds: int,
    ) -> None:
        """Serve *protocol* once the handshake is done, which may take *handshake_seconds*."""
        super().__init__(
            loop,
            protocol,
            context,
            None,  # type: ignore[arg-type]  # nobody waits for the end of the handshake
            server_side=True,
            ssl_handshake_timeout=handshake_seconds,
        )
        self._ssl_buffer = _buffer
        self._ssl_buffer_view = _view
        # It holds the pieces of an answer for a moment; an empty deque takes 700 bytes for ever.
        self._write_backlog = []  # type: ignore[assignment]


def encrypted(
    protocol: Callable[[], asyncio.BaseProtocol], context: ssl.SSLContext, handshake_seconds: int
) -> Callable[[], TlsConnection]:
    """Return what makes connections of *protocol* that are encrypted."""

    def make() -> TlsConnection:
        loop = asyncio.get_running_loop()
        return TlsConnection(loop, protocol(), context, handshake_seconds=handshake_seconds)

    return make
