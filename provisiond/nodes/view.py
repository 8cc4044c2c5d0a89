"""How a node is shown: what is known of it, what counts for it, what the server concludes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from provisiond.nodes.attributes import ATTRIBUTES, render_value, shown_value
from provisiond.nodes.choose import choose_capsule
from provisiond.nodes.drivers import find_lack, why_drivers
from provisiond.nodes.model import Node, Session
from provisiond.nodes.scopes import Attributes
from provisiond.nodes.selection import Known
from provisiond.nodes.states import READY, find_conditions, is_ready, phase_seconds, shown_state
from provisiond.nodes.tasks import show_task
from provisiond.nodes.vouching import Row, vouch_for_bootstrap, vouch_for_image, vouch_for_site
from provisiond.parts import Parts
from provisiond.protocol import STATES
from provisiond.service import Service
from provisiond.tasks import TASK_STATES
from vnfsbuild.digest import short
from vnfsbuild.manifest import BOOTSTRAP, CAPSULE
from vnfsbuild.reference import parse_reference

NEW = "new"
"""What is shown as the state of a node that never checked in."""
CONDITIONS = ("conflict", "dead", "disabled", "fallback", "late", "unhealthy", "untrusted",
              "waiting")  # fmt: skip
FACTS: Mapping[str, Collection[str]] = {
    "approved": ("yes", "no"),
    "capsule": (),
    "condition": CONDITIONS,
    "group": (),
    "hwaddr": (),
    "name": (),
    "ready": ("yes", "no"),
    "state": (NEW, *STATES),
    "task": ("waiting", *TASK_STATES),
    "uuid": (),
}
"""What filters ask for besides attributes → the values that there are; none: any."""


class NodeView:
    """Reads the registry; changes nothing. Values come out as JSON has them."""

    def __init__(self, parts: Parts, service: Service) -> None:
        self._parts = parts
        self._registry = parts.registry
        self._service = service

    def known(self) -> Known:
        """Return what selections choose from."""
        registry = self._registry
        groups: dict[str, list[str]] = {name: [] for name in registry.scopes.groups}
        for node in registry.nodes.values():
            for group in node.groups:
                groups.setdefault(group, []).append(node.name)
        return Known(names=registry.names, groups=groups, values=self._values, facts=FACTS)

    def state(self, node: Node) -> str:
        """Return the state of *node* as it is shown."""
        session = self._registry.sessions.get(node.node_id)
        state, _ = shown_state(session, now=self._parts.clock(), timeouts=self._service.timeouts)
        return state or NEW

    def conditions(self, node: Node) -> tuple[str, ...]:
        """Return what the server concludes of *node*."""
        session = self._registry.sessions.get(node.node_id)
        fallback = False
        if session is not None and session.failures:
            effective = self._registry.effective(node)
            found = choose_capsule(node, effective, self._parts.catalogue.find_capsule, session)
            fallback = found[0] is not None and bool(found[1])
        return find_conditions(
            session,
            self._service.plan_for(node),
            enabled=self._registry.effective(node)["enabled"].value,
            conflict=self._service.is_in_conflict(node.node_id),
            now=self._parts.clock(),
            timeouts=self._service.timeouts,
            fallback=fallback,
        )

    def show(self, node: Node) -> dict[str, Any]:
        """Return all that is known of *node*."""
        session = self._registry.sessions.get(node.node_id)
        now, timeouts = self._parts.clock(), self._service.timeouts
        state, detail = shown_state(session, now=now, timeouts=timeouts)
        effective = self._registry.effective(node)
        conditions = self.conditions(node)
        find = self._parts.catalogue.find_capsule
        capsule, reason = choose_capsule(node, effective, find, session)
        drivers = self._drivers(effective, session)
        return {
            "name": node.name,
            "nodeId": node.node_id,
            "hwaddrs": list(node.hwaddrs),
            "uuid": node.uuid,
            "approved": node.approved,
            "approvedBy": node.approved_by,
            "groups": list(node.groups),
            "address": node.kept_address or (session.peer if session else None),
            "attributes": {
                key: shown_value(key, value) for key, value in node.attributes.items()
            },
            "effective": {
                key: {"value": shown_value(key, item.value), "from": item.origin}
                for key, item in effective.items()
            },
            "state": state,
            "detail": detail,
            "conditions": list(conditions),
            "ready": is_ready(state, conditions),
            "reason": " ".join((
                _reason(state, detail, conditions, reason)
                or _find_distrust(session)
                or _find_next(session)
                or _find_failed_units(session)
                or self._find_boot_refusal(effective, session)
                or find_lack(drivers)
            ).split()),
            "bootId": session.boot_id if session else None,
            "capsule": session.capsule if session else None,
            "lastGood": session.last_good if session else None,
            "planned": capsule.digest if capsule else None,
            "failures": dict(session.failures) if session else {},
            "lastError": session.last_error if session else "",
            "lastErrorAt": session.last_error_at if session else None,
            "drivers": drivers,
            "task": show_task(session.task) if session else None,
            "phases": dict(session.phases) if session else {},
            "phaseSeconds": phase_seconds(session, now=now),
            "lastContact": session.last_contact if session else None,
            "report": dict(session.report) if session else {},
        }  # fmt: skip

    def authority(self, node: Node) -> dict[str, Any]:
        """Return who vouches for what runs on *node*, or would: image, site's part, bootstrap."""
        catalogue, config = self._parts.catalogue, self._parts.config
        effective = self._registry.effective(node)
        assigned, bootstrap = effective["vnfs"].value, effective["bootstrap"].value
        trust = catalogue.held_trust
        session = self._registry.sessions.get(node.node_id)
        image = (
            None if assigned is None else catalogue.find_stored(parse_reference(assigned), CAPSULE)
        )
        if session is not None and session.state == "ready" and session.capsule:
            # What runs counts, whatever is assigned for the next boot.
            running = catalogue.find_digest(session.capsule)
            image, assigned = running, running.name if running else session.capsule
        rows: tuple[Row, ...] = (
            vouch_for_image(assigned, image, trust),
            vouch_for_site(config.server_url, self._parts.authority_digest),
            vouch_for_bootstrap(
                bootstrap, catalogue.find_stored(parse_reference(bootstrap), BOOTSTRAP), trust
            ),
        )
        return {row.what: row.value() for row in rows}

    def _drivers(self, effective: Attributes, session: Session | None) -> dict[str, Any]:
        """Return whether a node with these attributes is given drivers.cpio, and why."""
        bootstrap = parse_reference(effective["bootstrap"].value)
        return {
            "why": why_drivers(effective, session),
            "modules": list(session.drivers) if session else [],
            "there": self._parts.catalogue.boot.plan_drivers(bootstrap) is not None,
        }

    def _find_boot_refusal(self, effective: Attributes, session: Session | None) -> str:
        """Return why firmware of a node with these attributes is turned away; empty, when not."""
        bootstrap = parse_reference(effective["bootstrap"].value)
        with_drivers = bool(why_drivers(effective, session))
        catalogue = self._parts.catalogue
        refusal = catalogue.boot.find_refusal(bootstrap, with_drivers=with_drivers)
        return f"cannot boot again: {refusal}" if refusal else ""

    def _values(self, name: str, key: str) -> Collection[str]:
        """Return the texts that *key* has for the node *name*, for filters."""
        node = self._registry.named(name)
        if key == "state":
            return (self.state(node),)
        if key == "condition":
            return self.conditions(node)
        if key == "ready":
            return ("yes" if is_ready(self.state(node), self.conditions(node)) else "no",)
        session = self._registry.sessions.get(node.node_id)
        facts: dict[str, Collection[str | None]] = {
            "approved": ("yes" if node.approved else "no",),
            "capsule": (session.capsule if session else None,),
            "group": node.groups,
            "hwaddr": node.hwaddrs,
            "name": (node.name,),
            "task": (session.task.state if session and session.task else None,),
            "uuid": (node.uuid,),
        }
        if key in facts:
            return [value for value in facts[key] if value]
        return self._attribute_texts(node, key)

    def _attribute_texts(self, node: Node, key: str) -> list[str]:
        value = self._registry.effective(node).value(key)
        if key == "address":
            value = node.kept_address
        if value is None:
            return []
        shown = shown_value(key, value)
        if isinstance(shown, tuple):
            return [str(item) for item in shown]
        texts = [render_value(shown)]
        if key in ("vnfs", "bootstrap"):
            texts.append(parse_reference(shown).name)
        return texts


