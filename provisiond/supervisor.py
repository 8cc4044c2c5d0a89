"""The parent process: starts the server and dnsmasq, watches both, ends both.

It stays root, and small: it reads nothing from the network. The server may be another user, and
can ask of it one thing, that dnsmasq read its hosts anew. When the parent dies, the kernel ends
the others.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence

from provisiond.prepare import Owner
from vnfsbuild.errors import VnfsbuildError
from vnfsbuild.tools import base_environment, find_program

logger = logging.getLogger(__name__)

READY = b"ready"
READ_HOSTS = b"hosts"

FIRST_BACKOFF_SECONDS = 1.0
MOST_BACKOFF_SECONDS = 30.0
STEADY_SECONDS = 60.0
"""dnsmasq that ran for so long is started again at once."""
STOP_SECONDS = 5.0

_PR_SET_PDEATHSIG = 1


class Supervisor:
    """Runs *serve* in a child process, and dnsmasq beside it when there is an argv for it."""

    def __init__(
        self,
        serve: Callable[[socket.socket], int],
        *,
        owner: Owner | None,
        groups: Sequence[int],
        dnsmasq_argv: Sequence[str] | None,
    ) -> None:
        self._serve = serve
        self._owner = owner
        self._groups = list(groups)
        self._dnsmasq_argv = dnsmasq_argv
        self._dnsmasq: subprocess.Popen[bytes] | None = None
        self._dnsmasq_started = 0.0
        self._start_dnsmasq_at: float | None = None
        self._backoff_seconds = FIRST_BACKOFF_SECONDS
        self._server_pid = 0
        self._server_status: int | None = None
        self._stopping = False
        self._unread = b""

    def run(self) -> int:
        """Run both until SIGTERM or SIGINT, or until the server ends; return its exit status.

        Raises:
            VnfsbuildError: dnsmasq is not installed.
        """
        if self._dnsmasq_argv is not None:
            find_program("dnsmasq")
            find_program("setpriv")
        ours, theirs = socket.socketpair()
        wake, woken = socket.socketpair()
        for end in (ours, wake, woken):
            end.setblocking(False)
        self._server_pid = self._fork(theirs, close=(ours, wake, woken))
        theirs.close()
        self._channel = ours
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
        try:
            self._watch(ours, wake)
        finally:
            signal.set_wakeup_fd(-1)
            self._end_all()
        return self._server_status or 0

    def _fork(self, channel: socket.socket, *, close: Sequence[socket.socket]) -> int:
        parent = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        status = 1
        try:
            for end in close:
                end.close()
            if self._owner is not None:
                os.setgroups([self._owner.gid, *self._groups])
                os.setgid(self._owner.gid)
                os.setuid(self._owner.uid)
            # After that: a change of user makes the kernel forget it.
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
            if os.getppid() == parent:
                status = self._serve(channel)
        except BaseException:
            logger.exception("the server ended by a bug, please report it")
        finally:
            logging.shutdown()
            os._exit(status)

    def _watch(self, channel: socket.socket, wake: socket.socket) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(channel, selectors.EVENT_READ)
            selector.register(wake, selectors.EVENT_READ)
            while not self._stopping and self._server_status is None:
                ready = {key.fileobj for key, _ in selector.select(self._patience())}
                if wake in ready:
                    wake.recv(4096)
                if channel in ready and not self._read_channel():
                    selector.unregister(channel)
                self._reap()
                due = self._start_dnsmasq_at
                if due is not None and time.monotonic() >= due:
                    self._start_dnsmasq()

    def _patience(self) -> float | None:
        if self._start_dnsmasq_at is None:
            return None
        return max(0.0, self._start_dnsmasq_at - time.monotonic())

    def _read_channel(self) -> bool:
        """Do what the server asks for; tell whether it can ask for more."""
        data = self._channel.recv(4096)
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            if line == READY and self._dnsmasq_argv is not None and self._dnsmasq is None:
                self._start_dnsmasq_at = time.monotonic()
            elif line == READ_HOSTS and self._dnsmasq is not None:
                self._dnsmasq.send_signal(signal.SIGHUP)
        return bool(data)

    def _reap(self) -> None:
        if self._server_status is None:
            pid, status = os.waitpid(self._server_pid, os.WNOHANG)
            if pid:
                self._server_status = os.waitstatus_to_exitcode(status)
                if not self._stopping:
                    logger.error("the server ended: %s", _told(self._server_status))
                    self._server_status = self._server_status or 1
        if self._dnsmasq is not None and self._dnsmasq.poll() is not None:
            self._dnsmasq_died(self._dnsmasq.returncode)

    def _start_dnsmasq(self) -> None:
        assert self._dnsmasq_argv is not None
        self._start_dnsmasq_at = None
        self._dnsmasq = subprocess.Popen(
            self._dnsmasq_argv, stdin=subprocess.DEVNULL, env=base_environment()
        )
        self._dnsmasq_started = time.monotonic()
        self._tell("dnsmasq.started", f"dnsmasq runs as process {self._dnsmasq.pid}")

    def _dnsmasq_died(self, status: int) -> None:
        self._dnsmasq = None
        if time.monotonic() - self._dnsmasq_started > STEADY_SECONDS:
            self._backoff_seconds = FIRST_BACKOFF_SECONDS
        seconds = self._backoff_seconds
        self._backoff_seconds = min(2 * seconds, MOST_BACKOFF_SECONDS)
        self._start_dnsmasq_at = time.monotonic() + seconds
        told = f"dnsmasq ended: {_told(status)}; it is started again in {seconds:.0f} s"
        logger.error("%s", told)
        self._tell("dnsmasq.died", told)

    def _tell(self, kind: str, text: str) -> None:
        """Pass an event to the server; one that does not read misses it."""
        line = json.dumps({"kind": kind, "text": text}).encode() + b"\n"
        try:
            self._channel.send(line)
        except OSError as error:
            logger.warning("the server was not told of %s: %s", kind, error)

    def _stop(self, _number: int, _frame: object) -> None:
        self._stopping = True

    def _end_all(self) -> None:
        """End both, by force when they take too long."""
        self._stopping = True
        if self._dnsmasq is not None:
            self._dnsmasq.terminate()
        if self._server_status is None:
            os.kill(self._server_pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while self._any_left() and time.monotonic() < deadline:
            time.sleep(0.02)
        if self._dnsmasq is not None and self._dnsmasq.poll() is None:
            self._dnsmasq.kill()
            self._dnsmasq.wait()
        if self._server_status is None:
            os.kill(self._server_pid, signal.SIGKILL)
            os.waitpid(self._server_pid, 0)
            self._server_status = 1

    def _any_left(self) -> bool:
        if self._server_status is None:
            pid, status = os.waitpid(self._server_pid, os.WNOHANG)
            if pid:
                self._server_status = os.waitstatus_to_exitcode(status)
        dnsmasq_left = self._dnsmasq is not None and self._dnsmasq.poll() is None
        return dnsmasq_left or self._server_status is None


def _told(status: int) -> str:
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return f"exit status {status}"


def verify_root_for_dnsmasq() -> None:
    """Refuse to go on as an ordinary user, who cannot run dnsmasq.

    Raises:
        VnfsbuildError: we are not root.
    """
    if os.geteuid() != 0:
        raise VnfsbuildError(
            "serve: found an ordinary user, expected root, as dnsmasq needs it",
            hint="sudo provisiond serve; or provisiond.toml: network.dnsmasq = false",
        )
