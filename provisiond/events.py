"""What happened of late, kept in memory, for those who watch."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass

logger = logging.getLogger(__name__)

KEPT = 2000


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something that changed."""

    id: int
    time: float
    kind: str
    """``node.new``, ``node.state``, …: docs/checkin-protocol.md lists them."""
    node: str | None
    """The name of the node that it is about."""
    text: str
    state: str | None = None


class EventLog:
    """The last events. All of it belongs to one event loop."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=KEPT)
        self._last = 0
        self._arrived = asyncio.Event()

    @property
    def last(self) -> int:
        """The id of the last event; 0 when there was none."""
        return self._last

    def add(
        self, kind: str, text: str, *, now: float, node: str | None = None, state: str | None = None
    ) -> None:
        """Record an event, log it, and wake who waits for one."""
        self._last += 1
        self._events.append(
            Event(id=self._last, time=now, kind=kind, node=node, text=text, state=state)
        )
        logger.info("%s%s: %s", kind, f" {node}" if node else "", text)
        self._arrived.set()
        self._arrived = asyncio.Event()

    def since(self, last: int) -> tuple[Event, ...]:
        """Return the events after the one with id *last*.

        An id from before a restart of the daemon may be higher than any: then all are new.
        """
        return tuple(event for event in self._events if event.id > last or last > self._last)

    async def wait(self, last: int, *, wait_seconds: float) -> tuple[Event, ...]:
        """Return the events after *last*, at once or when the first comes; none after the time."""
        found = self.since(last)
        if not found and wait_seconds > 0:
            try:
                async with asyncio.timeout(wait_seconds):
                    await self._arrived.wait()
            except TimeoutError:
                return ()
            found = self.since(last)
        return found
