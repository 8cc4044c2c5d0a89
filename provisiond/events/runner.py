"""Runs a site's programs for what happened: each event once, in order, for each program.

A program's place among the events is in the database. It is written before the program is started
(*begun*) and after it ended. So a daemon that is killed goes on where it was, and the one event
that a program had begun is told again, marked as ``repeated``: at most one for each program.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provisiond.events.events import Event, EventLog, Wanted
from provisiond.events.hooks import Hooks, find_hooks, kind_of, run_hook
from provisiond.nodes.registry import Registry
from vnfsbuild.digest import render_json
from vnfsbuild.errors import VnfsbuildError

logger = logging.getLogger(__name__)

AT_ONCE = 4
"""So many programs run at the same time."""
LOOK_SECONDS = 2.0
RETRY_SECONDS = 2.0
NOTE = "hooks"
FAILED = "hook.failed"


@dataclass(kw_only=True, slots=True)
class _Place:
    """How far a program has come."""

    event_id: int
    """The last event that it was run for, or is."""
    begun: bool = False
    """Whether it had not ended when this was written."""
    runs: int = 0
    failures: int = 0
    last_fault: str = ""


class HookRunner:
    """Follows the events, with a task for each program."""

    def __init__(
        self,
        directory: Path | None,
        *,
        timeout_seconds: int,
        registry: Registry,
        events: EventLog,
        clock: Callable[[], float],
    ) -> None:
        self._directory = directory
        self._timeout_seconds = timeout_seconds
        self._registry = registry
        self._events = events
        self._hooks = Hooks(programs={}, faults={})
        self._places: dict[str, _Place] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._clock = clock
        stored = registry.load_note(NOTE) or {}
        self._stored = {
            key: _Place(event_id=item["id"], begun=item["begun"]) for key, item in stored.items()
        }

    def status(self) -> list[dict[str, Any]]:
        """Return how each program does, and what is in the directory and is not run."""
        rows: list[dict[str, Any]] = [
            {
                "hook": key,
                "runs": place.runs,
                "failures": place.failures,
                "lastFault": place.last_fault,
                "behind": len(self._events.find(self._wanted(key, place))),
            }
            for key, place in sorted(self._places.items())
        ]
        return rows + [
            {"hook": path, "runs": 0, "failures": 0, "lastFault": f"not run: {why}", "behind": 0}
            for path, why in sorted(self._hooks.faults.items())
        ]

    async def run(self) -> None:
        """Do it for ever: look for programs that come and go, and let each follow the events."""
        tasks: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                self._look(await asyncio.to_thread(find_hooks, self._directory))
                for key in set(tasks) - set(self._hooks.programs):
                    tasks.pop(key).cancel()
                    self._places.pop(key)
                for key in set(self._hooks.programs) - set(tasks):
                    # A program that is new begins now: what was is not told again.
                    stored = self._stored.pop(key, None)
                    self._places[key] = stored or _Place(event_id=self._events.last)
                    tasks[key] = asyncio.create_task(self._follow(key))
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
            await self._save()

    def _look(self, found: Hooks) -> None:
        for path, why in found.faults.items():
            if self._hooks.faults.get(path) != why:
                self._tell(f"{path}: not run: {why}")
        self._hooks = found

    def _wanted(self, key: str, place: _Place) -> Wanted:
        return Wanted(since=place.event_id, kinds=(kind_of(key),))

    async def _follow(self, key: str) -> None:
        """Run the program *key* for each event of its kind."""
        place = self._places[key]
        if place.begun:
            await self._repeat(key, place)
        while True:
            if place.event_id < self._events.forgotten:
                place.event_id = self._events.forgotten
                self._tell(f"{key}: is too slow: events were forgotten before it was run for them")
            found = self._events.find(self._wanted(key, place))
            if not found:
                place.event_id = max(place.event_id, self._events.last)
            # Only when the database has it, its id is its own for ever.
            if found and found[0].id <= self._events.kept:
                await self._run(key, place, found[0], repeated=False)
            else:
                await self._events.changed()

    async def _repeat(self, key: str, place: _Place) -> None:
        """Run for the event that was begun when the daemon ended, if it is still known."""
        found = self._events.find(Wanted(since=place.event_id - 1, kinds=(kind_of(key),)))
        if found and found[0].id == place.event_id:
            await self._run(key, place, found[0], repeated=True)
        place.begun = False

    async def _run(self, key: str, place: _Place, event: Event, *, repeated: bool) -> None:
        async with self._slots:
            path = self._hooks.programs.get(key)
            if path is None:
                return
            place.event_id, place.begun = event.id, True
            await self._save()
            told = render_json({**_value(event), "repeated": repeated})
            outcome = await run_hook(path, told, timeout_seconds=self._timeout_seconds)
            place.runs += 1
            logger.debug("hook %s: event %d: %s", key, event.id, outcome)
            if outcome.fault:
                place.failures += 1
                said = f": {outcome.output}" if outcome.output else ""
                place.last_fault = f"{outcome.fault}{said}"
                self._tell(f"{key}: event {event.id}: {place.last_fault}", node=event.node)
            elif outcome.output:
                logger.info("hook %s: %s", key, outcome.output)
            place.begun = False
            await self._save()

    async def _save(self) -> None:
        """Write how far all have come; try again until it is written."""
        while True:
            value = {
                key: {"id": place.event_id, "begun": place.begun}
                for key, place in [*self._stored.items(), *self._places.items()]
            }
            try:
                await self._registry.save_note(NOTE, value)
                return
            except VnfsbuildError as error:
                logger.error("hooks: %s", error)
                await asyncio.sleep(RETRY_SECONDS)

    def _tell(self, text: str, *, node: str | None = None) -> None:
        self._events.add(FAILED, text, now=self._clock(), node=node)


def _value(event: Event) -> dict[str, Any]:
    """Return *event* as programs get it: whole seconds, as all our canonical JSON."""
    return {**event.value(), "time": int(event.time)}