def show_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return *settings* as they may be shown, in the order of the table of attributes."""
    order = {key: number for number, key in enumerate(ATTRIBUTES)}
    keys = sorted(settings, key=lambda key: (order.get(key, len(order)), key))
    return {key: shown_value(key, settings[key]) for key in keys}


def _reason(state: str | None, detail: str, conditions: tuple[str, ...], waits_for: str) -> str:
    """Return why a node is not ready, as a table shows it."""
    if "conflict" in conditions:
        return "another boot of this node asks, while one is alive"
    if state == "failed":
        return detail
    if {"waiting", "disabled", "fallback"} & set(conditions) or state is None:
        return waits_for
    # What it is at: how far a download is, why it is in rescue, that it reboots.
    return "" if state == READY else detail


def _find_distrust(session: Session | None) -> str:
    """Return what the node says is wrong with it: trust, health, overlay; empty: nothing."""
    if session is None:
        return ""
    keys = ("untrusted", "unhealthy", "overlayFault")
    return next((str(session.report[key]) for key in keys if session.report.get(key)), "")


def _find_next(session: Session | None) -> str:
    """Return how far a node is with the capsule that it goes over to; empty: it does not."""
    said = session.next if session is not None else None
    if said is None:
        return ""
    detail = f": {said.detail}" if said.detail else ""
    return f"next capsule {short(said.capsule)}: {said.state}{detail}"


def _find_failed_units(session: Session | None) -> str:
    """Return which units of a node that runs have failed; empty, when none has."""
    found = session.report.get("failedUnits") if session and session.state == READY else None
    return f"failed units: {' '.join(found)}" if found and isinstance(found, list) else ""
