"""What the daemon does by the clock: write what was only touched, notice silence and new files."""

from __future__ import annotations

import asyncio
import logging
import time

from provisiond.administration.tasks import withdraw_tasks
from provisiond.nodes.states import NO_WORD, find_silence
from provisiond.overlays.folders import load_overlays
from provisiond.parts import Parts
from provisiond.service import LISTENING, Service
from vnfsbuild.errors import VnfsbuildError

logger = logging.getLogger(__name__)

TICK_SECONDS = 2.0
EVENT_SECONDS = 0.2
FLUSH_SECONDS = 8.0
"""With a tick on top, not more than ten seconds of last contacts are lost."""


async def watch(parts: Parts, service: Service) -> None:
    """Do it for ever."""
    silent = _find_told(parts)
    flushed = time.monotonic()
    while True:
        await take_overlays(parts)
        await _take_newer_trust(parts)
        silent = _tell_silence(parts, service, silent)
        await service.rollouts.tick()
        await service.pins.tick()
        await _withdraw_tasks(parts, service)
        if time.monotonic() - flushed >= FLUSH_SECONDS:
            flushed = time.monotonic()
            try:
                await parts.registry.flush()
                await parts.registry.save_note(LISTENING, parts.clock())
            except VnfsbuildError as error:
                logger.error("%s", error)
        await asyncio.sleep(TICK_SECONDS)


async def _withdraw_tasks(parts: Parts, service: Service) -> None:
    try:
        await withdraw_tasks(parts, service)
    except VnfsbuildError as error:
        logger.error("%s", error)


async def take_overlays(parts: Parts) -> None:
    """Use the overlays as their folders are now; those who wait are answered with them at once."""
    config, before = parts.config, parts.overlays.loaded
    loaded = await asyncio.to_thread(
        load_overlays, config.overlay_directory, config.overlay_files, before=before
    )
    if not parts.overlays.use(loaded):
        return
    now = parts.clock()
    for name, fault in loaded.faults.items():
        if before.faults.get(name) != fault:
            logger.error("overlay %s: %s; it stays as it was", name, fault)
            parts.events.add("overlay.fault", f"overlay {name}: {fault}", now=now)
    own = [name for name, overlay in loaded.overlays.items() if not overlay.built_in]
    if loaded.overlays != before.overlays or loaded.plain != before.plain:
        parts.events.add("overlay.changed", f"overlays of the site: {', '.join(own) or 'none'}",
                         now=now)  # fmt: skip
    parts.registry.wake_all()


async def _take_newer_trust(parts: Parts) -> None:
    """Take over a trust.json that was changed; those who wait are answered with it at once."""
    if await asyncio.to_thread(parts.catalogue.take_newer_trust):
        version = parts.catalogue.trust_version
        parts.events.add("trust.changed", f"trust.json: version {version}", now=parts.clock())
        parts.registry.wake_all()


async def keep_events(parts: Parts) -> None:
    """Write events soon after they came, when no change takes them along; for ever."""
    while True:
        await parts.events.unkept_came.wait()
        await asyncio.sleep(EVENT_SECONDS)
        try:
            await parts.registry.save_events()
        except VnfsbuildError as error:
            logger.error("%s", error)
            await asyncio.sleep(TICK_SECONDS)


def _find_told(parts: Parts) -> dict[str, str]:
    """Return what was told of the silence of nodes before the daemon was started anew."""
    told = {}
    for event in parts.events.since(0):
        node_id = parts.registry.names.get(event.node or "")
        session = parts.registry.sessions.get(node_id or "")
        if node_id is None or session is None or event.time <= session.last_contact:
            continue
        if event.condition in ("late", "dead") and not event.ended:
            told[node_id] = event.condition
        elif event.kind == "node.state" and event.text.endswith(NO_WORD):
            told[node_id] = NO_WORD
    return told


def _tell_silence(parts: Parts, service: Service, silent: dict[str, str]) -> dict[str, str]:
    """Tell the nodes that have fallen silent since the last time; return all that are."""
    now = parts.clock()
    found = {}
    for node_id, session in parts.registry.sessions.items():
        condition = find_silence(session, now=now, timeouts=service.timeouts)
        if condition is None:
            continue
        found[node_id] = condition
        if silent.get(node_id) != condition:
            name = parts.registry.nodes[node_id].name
            failed = condition == NO_WORD
            parts.events.add(
                "node.state" if failed else "node.condition",
                f"failed: {NO_WORD}" if failed else condition,
                now=now,
                node=name,
                state="failed" if failed else None,
                condition=None if failed else condition,
            )
    return found
