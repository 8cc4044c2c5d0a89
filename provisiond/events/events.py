"""What happened of late: kept in memory for those who watch, and by the database for later.

An event is told at once. It is *kept* when it is in the database: with the change that it tells of,
in one transaction, or a moment later. Programs that are run for events wait for that, so that an id
means the same event for ever.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections import Counter, deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from provisiond.protocol import clean

logger = logging.getLogger(__name__)

KEPT = 10_000
GAP = 1000
"""Ids go on after a restart, with a gap: those that a crash lost are not used again."""
MAX_TEXT_CHARACTERS = 2000


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something that changed."""

    id: int
    time: float
    kind: str
    """``node.new``, ``node.state``, …: docs/events.md lists them."""
    node: str | None
    """The name of the node that it is about."""
    text: str
    """One line, with nothing in it that drives a terminal."""
    state: str | None = None
    condition: str | None = None
    """Of ``node.condition``: which."""
    ended: bool = False
    """Whether the condition is over, and not begun."""

    def value(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return dataclasses.asdict(self)


def parse_event(value: dict[str, Any]) -> Event:
    """Return the event that :meth:`Event.value` was; what a later version added is left out."""
    known = {field.name for field in dataclasses.fields(Event)}
    return Event(**{key: item for key, item in value.items() if key in known})


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Which events somebody asks for."""

    since: int = 0
    """After the one with this id."""
    after: float = 0.0
    """After this time, seconds since 1970."""
    kinds: Collection[str] = ()
    """Of these kinds; none: of any."""
    nodes: Collection[str] | None = None
    """About these nodes; None: about any, and about none."""

    def means(self, event: Event) -> bool:
        """Tell whether *event* is asked for, its id aside."""
        return (
            event.time >= self.after
            and (not self.kinds or event.kind in self.kinds)
            and (self.nodes is None or event.node in self.nodes)
        )


class EventLog:
    """The last events. All of it belongs to one event loop."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=KEPT)
        self._last = 0
        self._unkept: list[Event] = []
        self._kept = 0
        self._forgotten = 0
        self._minute = 0
        self._counts: Counter[tuple[str, str | None]] = Counter()
        self._changed = asyncio.Event()
        self.unkept_came = asyncio.Event()
        """Set while there are events that the database has not."""

    @property
    def last(self) -> int:
        """The id of the last event; 0 when there was none."""
        return self._last

    @property
    def kept(self) -> int:
        """The id of the last event that is in the database, and with it all before."""
        return self._kept

    @property
    def forgotten(self) -> int:
        """The id of the last event that is not known any more; 0 when all are."""
        return self._forgotten

    @property
    def first(self) -> int:
        """The id of the oldest event that is still known; 0 when there is none."""
        return self._events[0].id if self._events else 0

    def restore(self, events: Iterable[Event]) -> None:
        """Begin with *events*, which the database has, oldest first."""
        self._events.extendleft(reversed(list(events)))
        if len(self._events) == KEPT:
            self._forgotten = self._events[0].id - 1
        if self._events and not self._last:
            self._last = (self._events[-1].id // GAP + 1) * GAP
            self._kept = self._last

    def add(
        self,
        kind: str,
        text: str,
        *,
        now: float,
        node: str | None = None,
        state: str | None = None,
        condition: str | None = None,
        ended: bool = False,
        most_a_minute: int = 0,
    ) -> None:
        """Record an event, log it, and wake who waits for one.

        With *most_a_minute* no more than so many of this kind about this node: what others than
        administrators cause must not drive out what else happened.
        """
        if most_a_minute:
            count = self._count(kind, node, now=now)
            if count > most_a_minute:
                return
            if count == most_a_minute:
                text += " (and no more of it is told in this minute)"
        self._last += 1
        line = clean(" ".join(text.split()), limit=MAX_TEXT_CHARACTERS)
        event = Event(
            id=self._last, time=now, kind=kind, node=node, text=line, state=state,
            condition=condition, ended=ended,
        )  # fmt: skip
        if len(self._events) == KEPT:
            self._forgotten = self._events[0].id
        self._events.append(event)
        self._unkept.append(event)
        self.unkept_came.set()
        logger.info("%s%s: %s", kind, f" {node}" if node else "", line)
        self._wake()

    def _count(self, kind: str, node: str | None, *, now: float) -> int:
        """Return how many events of *kind* about *node* came in this minute, with this one."""
        if int(now // 60) != self._minute:
            self._minute = int(now // 60)
            self._counts.clear()
        self._counts[kind, node] += 1
        return self._counts[kind, node]

    def take_unkept(self) -> tuple[Event, ...]:
        """Return what the database has not yet, to be written; then say :meth:`keep`, or put it
        back.
        """
        taken, self._unkept = tuple(self._unkept), []
        self.unkept_came.clear()
        return taken

    def keep(self, events: tuple[Event, ...]) -> None:
        """Take note that *events* are in the database."""
        if events:
            self._kept = max(self._kept, events[-1].id)
            self._wake()

    def put_back(self, events: tuple[Event, ...]) -> None:
        """Take back what could not be written."""
        self._unkept[:0] = events
        if self._unkept:
            self.unkept_came.set()

    def since(self, last: int) -> tuple[Event, ...]:
        """Return the events after the one with id *last*; all, if there was none so high."""
        return self.find(Wanted(since=last))

    def find(self, wanted: Wanted) -> tuple[Event, ...]:
        """Return the events that are *wanted*."""
        since = wanted.since if wanted.since <= self._last else 0
        found: deque[Event] = deque()
        # From the end: mostly the last few are asked for.
        for event in reversed(self._events):
            if event.id <= since:
                break
            if wanted.means(event):
                found.appendleft(event)
        return tuple(found)

    async def wait(self, wanted: Wanted, *, wait_seconds: float) -> tuple[Event, ...]:
        """Return the events that are *wanted*, at once or when the first comes."""
        try:
            async with asyncio.timeout(wait_seconds):
                while not (found := self.find(wanted)):
                    # What was looked at need not be looked at again with each event that comes.
                    wanted = dataclasses.replace(wanted, since=self._last)
                    await self.changed()
                return found
        except TimeoutError:
            return ()

    async def changed(self) -> None:
        """Return when an event came, or was kept."""
        await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
