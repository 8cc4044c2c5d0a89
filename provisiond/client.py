"""The administrator's side of the Unix socket: blocking calls, errors as the daemon told them."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from vnfsbuild.digest import READ_SIZE_BYTES
from vnfsbuild.errors import InputError, VerificationError, VnfsbuildError

DEFAULT_SOCKET = Path("/run/provisiond/provisiond.sock")
TIMEOUT_SECONDS = 600
POLL_SECONDS = 0.1

_ERRORS: dict[int, type[VnfsbuildError]] = {2: InputError, 3: VerificationError}
"""Exit status that the daemon gives an error → its class."""


class Client:
    """Talks to the daemon that listens on *socket_path*; each call is a connection of its own."""

    def __init__(self, socket_path: Path) -> None:
        self._socket_path = socket_path

    def get(self, path: str) -> Any:
        """Return the JSON value at *path*.

        Raises:
            VnfsbuildError: what the daemon told, with its exit status; or that it is not there.
        """
        return self._request("GET", path)

    def post(self, path: str, value: Any) -> Any:
        """Send the JSON *value* to *path* and return the answer.

        Raises:
            VnfsbuildError: as :meth:`get`.
        """
        return self._request("POST", path, body=json.dumps(value).encode("utf-8"))

    def upload(self, path: str, stream: BinaryIO, size_bytes: int) -> Any:
        """Send the *size_bytes* bytes of *stream* to *path* and return the answer.

        Raises:
            VnfsbuildError: as :meth:`get`.
        """
        chunks = iter(lambda: stream.read(READ_SIZE_BYTES), b"")
        return self._request("POST", path, body=chunks, size_bytes=size_bytes)

    def events(self, since: int = 0, *, wait_seconds: int = 25) -> Iterator[dict[str, Any]]:
        """Yield what happens after the event *since*, for ever.

        Raises:
            VnfsbuildError: as :meth:`get`.
        """
        while True:
            answer = self.get(f"/v1/events?since={since}&wait={wait_seconds}")
            since = answer["last"]
            yield from answer["events"]

    def wait_until_up(self, timeout_seconds: float) -> None:
        """Return when the daemon answers.

        Raises:
            VnfsbuildError: it does not within the time.
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            try:
                self.get("/v1/status")
                return
            except VnfsbuildError:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(POLL_SECONDS)

    def _request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | Iterator[bytes] | None = None,
        size_bytes: int | None = None,
    ) -> Any:
        headers = {"Content-Type": "application/json"}
        if size_bytes is not None:
            headers = {
                "Content-Type": "application/octet-stream",
                "Content-Length": str(size_bytes),
            }
        connection = _UnixConnection(self._socket_path)
        try:
            answered = _send(connection, method, path, body, headers)
            data = answered.read()
        except (OSError, http.client.HTTPException) as error:
            raise VnfsbuildError(
                f"{self._socket_path}: provisiond does not answer: {_told(error)}",
                hint="provisiond serve starts it; --socket says where it listens",
            ) from error
        finally:
            connection.close()
        return _value(answered.status, data, where=f"{self._socket_path}: {path}")


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _send(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes | Iterator[bytes] | None,
    headers: dict[str, str],
) -> http.client.HTTPResponse:
    # The daemon may have refused before it read all, and then has said why.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.request(method, path, body=body, headers=headers)
    return connection.getresponse()


def _value(status: int, data: bytes, *, where: str) -> Any:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise VnfsbuildError(f"{where}: found no JSON in the answer ({status})") from error
    if status == http.HTTPStatus.OK:
        return value
    kind = _ERRORS.get(value.get("exitStatus"), VnfsbuildError)
    raise kind(value.get("error", f"{where}: status {status}"), hint=value.get("hint"))


def _told(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or repr(error)
