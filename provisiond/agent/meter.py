"""How little memory was free at the worst moment: watched while a capsule is fetched and loaded.

What the model of memory.py says beforehand can be compared with it.
"""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import Dict, Optional, Type

from provisiond.agent.machine import PROC, read_memory

EVERY_SECONDS = 0.05
FIGURE = "MemAvailable"


class Meter:
    """Watches for as long as the ``with`` block lasts."""

    def __init__(self, *, proc: Path = PROC, every_seconds: float = EVERY_SECONDS) -> None:
        self._proc = proc
        self._every = every_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="meter", daemon=True)
        self.first_kib = self.least_kib = self._read()

    def __enter__(self) -> "Meter":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def peak_kib(self) -> int:
        """How much more than at the start was in use at the worst moment."""
        self._note()
        return max(self.first_kib - self.least_kib, 0)

    def line(self) -> str:
        """Return what was seen, in words."""
        self._note()
        return (
            f"memory: {self.first_kib >> 10} MiB were free, {self.least_kib >> 10} MiB at worst: "
            f"{self.peak_kib >> 10} MiB were taken"
        )

    def report(self) -> Dict[str, int]:
        """Return the figures that travel with check-ins."""
        return {"memoryPeakKib": self.peak_kib, "memoryLeastKib": self.least_kib}

    def _watch(self) -> None:
        while not self._stop.wait(self._every):
            self._note()

    def _note(self) -> None:
        self.least_kib = min(self.least_kib, self._read())

    def _read(self) -> int:
        return read_memory(proc=self._proc).get(FIGURE, 0)
