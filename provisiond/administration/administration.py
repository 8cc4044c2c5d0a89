"""What an administrator asks of the daemon: capsules, events, and the rest below. No sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from provisiond.administration.capsules import CapsuleAdministration
from provisiond.administration.nodes import NodeAdministration
from provisiond.administration.overlays import OverlayAdministration
from provisiond.administration.rollouts import RolloutAdministration
from provisiond.administration.settings import SettingsAdministration
from provisiond.administration.tasks import TaskAdministration
from provisiond.administration.transfer import Transfer
from provisiond.events.events import Wanted
from provisiond.events.runner import HookRunner
from provisiond.nodes.choose import choose_capsule
from provisiond.nodes.registry import Registry
from provisiond.nodes.view import NodeView
from provisiond.parts import Parts
from provisiond.service import Service
from vnfsbuild.digest import short
from vnfsbuild.manifest import BOOTSTRAP, CAPSULE
from vnfsbuild.reference import CURRENT
from vnfsbuild.store.index import StoredCapsule

_KINDS = {CAPSULE: "capsule", BOOTSTRAP: "bootstrap"}


class Administration:
    """Changes, and what there is to see. Values go in and come out as JSON has them."""

    def __init__(self, parts: Parts, service: Service, hooks: HookRunner | None = None) -> None:
        self._parts = parts
        self._registry: Registry = parts.registry
        self._service = service
        self._hooks = hooks
        self.view = NodeView(parts, service)
        self.nodes = NodeAdministration(parts, self.view)
        """Nodes and what is set on them."""
        self.tasks = TaskAdministration(parts, service, self.view, self.nodes)
        """What running nodes are given to do."""
        self.rollouts = RolloutAdministration(parts, service, self.nodes)
        """Running nodes that go over to another capsule."""
        self.capsules = CapsuleAdministration(parts, service)
        """What names mean, and what goes."""
        self.settings = SettingsAdministration(parts, self.nodes)
        """Groups, and what is set for groups, capsules and all."""
        self.overlays = OverlayAdministration(parts, self.nodes)
        """What nodes get besides capsules."""
        self.transfer = Transfer(parts)
        """All of it as a document, and from other systems."""

    def status(self) -> dict[str, Any]:
        """Return figures of the daemon as a whole."""
        counts: dict[str, int] = {}
        for node in self._registry.nodes.values():
            state = self.view.state(node)
            counts[state] = counts.get(state, 0) + 1
        config = self._parts.config
        return {
            "address": str(config.address.ip),
            "registration": config.registration,
            "nodes": len(self._registry.nodes),
            "counts": counts,
            "capsules": len(self._parts.catalogue.capsules),
            "dnsmasq": config.dnsmasq,
            "lastEvent": self._parts.events.last,
            "hooks": self._hooks.status() if self._hooks is not None else [],
        }

    def list_capsules(self) -> list[dict[str, Any]]:
        """Return all capsules and bootstraps."""
        users: dict[str, list[str]] = {}
        for name in sorted(self._registry.names):
            plan_capsule, _ = choose_capsule(
                node := self._registry.named(name),
                self._registry.effective(node),
                self._parts.catalogue.find_capsule,
                self._registry.sessions.get(node.node_id),
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
        await self._service.pins.update_or_warn()
        return _show_capsule(stored, [])

    async def events(
        self, wanted: Wanted, expressions: Sequence[str] = (), *, wait_seconds: float
    ) -> dict[str, Any]:
        """Return the events that are *wanted*, of the nodes that *expressions* mean; none, when
        none comes in time.

        Raises:
            InputError: no such node.
        """
        if expressions:
            wanted = replace(wanted, nodes=frozenset(self.nodes.select(expressions).found))
        before = self._parts.events.last
        found = await self._parts.events.wait(wanted, wait_seconds=wait_seconds)
        # What was passed over need not be looked at again.
        last = found[-1].id if found else before
        return {"events": [event.value() for event in found], "last": last}

    def _tell(self, kind: str, text: str, *, node: str | None = None) -> None:
        self._parts.events.add(kind, text, now=self._parts.clock(), node=node)


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
