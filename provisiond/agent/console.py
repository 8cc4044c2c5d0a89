"""Plain lines for people: on every console of the node, or in the journal of the capsule."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Callable, Optional

from provisiond.protocol import clean

ACTIVE = Path("/sys/class/tty/console/active")

Tell = Callable[[str], None]


def tell_consoles(line: str) -> None:
    """Write *line* on each console that the kernel uses: screen and serial ports."""
    try:
        names = ACTIVE.read_text(encoding="ascii").split()
    except OSError:
        names = []
    for name in names or ["console"]:
        # Not blocking: nobody may be reading the other end of a serial line.
        flags = os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK
        try:
            descriptor = os.open(f"/dev/{name}", flags)
        except OSError:
            continue
        try:
            os.write(descriptor, f"vnfs: {clean(line, limit=2000)}\n".encode())
        except OSError:
            pass
        finally:
            os.close(descriptor)


def tell_journal(line: str) -> None:
    """Write *line* to standard error, which systemd gives to the journal."""
    sys.stderr.write(clean(line, limit=2000) + "\n")
    sys.stderr.flush()


class Progress:
    """Tells how far a download is: at most a line every few seconds."""

    def __init__(
        self,
        label: str,
        total_bytes: int,
        tell: Tell,
        *,
        every_seconds: float = 3.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._label = label
        self._total = total_bytes
        self._tell = tell
        self._every = every_seconds
        self._now = now
        self._started = self._told = now()
        self._got = 0

    def advance(self, count: int) -> None:
        """Note that *count* more bytes are there; negative when some are thrown away."""
        self._got += count
        if self._now() - self._told >= self._every:
            self._told = self._now()
            self._tell(self.line())

    def line(self) -> str:
        """Return how far it is, in words."""
        percent = 100 * self._got // self._total if self._total else 100
        seconds = max(self._now() - self._started, 0.001)
        return (
            f"{self._label}: {percent} % of {self._total / 1e6:.1f} MB, "
            f"{self._got / 1e6 / seconds:.1f} MB/s"
        )


def describe(error: BaseException, hint: Optional[str] = None) -> str:
    """Return *error* and *hint* as one line."""
    text = str(error) or type(error).__name__
    return f"{text} ({hint})" if hint else text
