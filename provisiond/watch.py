"""What the daemon does by the clock: write what was only touched, notice silence and new files."""

from __future__ import annotations

import asyncio
import logging
import time

from provisiond.overlays import load_overlay_files
from provisiond.service import Parts, Service
from provisiond.states import NO_WORD, find_silence
from vnfsbuild.errors import VnfsbuildError

logger = logging.getLogger(__name__)

TICK_SECONDS = 2.0
FLUSH_SECONDS = 8.0
"""With a tick on top, not more than ten seconds of last contacts are lost."""


async def watch(parts: Parts, service: Service) -> None:
    """Do it for ever."""
    silent: dict[str, str] = {}
    flushed = time.monotonic()
    while True:
        await _load_overlay_files(parts)
        silent = _tell_silence(parts, service, silent)
        if time.monotonic() - flushed >= FLUSH_SECONDS:
            flushed = time.monotonic()
            try:
                await parts.registry.flush()
            except VnfsbuildError as error:
                logger.error("%s", error)
        await asyncio.sleep(TICK_SECONDS)


async def _load_overlay_files(parts: Parts) -> None:
    directory = parts.config.overlay_files
    if directory is None:
        return
    try:
        files = await asyncio.to_thread(load_overlay_files, directory)
    except VnfsbuildError as error:
        logger.error("overlay.files: %s; the files stay as they were", error)
        return
    if parts.overlays.set_extra(files):
        logger.info("overlay.files: %d files from %s", len(files), directory)
        parts.registry.wake_all()


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
            )
    return found
