"""What the node server pins in its store: the capsules that nodes need, with their names.

Whatever a node is assigned, runs, or last came to ``ready`` with must stay. The pins are written
when they have changed, never before they are known; vnfsbuild reads them without knowing nodes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping

from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet

from provisiond.catalogue import Catalogue
from provisiond.nodes.model import Session
from provisiond.nodes.registry import Registry
from provisiond.nodes.rollout import DONE
from provisiond.nodes.states import Timeouts, find_silence
from vnfsbuild.digest import Digest
from vnfsbuild.errors import VnfsbuildError
from vnfsbuild.manifest import BOOTSTRAP, CAPSULE
from vnfsbuild.reference import parse_reference

logger = logging.getLogger(__name__)

OWNER = "provisiond"
MAX_NAMES_LENGTH = 300
REST_FACTOR = 20
"""By the clock, no more than a twentieth of the time is spent on pins."""

ASSIGNED = "assigned to"
RUNS = "runs on"
LAST_GOOD = "last good on"
BOOTS = "bootstrap of"
ROLLS_OUT = "goes to"

Needs = dict[Digest, dict[str, list[str]]]
"""Digest → in which way it is needed → names of nodes."""


class NodePins:
    """Keeps the pins of the store in step with what is known of the nodes."""

    def __init__(
        self,
        registry: Registry,
        catalogue: Catalogue,
        *,
        timeouts: Timeouts,
        clock: Callable[[], float],
    ) -> None:
        self._registry = registry
        self._catalogue = catalogue
        self._timeouts = timeouts
        self._clock = clock
        self._written: Needs | None = None
        self._told = ""
        self._ended_at = 0.0
        self._spent_seconds = 0.0
        self._lock = asyncio.Lock()

    async def update(self) -> None:
        """Pin what nodes need now; nothing is written when that is what is pinned already.

        Raises:
            VnfsbuildError: it cannot be written; the pins are as they were.
        """
        async with self._lock:
            started_at = time.monotonic()
            needs = self.collect()
            if needs != self._written:
                await asyncio.to_thread(self._write, needs)
                self._written = needs
            self._ended_at = time.monotonic()
            self._spent_seconds = self._ended_at - started_at

    async def tick(self) -> None:
        """Do as :meth:`update_or_warn`, but spend little time on it: when thousands of nodes boot
        at once each look finds something new.
        """
        if time.monotonic() - self._ended_at >= REST_FACTOR * self._spent_seconds:
            await self.update_or_warn()

    async def update_or_warn(self) -> None:
        """Do as :meth:`update`; what goes wrong is told in the log, and tried again next time."""
        told = ""
        try:
            await self.update()
        except VnfsbuildError as error:
            told = f"{error}{f' (hint: {error.hint})' if error.hint else ''}"
        if told and told != self._told:
            logger.error("pins: %s", told)
        self._told = told

    def collect(self) -> Needs:
        """Return what nodes need of the store."""
        now = self._clock()
        needs: Needs = {}
        found: dict[tuple[str, str], Digest | None] = {}
        for node in self._registry.nodes.values():
            effective = self._registry.effective(node)
            for key, kind, why in (("vnfs", CAPSULE, ASSIGNED), ("bootstrap", BOOTSTRAP, BOOTS)):
                text = effective[key].value
                if text is None:
                    continue
                if (text, kind) not in found:
                    found[text, kind] = self._find(text, kind)
                _note(needs, found[text, kind], why, node.name)
            session = self._registry.sessions.get(node.node_id)
            if session is not None:
                if self._runs(session, now):
                    _note(needs, session.capsule, RUNS, node.name)
                _note(needs, session.last_good, LAST_GOOD, node.name)
        for rollout in self._registry.rollouts.values():
            if rollout.state != DONE:
                _note(needs, rollout.digest, ROLLS_OUT, f"rollout-{rollout.id}")
        return needs

    def _find(self, text: str, kind: str) -> Digest | None:
        stored = self._catalogue.find_stored(parse_reference(text), kind)
        return stored.digest if stored else None

    def _runs(self, session: Session, now: float) -> bool:
        if session.state == "halted":
            return False
        return find_silence(session, now=now, timeouts=self._timeouts) in (None, "late")

    def _write(self, needs: Needs) -> None:
        self._catalogue.set_pins(
            OWNER, {digest: render_reason(uses) for digest, uses in needs.items()}
        )


def _note(needs: Needs, digest: str | None, why: str, name: str) -> None:
    if digest is not None:
        needs.setdefault(Digest(digest), {}).setdefault(why, []).append(name)


def render_reason(uses: Mapping[str, Iterable[str]]) -> str:
    """Return in one line in which ways which nodes need a capsule."""
    return "; ".join(f"{why} {fold_names(names)}" for why, names in sorted(uses.items()))


def fold_names(names: Iterable[str]) -> str:
    """Return *names* as ranges, ``n[0001-0900],login``; of very many only the first."""
    nodes = NodeSet.fromlist(list(names), resolver=RESOLVER_NOGROUP)
    text = str(nodes)
    if len(text) <= MAX_NAMES_LENGTH:
        return text
    return f"{text[:MAX_NAMES_LENGTH]}… ({len(nodes)} nodes)"
