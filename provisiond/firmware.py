"""What a machine is given before any agent runs: bootstrap, drivers, words; or its own disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from provisiond.bootfiles import BootstrapFiles
from provisiond.catalogue import BRING_BOOTSTRAP
from provisiond.nodes.bootwords import render_words
from provisiond.nodes.chronicle import Chronicle
from provisiond.nodes.drivers import why_drivers
from provisiond.nodes.model import Node
from provisiond.nodes.scopes import Attributes, resolve
from provisiond.parts import Parts
from provisiond.protocol import Plan
from provisiond.refusals import NotThere
from vnfsbuild.errors import VerificationError
from vnfsbuild.reference import parse_reference


class Firmware:
    """Answers to firmware, which says no more than a hardware address."""

    def __init__(
        self, parts: Parts, *, chronicle: Chronicle, plan_boot: Callable[[Node], Plan]
    ) -> None:
        """*plan_boot* returns the plan that a node would be given if it booted now."""
        self._config = parts.config
        self._registry = parts.registry
        self._catalogue = parts.catalogue
        self._clock = parts.clock
        self._chronicle = chronicle
        self._plan_boot = plan_boot

    async def find_bootstrap(self, hwaddr: str) -> BootstrapFiles:
        """Return the files of the bootstrap for the machine *hwaddr*, known or not.

        Raises:
            NotThere: it is not in the store, or is there and nobody vouches for it.
        """
        node, attributes = self._find_attributes(hwaddr)
        wanted = attributes["bootstrap"].value
        find = self._catalogue.boot.find_bootstrap
        try:
            found = await asyncio.to_thread(find, parse_reference(wanted))
        except VerificationError as error:
            raise self._refuse(hwaddr, node, error.message, error.hint) from error
        if found is None:
            reason = f"the bootstrap {wanted} is not in the store"
            raise self._refuse(hwaddr, node, reason, BRING_BOOTSTRAP)
        return found

    async def find_drivers(self, hwaddr: str) -> Path | None:
        """Return drivers.cpio for the machine *hwaddr*, known or not; None when it gets none.

        Raises:
            NotThere: it is to get them, and what is in the store is not what was signed.
        """
        node, attributes = self._find_attributes(hwaddr)
        session = self._registry.sessions.get(node.node_id) if node else None
        if not why_drivers(attributes, session):
            return None
        reference = parse_reference(attributes["bootstrap"].value)
        try:
            return await asyncio.to_thread(self._catalogue.boot.find_drivers, reference)
        except VerificationError as error:
            raise self._refuse(hwaddr, node, error.message, error.hint) from error

    def loads_disk(self, hwaddr: str) -> bool:
        """Tell whether firmware of the machine *hwaddr* is to start its own disk."""
        node = self._registry.find([hwaddr])
        if node is None:
            return False
        plan = self._plan_boot(node)
        if plan.action != "boot" or plan.method != "local":
            return False
        self._tell(hwaddr, "boot.local", f"{hwaddr}: {plan.reason}", node=node.name)
        return True

    def words(self, hwaddr: str) -> bytes:
        """Return what the bootstrap of the machine *hwaddr* is told before it can ask."""
        node, attributes = self._find_attributes(hwaddr)
        config = self._config
        return render_words(
            node, attributes, network=config.address, gateway=config.gateway,
            name_servers=config.name_servers,
        )  # fmt: skip

    def _find_attributes(self, hwaddr: str) -> tuple[Node | None, Attributes]:
        """Return the node of the machine *hwaddr*, if it is one, and what counts for it."""
        node, registry = self._registry.find([hwaddr]), self._registry
        return node, registry.effective(node) if node else resolve({}, (), registry.scopes)

    def _refuse(self, hwaddr: str, node: Node | None, reason: str, hint: str | None) -> NotThere:
        name = node.name if node else None
        self._tell(hwaddr, "boot.refused", f"{hwaddr}: {reason}; {hint}", node=name)
        return NotThere(reason, hint=hint)

    def _tell(self, subject: str, kind: str, text: str, *, node: str | None) -> None:
        self._chronicle.tell(subject, kind, text, now=self._clock(), node=node)
