"""Datagrams to nodes: sent if they can be, and never waited for."""

from __future__ import annotations

import contextlib
import socket


class Datagrams:
    """Sends from the address that nodes know the server by."""

    def __init__(self, address: str) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        # An address that is not there yet is no reason not to start.
        with contextlib.suppress(OSError):
            self._socket.bind((address, 0))

    def send(self, address: str, port: int, data: bytes) -> None:
        """Send *data*; what cannot be sent is lost, as it may be on the way."""
        with contextlib.suppress(OSError):
            self._socket.sendto(data, (address, port))
