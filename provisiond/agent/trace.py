"""What was told and done in this boot, kept in memory: ``rescue`` shows it, the capsule gets it.

The inits write into the same file. Lines of a trace are always kept, and shown on the consoles only
of a node that is set to ``debug``.
"""

from __future__ import annotations

import os
from pathlib import Path

from provisiond.agent.console import Tell
from provisiond.wire import MAX_DETAIL_CHARACTERS, clean

NAME = "log"
MOST_BYTES = 256 * 1024
KEPT_BYTES = 128 * 1024
"""What is left of a log that became too long: its end."""

UPTIME = Path("/proc/uptime")


class Log:
    """The log file; *tell* is where people read lines."""

    def __init__(self, path: Path, *, tell: Tell) -> None:
        self._path = path
        self._tell = tell
        self.debug = False

    def tell(self, line: str) -> None:
        """Tell people *line*, and keep it."""
        self._keep(line)
        self._tell(line)

    def trace(self, line: str) -> None:
        """Keep *line*; tell it when this node is set to debug."""
        line = f"debug: {line}"
        self._keep(line)
        if self.debug:
            self._tell(line)

    def read(self) -> str:
        """Return all that is kept."""
        try:
            return self._path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def tail(self, limit: int = MAX_DETAIL_CHARACTERS) -> str:
        """Return the last whole lines, as many as make *limit* characters."""
        text = self.read()
        if len(text) <= limit:
            return text
        return text[-limit:].partition("\n")[2]

    def _keep(self, line: str) -> None:
        data = f"{_uptime()} {clean(line, limit=MAX_DETAIL_CHARACTERS)}\n".encode()
        try:
            # Appended in one write: the inits' lines are not torn.
            with self._path.open("ab", buffering=0) as file:
                file.write(data)
                size_bytes = os.fstat(file.fileno()).st_size
            if size_bytes > MOST_BYTES:
                self._path.write_bytes(self._path.read_bytes()[-KEPT_BYTES:].partition(b"\n")[2])
        except OSError:
            # No memory for a log is no reason not to boot.
            return


def _uptime() -> str:
    try:
        return UPTIME.read_text(encoding="ascii").split()[0]
    except (OSError, IndexError):
        return "?"
