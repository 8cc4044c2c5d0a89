"""What an administrator asks of the daemon: nodes, their attributes, capsules. No sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from provisiond.choose import choose_capsule
from provisiond.events import Event
from provisiond.model import (
    Node,
    effective_attributes,
    make_node_name,
    nearest,
    parse_attribute,
    parse_hwaddr,
    parse_node_name,
)
from provisiond.registry import Registry
from provisiond.selection import Selection, select_nodes
from provisiond.service import Parts, Service
from provisiond.states import find_conditions, shown_state
from vnfsbuild.digest import short
from vnfsbuild.errors import InputError
from vnfsbuild.manifest import BOOTSTRAP, CAPSULE
from vnfsbuild.reference import CURRENT, parse_reference
from vnfsbuild.storeindex import StoredCapsule

_KINDS = {CAPSULE: "capsule", BOOTSTRAP: "bootstrap"}
_REFERENCES = {"vnfs": "capsule", "bootstrap": "bootstrap"}
"""Attributes that name something in the store, and what."""


class Administration:
    """Changes, and what there is to see. Values go in and come out as JSON has them."""

    def __init__(self, parts: Parts, service: Service) -> None:
        self._parts = parts
        self._registry: Registry = parts.registry
        self._service = service

    def status(self) -> dict[str, Any]:
        """Return figures of the daemon as a whole."""
        counts: dict[str, int] = {}
        now = self._parts.clock()
        for node_id in self._registry.nodes:
            session = self._registry.sessions.get(node_id)
            state, _ = shown_state(session, now=now, timeouts=self._service.timeouts)
            counts[state or "new"] = counts.get(state or "new", 0) + 1
        config = self._parts.config
        return {
            "address": str(config.address.ip),
            "registration": config.registration,
            "nodes": len(self._registry.nodes),
            "counts": counts,
            "capsules": len(self._parts.catalogue.capsules),
            "dnsmasq": config.dnsmasq,
            "lastEvent": self._parts.events.last,
        }

    def list_nodes(self, expressions: Sequence[str] = ()) -> list[dict[str, Any]]:
        """Return the nodes that *expressions* mean, without any all, sorted by name.

        Raises:
            InputError: none of them is known.
        """
        names = (
            select_nodes(expressions, self._registry.names).found
            if expressions
            else sorted(self._registry.names)
        )
        return [self._show(self._registry.named(name)) for name in names]

    async def add_node(
        self, hwaddr: str, *, name: str | None, attributes: Mapping[str, str]
    ) -> dict[str, Any]:
        """Add a node, approved, since an administrator names it.

        Raises:
            InputError: the address or name is taken, or something is malformed.
        """
        node_id = parse_hwaddr(hwaddr)
        values = {key: parse_attribute(key, text) for key, text in attributes.items()}
        async with self._registry.administration:
            held = self._registry.find([node_id])
            if held is not None:
                raise InputError(f"node add: {node_id} is {held.name} already")
            config = self._parts.config
            if len(self._registry.nodes) >= config.total_nodes:
                raise InputError(
                    f"node add: there are {config.total_nodes} nodes, as many as may be"
                )
            if name is None:
                name = make_node_name(
                    config.name_pattern, config.total_nodes, set(self._registry.names)
                )
            if parse_node_name(name) in self._registry.names:
                raise InputError(f"node add: the name {name} is taken")
            self._verify_values(values, count=1, but=frozenset())
            node = Node(
                node_id=node_id,
                name=name,
                hwaddrs=(node_id,),
                approved=True,
                attributes={key: value for key, value in values.items() if value is not None},
                created=int(self._parts.clock()),
            )
            await self._save((node,), f"added as {node_id}")
            self._parts.hosts.update((node,))
            return self._show(node)

    async def set_attribute(
        self, key: str, text: str, expressions: Sequence[str]
    ) -> dict[str, list[str]]:
        """Set an attribute of nodes; an empty *text* unsets it. Assigning a capsule approves.

        Raises:
            InputError: no such attribute, no such value, no such capsule, or no such node.
        """
        value = parse_attribute(key, text)
        async with self._registry.administration:
            selection = self._select(expressions)
            ids = frozenset(self._registry.names[name] for name in selection.found)
            if value is not None:
                self._verify_values({key: value}, count=len(ids), but=ids)
            changed = []
            for name in selection.found:
                node = self._registry.named(name)
                attributes = {item: held for item, held in node.attributes.items() if item != key}
                if value is not None:
                    attributes[key] = value
                approved = node.approved or (key == "vnfs" and value is not None)
                changed.append(replace(node, attributes=attributes, approved=approved))
            await self._save(tuple(changed), f"{key} = {text}" if text else f"{key} unset")
            if key == "address":
                self._parts.hosts.update(tuple(changed))
        return _selected(selection)

    async def approve(self, expressions: Sequence[str]) -> dict[str, list[str]]:
        """Approve nodes: from now on they may boot what they are assigned.

        Raises:
            InputError: none of them is known.
        """
        async with self._registry.administration:
            selection = self._select(expressions)
            nodes = tuple(
                replace(self._registry.named(name), approved=True) for name in selection.found
            )
            await self._save(nodes, "approved")
        return _selected(selection)

    async def delete(self, expressions: Sequence[str]) -> dict[str, list[str]]:
        """Forget nodes; one that still runs comes back as a new node.

        Raises:
            InputError: none of them is known.
        """
        async with self._registry.administration:
            selection = self._select(expressions)
            ids = tuple(self._registry.names[name] for name in selection.found)
            await self._registry.save_nodes((), deleted=ids)
            self._parts.hosts.update((), deleted=ids)
            for name in selection.found:
                self._tell("node.changed", "deleted", node=name)
        return _selected(selection)

    def list_capsules(self) -> list[dict[str, Any]]:
        """Return all capsules and bootstraps."""
        users: dict[str, list[str]] = {}
        for name in sorted(self._registry.names):
            plan_capsule, _ = choose_capsule(
                node := self._registry.named(name),
                effective_attributes(node),
                self._parts.catalogue.find_capsule,
            )
            if plan_capsule is not None:
                users.setdefault(plan_capsule.digest, []).append(name)
        return [
            _show_capsule(capsule, users.get(capsule.digest, []))
            for capsule in self._parts.catalogue.capsules
        ]

    async def import_file(self, path: Path, *, promote: bool) -> dict[str, Any]:
        """Verify and add the ``.vnfs`` file *path*, and wake the nodes that wait for it.

        Raises:
            InputError: there is no trust.json to judge it by.
            VerificationError: it is not trusted; the store is as it was.
        """
        stored = await asyncio.to_thread(self._parts.catalogue.import_file, path, promote=promote)
        told = f"{stored.name}@{short(stored.digest)}"
        self._tell("capsule.imported", told)
        if promote:
            self._tell("capsule.promoted", f"{stored.name}:{CURRENT} is {told}")
        self._registry.wake_all()
        return _show_capsule(stored, [])

    async def events(self, since: int, *, wait_seconds: float) -> dict[str, Any]:
        """Return the events after *since*, or when none comes in time, none."""
        found: tuple[Event, ...] = await self._parts.events.wait(since, wait_seconds=wait_seconds)
        last = found[-1].id if found else self._parts.events.last
        return {"events": [asdict(event) for event in found], "last": last}

    def _select(self, expressions: Sequence[str]) -> Selection:
        return select_nodes(expressions, self._registry.names)

    async def _save(self, nodes: tuple[Node, ...], told: str) -> None:
        await self._registry.save_nodes(nodes)
        for node in nodes:
            self._tell("node.changed", told, node=node.name)

    def _tell(self, kind: str, text: str, *, node: str | None = None) -> None:
        self._parts.events.add(kind, text, now=self._parts.clock(), node=node)

    def _verify_values(self, values: Mapping[str, Any], *, count: int, but: frozenset[str]) -> None:
        """Refuse values that are well-formed but cannot be: an address that is taken, say."""
        for key, kind in _REFERENCES.items():
            if values.get(key) is not None:
                self._verify_reference(values[key], kind)
        address = values.get("address")
        if address is None:
            return
        config = self._parts.config
        network = config.address.network
        if count > 1:
            raise InputError(f"attribute address: {address} cannot be given to {count} nodes")
        own = (config.address.ip, network.network_address, network.broadcast_address)
        if IPv4Address(address) not in network or IPv4Address(address) in own:
            raise InputError(
                f"attribute address: found {address}, expected one of {network} for nodes"
            )
        for node in self._registry.nodes.values():
            held = (node.address, node.attributes.get("address"))
            if node.node_id not in but and address in held:
                raise InputError(f"attribute address: {address} is the address of {node.name}")

    def _verify_reference(self, text: str, kind: str) -> None:
        reference = parse_reference(text)
        catalogue = self._parts.catalogue
        found = (
            catalogue.find_capsule(reference)
            if kind == "capsule"
            else catalogue.find_bootstrap(reference)
        )
        if found is None:
            names = [item.name for item in catalogue.capsules
                     if _KINDS[item.manifest.artifact_type] == kind]  # fmt: skip
            raise InputError(
                f"{kind} {text}: not in the store{nearest(reference.name, sorted(set(names)))}",
                hint="provisionctl vnfs list; provisionctl vnfs import FILE",
            )

    def _show(self, node: Node) -> dict[str, Any]:
        session = self._registry.sessions.get(node.node_id)
        timeouts = self._service.timeouts
        now = self._parts.clock()
        state, detail = shown_state(session, now=now, timeouts=timeouts)
        plan = self._service.plan_for(node)
        effective = effective_attributes(node)
        conditions = find_conditions(
            session,
            plan,
            enabled=effective["enabled"].value,
            conflict=self._service.is_in_conflict(node.node_id),
            now=now,
            timeouts=timeouts,
        )
        capsule, reason = choose_capsule(node, effective, self._parts.catalogue.find_capsule)
        return {
            "name": node.name,
            "nodeId": node.node_id,
            "hwaddrs": list(node.hwaddrs),
            "uuid": node.uuid,
            "approved": node.approved,
            "address": effective["address"].value or node.address
            or (session.peer if session else None),
            "attributes": dict(node.attributes),
            "effective": {
                key: {"value": item.value, "from": item.origin} for key, item in effective.items()
            },
            "state": state,
            "detail": detail,
            "conditions": list(conditions),
            "reason": _reason(state, detail, conditions, reason),
            "bootId": session.boot_id if session else None,
            "capsule": session.capsule if session else None,
            "planned": capsule.digest if capsule else None,
            "phases": dict(session.phases) if session else {},
            "lastContact": session.last_contact if session else None,
            "report": dict(session.report) if session else {},
        }  # fmt: skip


def _reason(state: str | None, detail: str, conditions: tuple[str, ...], waits_for: str) -> str:
    """Return why a node is not ready, as a table shows it."""
    if "conflict" in conditions:
        return "another boot of this node asks, while one is alive"
    if state == "failed":
        return detail
    if "waiting" in conditions or "disabled" in conditions or state is None:
        return waits_for
    return ""


def _selected(selection: Selection) -> dict[str, list[str]]:
    return {"nodes": list(selection.found), "missing": list(selection.missing)}


def _show_capsule(capsule: StoredCapsule, nodes: list[str]) -> dict[str, Any]:
    return {
        "name": capsule.name,
        "digest": capsule.digest,
        "serial": capsule.config.serial,
        "tags": list(capsule.tags),
        "type": _KINDS[capsule.manifest.artifact_type],
        "kernel": capsule.config.kernel.version,
        "sizeBytes": capsule.size_bytes,
        "nodes": nodes,
    }
