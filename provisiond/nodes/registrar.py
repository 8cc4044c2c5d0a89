"""How machines become nodes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace

from provisiond.config import Config
from provisiond.events.events import EventLog
from provisiond.hosts import HostsDirectory
from provisiond.nodes.leases import LeaseFile
from provisiond.nodes.model import BY_REGISTRATION, Node, find_node_name
from provisiond.nodes.registry import Registry
from provisiond.protocol import Checkin
from provisiond.refusals import TooMany


class Registrar:
    """Adds the nodes that check in for the first time."""

    def __init__(
        self,
        *,
        config: Config,
        registry: Registry,
        leases: LeaseFile,
        hosts: HostsDirectory,
        events: EventLog,
        clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._registry = registry
        self._leases = leases
        self._hosts = hosts
        self._events = events
        self._clock = clock
        self._new_nodes: deque[float] = deque()
        self._first_free = (-1, 1)
        """As the registry counted freed names: the lowest number whose name may be free."""

    def find_reason(self, hwaddr: str) -> str | None:
        """Return why the machine *hwaddr* may not register, or none when it may."""
        if len(self._registry.nodes) >= self._config.total_nodes:
            return "this node server has as many nodes as its total_nodes allows"
        if self._config.registration == "closed":
            return f"registration is closed; provisionctl node add {hwaddr}"
        return None

    async def register(self, checkin: Checkin, *, peer: str) -> Node:
        """Add the node that *checkin* is from, unless it is known by now.

        Raises:
            TooMany: more new nodes in this second than the configuration allows.
        """
        async with self._registry.administration:
            known = self._registry.find(checkin.hwaddrs)
            if known is not None:
                return known
            now = self._clock()
            self._count(now)
            hwaddr = checkin.hwaddrs[0]
            node = Node(
                node_id=hwaddr,
                name=self._make_name(),
                hwaddrs=self._unowned(checkin.hwaddrs),
                uuid=checkin.uuid,
                approved_by=BY_REGISTRATION if self._config.registration == "open" else None,
                address=self._leased(hwaddr, peer),
                created=int(now),
            )
            await self._registry.save_nodes((node,))
            self._hosts.update((node,))
            self._events.add("node.new", f"{hwaddr} at {peer}", now=now, node=node.name)
            return node

    async def learn(self, node: Node, checkin: Checkin, *, peer: str) -> Node:
        """Complete a node that an administrator added, when it checks in for the first time."""
        async with self._registry.administration:
            node = self._registry.nodes.get(node.node_id, node)
            hwaddrs = (*node.hwaddrs, *self._unowned(checkin.hwaddrs))
            learned = replace(
                node,
                uuid=node.uuid or checkin.uuid,
                hwaddrs=hwaddrs,
                address=node.address or self._leased(checkin.hwaddrs[0], peer),
            )
            if learned != node and node.node_id in self._registry.nodes:
                await self._registry.save_nodes((learned,))
                self._hosts.update((learned,))
            return learned

    def _make_name(self) -> str:
        """Return the lowest free name, without trying again those that were found taken."""
        freed, first = self._first_free
        if freed != self._registry.names_freed:
            first = 1
        name, number = find_node_name(
            self._config.name_pattern, self._config.total_nodes, self._registry.names, first=first
        )
        self._first_free = (self._registry.names_freed, number)
        return name

    def _count(self, now: float) -> None:
        # The clock may have been set back: what lies ahead of it counts no more either.
        while self._new_nodes and not 0.0 <= now - self._new_nodes[0] < 1.0:
            self._new_nodes.popleft()
        if len(self._new_nodes) >= self._config.new_nodes_per_second:
            raise TooMany("registration: too many new nodes at once", hint="ask again in a second")
        self._new_nodes.append(now)

    def _unowned(self, hwaddrs: tuple[str, ...]) -> tuple[str, ...]:
        """Return those of *hwaddrs* that no node has, each once."""
        return tuple(dict.fromkeys(item for item in hwaddrs if self._registry.find([item]) is None))

    def _leased(self, hwaddr: str, peer: str) -> str | None:
        """Return *peer* when dnsmasq gave it to *hwaddr*, and no other node has it.

        From then on it is kept for this node: dnsmasq gives it to nobody else.
        """
        leases = self._leases.read(now=self._clock())
        is_free = peer not in self._registry.addresses
        return peer if peer in leases.get(hwaddr, ()) and is_free else None
