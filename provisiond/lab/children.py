"""Programs that run as long as the laboratory does, and end with it, whatever ends it."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from vnfsbuild.errors import VnfsbuildError
from vnfsbuild.tools import base_environment, find_program

logger = logging.getLogger(__name__)

STOP_SECONDS = 10


class Child:
    """A program that was started; it leads a session, so that its own children end with it."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.log = log
        self._process = process

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def ending(self) -> str:
        """Return how it ended, in words."""
        status = self._process.poll()
        if status is None:
            return "runs"
        return f"killed by {signal.Signals(-status).name}" if status < 0 else f"status {status}"

    def last_lines(self, count: int = 20) -> str:
        """Return the last lines that it wrote."""
        return last_lines(self.log, count)

    def ask_to_stop(self) -> None:
        """Tell it to end."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def stop(self, deadline: float) -> None:
        """Wait until it has ended; after *deadline* (monotonic) it and its children are killed."""
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            logger.warning("%s: does not stop, is killed", self.name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class Children:
    """All programs of a laboratory."""

    def __init__(self) -> None:
        self._children: list[Child] = []

    def start(
        self, name: str, argv: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None
    ) -> Child:
        """Start *argv*; what it writes goes to *log*."""
        # The kernel tells it when we are gone, even when we had no chance to.
        words = [str(find_program("setpriv")), "--pdeathsig", "TERM", "--", *argv]
        logger.debug("%s", shlex.join(words))
        with log.open("ab") as sink:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=base_environment(env),
                start_new_session=True,
            )
        child = Child(name, process, log)
        self._children.append(child)
        return child

    def stop(self, *children: Child) -> None:
        """End *children*, or all when none is named; returns when they are gone."""
        ending = list(children) or self._children[::-1]
        for child in ending:
            child.ask_to_stop()
        deadline = time.monotonic() + STOP_SECONDS
        for child in ending:
            child.stop(deadline)
        self._children = [child for child in self._children if child not in ending]

    @contextlib.contextmanager
    def holder(self, argv: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
        """Run *argv*, which copies its input to its output, while the block runs.

        When the block begins it has answered once, so that what it does before is done.

        Raises:
            VnfsbuildError: it ended instead of answering.
        """
        with subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=base_environment(),
            start_new_session=True,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            try:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(b"\n")
                if process.stdout.readline() != b"\n":
                    told = process.stderr.read().decode("utf-8", "replace").strip()
                    raise VnfsbuildError(f"{argv[0]}: {told or 'ended at once'}")
                yield process
            finally:
                process.kill()


def last_lines(path: Path, count: int = 20) -> str:
    """Return the last lines of a log as they may be shown: without control characters."""
    try:
        data = path.read_bytes()[-16384:]
    except FileNotFoundError:
        return ""
    lines = [
        "".join(c for c in line if c.isprintable())
        for line in data.decode("utf-8", "replace").replace("\r", "\n").split("\n")
    ]
    return "\n".join([line for line in lines if line.strip()][-count:])
