"""How long each stage took: told while it runs, kept for ``--timings``."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping

logger = logging.getLogger(__name__)


class Timings:
    """Seconds by stage, in the order in which the stages ended."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block as the stage *name*; a stage that is entered again adds up."""
        started = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - started
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds
            logger.info("%-14s %6.1f s", name, seconds)

    def add(self, seconds: Mapping[str, float]) -> None:
        """Take in the stages that another process timed, and told."""
        for name, more in seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + more

    @property
    def total(self) -> float:
        """Return the seconds of all stages."""
        return sum(self.seconds.values())
