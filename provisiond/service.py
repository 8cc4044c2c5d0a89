"""What the daemon answers to a node. No sockets: a check-in comes in, an answer goes out."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace

from provisiond.authority import make_node_key
from provisiond.firmware import Firmware
from provisiond.nodes.choose import Site, choose_plan, choose_stranger
from provisiond.nodes.chronicle import Chronicle
from provisiond.nodes.drivers import why_drivers
from provisiond.nodes.knocks import Knocks
from provisiond.nodes.model import Node, Session
from provisiond.nodes.pins import NodePins
from provisiond.nodes.registrar import Registrar
from provisiond.nodes.rollout import Patience
from provisiond.nodes.rollouts import Rollouts, Surroundings
from provisiond.nodes.states import (
    READY,
    Admission,
    Timeouts,
    admit,
    advance_session,
    begin_session,
    has_key,
    hash_key,
    is_transition,
)
from provisiond.nodes.supply import Supply, supply_plan
from provisiond.nodes.tasks import plan_task
from provisiond.parts import Parts
from provisiond.protocol import Answer, Checkin, Plan, plan_digest
from provisiond.refusals import NotThere, Refused, TooMany
from vnfsbuild.errors import InputError
from vnfsbuild.reference import parse_reference

logger = logging.getLogger(__name__)

LISTENING = "listening"
"""The note that says when the server last listened."""
HOLD_FACTOR = 0.8
"""A request is held for no more than this part of the session timeout: so a node that waits is
heard of again while its session is still live."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """An answer as things stand."""

    plan: Plan
    node_key: str | None = None
    until: float = float("inf")
    """When time alone makes it another."""


class Service:
    """Answers to agents and firmware."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._config = parts.config
        self._registry = parts.registry
        self._events = parts.events
        self._registry.keep_events(parts.events)
        self._clock = parts.clock
        config = parts.config
        self.timeouts = Timeouts(
            checkin_seconds=config.checkin_seconds,
            node_seconds=config.node_timeout_seconds,
            boot_seconds=config.boot_timeout_seconds,
            session_seconds=config.session_timeout_seconds,
            deaf_from=min(parts.registry.load_note(LISTENING) or parts.clock(), parts.clock()),
            deaf_until=parts.clock(),
        )
        self._site = Site(blobs=config.blob_urls, checkin_seconds=config.checkin_seconds)
        self._supply = Supply(blobs=config.blob_urls, exports=config.nfs_exports)
        self._conflicts: dict[str, float] = {}
        self.chronicle = Chronicle(
            parts.events, timeouts=self.timeouts, most_subjects=10 * config.total_nodes
        )
        self._latest: dict[tuple[str, str], object] = {}
        self.pins = NodePins(
            parts.registry, parts.catalogue, timeouts=self.timeouts, clock=parts.clock
        )
        """What nodes need of the store, told to all who might delete it."""
        self.rollouts = Rollouts(
            Surroundings(
                registry=parts.registry, catalogue=parts.catalogue, events=parts.events,
                clock=parts.clock, timeouts=self.timeouts, plan_boot=self._plan_boot,
                knock=self._knock,
                patience=Patience(
                    deaf_from=self.timeouts.deaf_from, deaf_until=self.timeouts.deaf_until
                ),
            )
        )  # fmt: skip
        """Which running nodes go over to which capsule."""
        self.knocks = Knocks(parts.send)
        """Tells nodes that run to check in at once."""
        self.firmware = Firmware(parts, chronicle=self.chronicle, plan_boot=self._plan_boot)
        """Knows what machines are given before any agent runs."""
        self._registrar = Registrar(
            config=config,
            registry=parts.registry,
            leases=parts.leases,
            hosts=parts.hosts,
            events=parts.events,
            clock=parts.clock,
        )

    async def checkin(self, checkin: Checkin, *, peer: str) -> Answer:
        """Record *checkin*, which came from the address *peer*, and return the answer.

        With *wait_seconds* the answer waits until there is another plan than the one that the
        node holds, but no longer than that.

        Raises:
            Refused: it is not this node that asks, or not the boot that was given a key.
            TooMany: too many new nodes at once; or the same boot asked anew while this waited.
        """
        boot = (checkin.hwaddrs[0], checkin.boot_id)
        hold_seconds = min(checkin.wait_seconds, HOLD_FACTOR * self.timeouts.session_seconds)
        deadline = self._clock() + hold_seconds
        recorded = False
        trust_version = self._parts.catalogue.trust_version
        with self._registry.watching(checkin.hwaddrs[0]) as changed:
            self._latest[boot] = changed
            try:
                while True:
                    # What changes from here on is seen, even before the wait begins.
                    changed.clear()
                    found = await self._answer(checkin, peer=peer, recorded=recorded)
                    recorded = True
                    now = self._clock()
                    held = plan_digest(found.plan) == checkin.plan and found.node_key is None
                    # Not: has an older one than we. A node that refuses ours would ask for ever.
                    if self._parts.catalogue.trust_version != trust_version:
                        held = False
                    if not held or now >= deadline:
                        return Answer(
                            plan=found.plan,
                            time=int(now),
                            node_key=found.node_key,
                            trust=self._newer_trust(checkin, found.plan),
                        )
                    until = found.until
                    # A plan for each node that waits would be kept for nothing.
                    del found
                    await changed.wait(min(deadline, until) - now)
                    # Nobody waits for this answer any more: it must not take the next one's key.
                    if self._latest.get(boot) is not changed:
                        raise TooMany("another request of this boot came later", hint="ask again")
            finally:
                if self._latest.get(boot) is changed:
                    del self._latest[boot]

    def _newer_trust(self, checkin: Checkin, plan: Plan) -> str | None:
        """Return the trust.json that the node is to hold from now on, if it holds an older one."""
        catalogue = self._parts.catalogue
        if catalogue.trust_version is None:
            return None
        if checkin.trust_version is None:
            # An agent from before it was told, or one that holds none: what matters is the boot.
            return catalogue.trust_text if plan.action == "boot" else None
        return catalogue.trust_text if catalogue.trust_version > checkin.trust_version else None

    def overlay(
        self, *, node_id: str, boot_id: str, node_key: str | None, digest: str, peer: str
    ) -> bytes:
        """Return the overlay *digest* of a node, to that node in the boot that is known.

        Raises:
            Refused: it is not this node that asks.
            NotThere: the overlay of this node is another one by now.
        """
        node = self._registry.nodes.get(node_id)
        session = self._registry.sessions.get(node_id)
        if node is None or session is None or session.boot_id != boot_id:
            raise Refused("overlay: this boot is not known", hint="check in first")
        self._verify_peer(node, (session.hwaddr,), peer)
        if node.approved and (node_key is None or not has_key(session, node_key)):
            raise self._refuse(node.name, Admission.WRONG_KEY.value, peer)
        attributes = self._registry.effective(node)
        if self._parts.overlays.plan(node, session, attributes).digest != digest:
            raise NotThere(f"overlay: {digest} is not the one of {node.name} any more")
        return self._parts.overlays.pack(node, session, attributes)

    def plan_for(self, node: Node) -> Plan:
        """Return the plan that *node* would be given now; nothing is recorded."""
        session = self._registry.sessions.get(node.node_id)
        return self._choose(node, session, state=session.state if session else "init")

    def is_in_conflict(self, node_id: str) -> bool:
        """Tell whether another boot of this node asked of late while one was alive."""
        since = self._conflicts.get(node_id)
        return since is not None and self._clock() - since < self.timeouts.session_seconds

    async def _answer(self, checkin: Checkin, *, peer: str, recorded: bool) -> _Found:
        """Return the answer as things stand; what the check-in says counts when not *recorded*."""
        node = self._registry.find(checkin.hwaddrs)
        if node is None:
            self._verify_peer(None, checkin.hwaddrs[:1], peer)
            strange = self._registrar.find_reason(checkin.hwaddrs[0])
            if strange is not None:
                return _Found(plan=self._stranger(checkin.hwaddrs[0], strange))
            node = await self._registrar.register(checkin, peer=peer)
        self._verify_peer(node, checkin.hwaddrs[:1], peer)
        async with self._registry.session_lock(node.node_id):
            now = self._clock()
            # It may have been approved, or changed, while others held the lock.
            node = self._registry.nodes.get(node.node_id, node)
            session = self._registry.sessions.get(node.node_id)
            admission = admit(node, session, checkin, now=now, timeouts=self.timeouts)
            if admission is Admission.WRONG_KEY:
                raise self._refuse(node.name, admission.value, peer)
            if admission is Admission.CONFLICT and session is not None:
                return self._note_conflict(node, session, peer)
            if session is None or admission is Admission.NEW_BOOT:
                new = begin_session(checkin, peer=peer, now=now, before=session)
            elif recorded:
                new = session
            else:
                new = advance_session(session, checkin, peer=peer, now=now)
            node_key, new = self._give_key(node, new, checkin, recorded=recorded)
            await self._record(node, session, new)
        self.knocks.note(node.node_id, peer, checkin.knock if checkin.state == "ready" else None)
        if session is None:
            node = await self._registrar.learn(node, checkin, peer=peer)
        plan = self._choose(node, new, state=checkin.state)
        self.chronicle.tell_plan(node, plan, now=self._clock())
        return _Found(plan=plan, node_key=node_key)

    def _give_key(
        self, node: Node, session: Session, checkin: Checkin, *, recorded: bool
    ) -> tuple[str | None, Session]:
        """Return a node key when this boot is to be given one, and the session with it.

        While a request is held only the first key is given: a later request of the same boot may
        have been given another meanwhile, and that one counts.
        """
        if not node.approved or checkin.node_key is not None:
            return None, session
        if recorded and session.key_hash is not None:
            return None, session
        node_key = make_node_key()
        return node_key, replace(session, key_hash=hash_key(node_key))

    async def _record(self, node: Node, old: Session | None, new: Session) -> None:
        if old is new:
            return
        # First told, then written: so that both are in one transaction.
        self.chronicle.tell_session(node, old, new)
        if not is_transition(old, new):
            self._registry.touch_session(node.node_id, new)
        else:
            await self._registry.save_session(node.node_id, new)
        if old is None or old.boot_id != new.boot_id:
            self._conflicts.pop(node.node_id, None)
        if new.state == "halted" and old is not None:
            # Another boot may have waited for this one to end.
            for hwaddr in node.hwaddrs:
                self._registry.wake(hwaddr)

    def _choose(self, node: Node, session: Session | None, *, state: str) -> Plan:
        overlay, fault = None, ""
        attributes = self._registry.effective(node)
        if session is not None and node.approved:
            try:
                overlay = self._parts.overlays.plan(node, session, attributes)
            except InputError as error:
                fault = error.message
        plan = choose_plan(
            node,
            attributes,
            state=state,
            conflict=False,
            find=self._parts.catalogue.find_capsule,
            overlay=overlay,
            overlay_fault=fault,
            site=self._site,
            session=session,
        )
        if plan.action != "none" and why_drivers(attributes, session):
            reference = parse_reference(attributes["bootstrap"].value)
            drivers = self._parts.catalogue.boot.plan_drivers(reference)
            # A plan that says wait names no servers by itself.
            plan = replace(plan, drivers=drivers, blobs=self._site.blobs) if drivers else plan
        if state == READY and session is not None:
            plan = replace(
                plan,
                next=self.rollouts.next_for(node, session),
                task=plan_task(session.task),
                health_seconds=attributes["health_seconds"].value,
            )
        return supply_plan(plan, attributes, self._supply)

    def _plan_boot(self, node: Node) -> Plan:
        """Return the plan that *node* would be given if it booted now."""
        return self._choose(node, self._registry.sessions.get(node.node_id), state="init")

    def _knock(self, node_ids: Iterable[str]) -> None:
        """Let nodes ask soon: they wait for something else."""
        self.knocks.knock(node_ids)

    def _note_conflict(self, node: Node, session: Session, peer: str) -> _Found:
        plan = choose_plan(
            node,
            self._registry.effective(node),
            state="init",
            conflict=True,
            find=self._parts.catalogue.find_capsule,
            overlay=None,
            site=self._site,
        )
        now = self._clock()
        if not self.is_in_conflict(node.node_id):
            self._events.add(
                "node.condition", f"conflict: another boot asks, from {peer}", now=now,
                node=node.name, condition="conflict",
            )  # fmt: skip
        self._conflicts[node.node_id] = now
        return _Found(plan=plan, until=session.last_contact + self.timeouts.session_seconds)

    def _stranger(self, hwaddr: str, reason: str) -> Plan:
        plan = choose_stranger(hwaddr, reason=reason, site=self._site)
        self._tell(hwaddr, "node.refused", f"{hwaddr}: {plan.reason}")
        return plan

    def _verify_peer(self, node: Node | None, hwaddrs: tuple[str, ...], peer: str) -> None:
        """Refuse a request from another address than the machine has, as far as that is known.

        Raises:
            Refused: with the addresses that it was expected from.
        """
        leases = self._parts.leases.read(now=self._clock())
        allowed: set[str] = set()
        if node is not None:
            assigned = node.attributes.get("address")
            allowed |= {item for item in (assigned, node.address) if item}
            allowed |= {address for item in node.hwaddrs for address in leases.get(item, ())}
        if not allowed:
            allowed |= {address for item in hwaddrs for address in leases.get(item, ())}
        if allowed and peer not in allowed:
            name = node.name if node else hwaddrs[0]
            expected = " or ".join(sorted(allowed, key=ipaddress.ip_address))
            raise self._refuse(name, f"checks in from {peer}, expected {expected}", peer)

    def _refuse(self, name: str, reason: str, peer: str) -> Refused:
        known = name if name in self._registry.names else None
        self._tell(f"{name} {peer}", "node.refused", f"{name}: {reason} (from {peer})", node=known)
        return Refused(f"{name}: {reason}")

    def _tell(self, subject: str, kind: str, text: str, *, node: str | None = None) -> None:
        self.chronicle.tell(subject, kind, text, now=self._clock(), node=node)
