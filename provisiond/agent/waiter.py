"""What stays in memory between check-ins: it waits, and starts what is to be done.

Nothing of TLS, JSON or check-ins is loaded here, so that it takes half of the memory that the
agent may take. All that the agent knows is in files of ``/run/vnfs``: this process, and each that
it starts, may be killed at any moment.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time

RETRY_SECONDS = 5.0
SPREAD_SECONDS = 2.0
"""Nodes check in at the same full minute, so that a parallel job is disturbed once; but spread
over so long, for the server's sake."""
LEAST_SECONDS = 1.0
"""Between two check-ins, however often it is knocked."""
FIRST_EVERY_SECONDS = 60
KNOCK = "VNFS_KNOCK"
KNOCKED = "VNFS_KNOCKED"
WAITER = "VNFS_WAITER"
CHECKIN, WORK, HALT = "checkin", "work", "halt"
MAX_DATAGRAM_BYTES = 64


def next_checkin(now: float, *, every_seconds: int, spread: float) -> float:
    """Return how long to sleep: until the next multiple of *every_seconds*, and *spread*."""
    return every_seconds - now % every_seconds + spread


def next_try(failures: int, pause: float, *, spread: float) -> float:
    """Return how long to sleep after so many *failures* to be heard, at most *pause*."""
    return min(pause, RETRY_SECONDS * 2.0 ** min(failures - 1, 10) + spread)


def parse_told(line: bytes) -> "tuple[int, bool] | None":
    """Return what a check-in told: the interval, and whether there is work. None: nobody heard."""
    words = line.split()
    if len(words) != 2 or not words[0].isdigit() or words[0] == b"0":
        return None
    return int(words[0]), words[1] == b"1"


class Waiter:
    """Starts check-ins at aligned times, work beside them, and the goodbye at the end."""

    def __init__(self, program: "list[str]") -> None:
        """*program*, with a word more, is run for each of them."""
        self._program = program
        self._stop = False
        self._asked = False
        self._worker = 0
        self._missed = False
        self._word = ""
        self._old_word = ""
        self._every_seconds = FIRST_EVERY_SECONDS
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("", 0))
        self._socket.setblocking(False)
        self._signals, writing = os.pipe()
        for end in (self._signals, writing):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGUSR1):
            signal.signal(number, self._take_signal)

    def live(self) -> None:
        """Check in until told to stop, then say goodbye."""
        failures, knocked = 0, False
        while not self._stop:
            busy = self._worker
            told = self._checkin(knocked=knocked)
            failures = 0 if told else failures + 1
            if told:
                self._every_seconds, has_work = told
                if has_work and not self._worker and not self._stop:
                    self._worker, self._missed = self._start(WORK), False
                elif busy:
                    # What it heard may be work that could not be begun beside the other.
                    self._missed = True
                    self._asked = self._asked or not self._worker
            spread = SPREAD_SECONDS * int.from_bytes(os.urandom(2), "big") / 65536
            pause = next_checkin(time.time(), every_seconds=self._every_seconds, spread=spread)
            if failures:
                pause = next_try(failures, pause, spread=spread)
            knocked = self._wait(pause)
        self._finish(self._start(HALT))

    def _checkin(self, *, knocked: bool) -> "tuple[int, bool] | None":
        self._asked = False
        # For one use: who overhears it can do nothing with it once it was used.
        self._old_word, self._word = self._word, os.urandom(16).hex()
        port = self._socket.getsockname()[1]
        reading, writing = os.pipe()
        more = {KNOCK: f"{port} {self._word}", KNOCKED: "1" if knocked else ""}
        child = self._start(CHECKIN, stdout=writing, environment=more)
        os.close(writing)
        status = self._finish(child)
        # What it left running may hold the other end: what is there is all.
        os.set_blocking(reading, False)
        try:
            line = os.read(reading, 64)
        except BlockingIOError:
            line = b""
        os.close(reading)
        return parse_told(line) if status == 0 else None

    def _wait(self, seconds: float) -> bool:
        """Wait so long, or until somebody asks; tell whether it was the server that knocked."""
        begun = time.monotonic()
        poll = select.poll()
        poll.register(self._signals, select.POLLIN)
        poll.register(self._socket, select.POLLIN)
        while not self._stop:
            if self._asked:
                self._pause(begun)
                return False
            left = begun + seconds - time.monotonic()
            if left <= 0:
                return False
            for descriptor, _ in poll.poll(left * 1000):
                if descriptor == self._signals:
                    self._hear_signals()
                    continue
                word = self._hear_word()
                if word == self._word:
                    self._pause(begun)
                    return True
                # One that crossed the last check-in brought nothing new. Anybody else is not
                # listened to any more before the next one.
                if not word or word != self._old_word:
                    poll.unregister(self._socket)
        return False

    def _pause(self, begun: float) -> None:
        time.sleep(max(0.0, min(LEAST_SECONDS, begun + LEAST_SECONDS - time.monotonic())))

    def _hear_word(self) -> str:
        try:
            return self._socket.recv(MAX_DATAGRAM_BYTES).decode("ascii", "replace")
        except OSError:
            return ""

    def _hear_signals(self) -> None:
        os.read(self._signals, 512)
        if not self._worker:
            return
        found, status = os.waitpid(self._worker, os.WNOHANG)
        if found:
            self._worker = 0
            # One that has news asks by itself. One that only waits for the server, or for jobs to
            # end, would otherwise be started again at once, for as long as it waits.
            self._asked = self._asked or self._missed or os.WIFSIGNALED(status)

    def _take_signal(self, number: int, _frame: object) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self._stop = True
        elif number == signal.SIGUSR1:
            self._asked = True

    def _start(
        self,
        word: str,
        *,
        stdout: int = 2,
        environment: "dict[str, str] | None" = None,
    ) -> int:
        """Start the agent's life *word*; return its process."""
        return os.posix_spawn(
            self._program[0],
            [*self._program, word],
            {**os.environ, WAITER: str(os.getpid()), **(environment or {})},
            file_actions=[(os.POSIX_SPAWN_DUP2, stdout, 1)],
            setsigdef=[signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGUSR1],
        )

    def _finish(self, child: int) -> int:
        """Wait for *child*; when this process is to stop meanwhile, a check-in is given up."""
        stopped = self._stop
        while True:
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                return os.waitstatus_to_exitcode(status)
            if self._stop and not stopped:
                stopped = True
                os.kill(child, signal.SIGTERM)
            poll = select.poll()
            poll.register(self._signals, select.POLLIN)
            poll.poll()
            self._hear_signals()


def run() -> None:
    """Live until SIGTERM; each life of the agent is a process of its own."""
    Waiter([sys.executable, "-I", "-S", sys.argv[0]]).live()
