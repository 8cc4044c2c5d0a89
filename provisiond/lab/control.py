"""Telling QEMU what to do while it runs: by QMP, its protocol of JSON lines."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vnfsbuild.errors import VnfsbuildError

START_SECONDS = 30.0
PAUSE_SECONDS = 0.05


def start(path: Path, *, without_link: tuple[str, ...], is_running: Callable[[], bool]) -> None:
    """Let the machine at the socket *path*, which stands still, begin; cards *without_link* have
    no cable.

    Raises:
        VnfsbuildError: QEMU ended, or does not answer.
    """
    commands = [set_link(card, up=False) for card in without_link]
    execute(path, *commands, {"execute": "cont"}, is_running=is_running)


def set_link(card: str, *, up: bool) -> dict[str, Any]:
    """Return the command that plugs or pulls the cable of *card*."""
    return {"execute": "set_link", "arguments": {"name": card, "up": up}}


def execute(
    path: Path, *commands: Mapping[str, Any], is_running: Callable[[], bool] = lambda: True
) -> None:
    """Let QEMU at the socket *path* do *commands*, one after another.

    Raises:
        VnfsbuildError: it refuses one, or does not answer.
    """
    with _connect(path, is_running) as sock, sock.makefile("rwb", buffering=0) as stream:
        try:
            _read_line(stream)
            for command in ({"execute": "qmp_capabilities"}, *commands):
                stream.write(json.dumps(command).encode() + b"\n")
                answer = _read_line(stream)
                while "event" in answer:
                    answer = _read_line(stream)
                if "error" in answer:
                    raise VnfsbuildError(f"QEMU: {command['execute']}: {answer['error']['desc']}")
        except (OSError, ValueError) as error:
            raise VnfsbuildError(f"{path}: QEMU does not answer: {error}") from error


def _connect(path: Path, is_running: Callable[[], bool]) -> socket.socket:
    deadline = time.monotonic() + START_SECONDS
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(START_SECONDS)
        try:
            sock.connect(str(path))
            return sock
        except OSError as error:
            sock.close()
            if not is_running() or time.monotonic() > deadline:
                raise VnfsbuildError(f"{path}: QEMU does not answer: {error}") from error
        time.sleep(PAUSE_SECONDS)


def _read_line(stream: socket.SocketIO) -> dict[str, Any]:
    line = stream.readline()
    if not line:
        raise ValueError("it has hung up")
    value: dict[str, Any] = json.loads(line)
    return value
