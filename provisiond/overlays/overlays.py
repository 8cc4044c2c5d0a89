"""The overlays of nodes: which a node gets, their digests, and the files when they are fetched.

Of each node only the digest is kept; what nodes share is kept once. All of it belongs to the event
loop, besides :func:`.folders.load_overlays`, which reads folders.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

from provisiond.config import Config
from provisiond.nodes.attributes import nearest
from provisiond.nodes.model import Node, Session
from provisiond.nodes.registry import Registry
from provisiond.nodes.scopes import Attributes, Scopes
from provisiond.overlays.files import Overlay
from provisiond.overlays.folders import Loaded, load_overlays
from provisiond.overlays.render import (
    Memo,
    Rendered,
    choose_overlays,
    keep_members,
    pack_overlay,
    render_node,
)
from provisiond.overlays.values import (
    OF_ALL_NODES,
    NodeFacts,
    NodeTable,
    NodeValues,
    SiteFacts,
    make_node_table,
)
from provisiond.protocol import PlannedOverlay
from vnfsbuild.digest import digest_of
from vnfsbuild.errors import InputError

FOR_ALL = (
    "hostname", "hosts", "machine-id", "network", "resolver", "timezone", "kernel-modules",
    "sysctl", "mounts", "chrony", "timesyncd", "rsyslog", "users", "passwords", "authorized-keys",
    "ssh-host-keys",
)  # fmt: skip
"""Built-in ones that every node gets: most make nothing until their attribute is set."""
MAX_MEMO_FILES = 5_000

_Row = tuple[str, str | None, tuple[str, ...], dict[str, Any]]
"""Of a node: name, address, groups, tags."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Held:
    """The digest of a node's overlay, and what it was made from."""

    node: Node
    attributes: Attributes
    hwaddr: str
    peer: str
    generation: int
    nodes: NodeTable | None
    """When a template looked at it."""
    planned: PlannedOverlay | None
    fault: str


class Overlays:
    """Renders overlays from the folders that there are."""

    def __init__(self, config: Config, site_secret: bytes, registry: Registry) -> None:
        self._registry = registry
        self._prefix_length = config.address.network.prefixlen
        self._site = SiteFacts(
            secret=site_secret,
            server=config.address.ip,
            gateway=config.gateway,
            name_servers=config.name_servers,
            domain=config.domain,
        )
        self._loaded = load_overlays(None, None, before=Loaded())
        self._generation = 0
        self._memo = Memo()
        self._held: dict[str, _Held] = {}
        self._nodes = NodeTable()
        self._nodes_version = -1
        self._rows: dict[str, tuple[Node, _Row]] = {}
        self._rows_scopes: Scopes | None = None

    @property
    def loaded(self) -> Loaded:
        """The overlays that there are."""
        return self._loaded

    def use(self, loaded: Loaded) -> bool:
        """Use the overlays *loaded* from now on; tell whether they are others than before."""
        before, self._loaded = self._loaded, loaded
        if loaded == before:
            return False
        self._generation += 1
        self._memo.clear()
        return True

    def plan(self, node: Node, session: Session, attributes: Attributes) -> PlannedOverlay:
        """Return digest and size of the overlay of a node in this boot.

        Raises:
            InputError: it cannot be made; with the first of what is wrong.
        """
        held = self._held.get(node.node_id)
        if held is None or not self._holds(held, node, session, attributes):
            if len(self._held) > 2 * len(self._registry.nodes) + 1:
                self._held.clear()  # of nodes that are no more
            held = self._held[node.node_id] = self._make_held(node, session, attributes)
        if held.planned is None:
            raise InputError(held.fault)
        return held.planned

    def pack(self, node: Node, session: Session, attributes: Attributes) -> bytes:
        """Return the overlay itself.

        Raises:
            InputError: it cannot be made.
        """
        rendered = self.render(node, attributes, hwaddr=session.hwaddr, peer=session.peer)
        if rendered.faults:
            raise InputError(rendered.faults[0])
        return pack_overlay(rendered.files, self._memo)

    def render(
        self, node: Node, attributes: Attributes, *, hwaddr: str, peer: str | None
    ) -> Rendered:
        """Return the files of a node that was booted from *hwaddr* and asked from *peer*."""
        address = node.kept_address or peer
        if address is None:
            return Rendered(files=(), faults=(f"{node.name}: has no address yet",))
        facts = NodeFacts(
            name=node.name,
            node_id=node.node_id,
            hwaddr=hwaddr,
            address=IPv4Interface((IPv4Address(address), self._prefix_length)),
            uuid=node.uuid,
            groups=node.groups,
        )
        if len(self._memo.files) > MAX_MEMO_FILES:
            self._memo.clear()
        values = NodeValues(facts, attributes, self._site, self._table)
        overlays, faults = self._choose(attributes)
        rendered = render_node(overlays, values, with_secrets=node.gets_secrets, memo=self._memo)
        return Rendered(
            files=rendered.files,
            faults=(*faults, *rendered.faults),
            held_back=rendered.held_back,
            uses=rendered.uses,
        )

    def names_of(self, attributes: Attributes) -> tuple[str, ...]:
        """Return the names of the overlays that *attributes* ask for, the weakest first."""
        return choose_overlays((*FOR_ALL, *attributes["overlays"].value))

    def _choose(self, attributes: Attributes) -> tuple[list[Overlay], list[str]]:
        found, faults = [], []
        plain = self._loaded.plain
        names = self.names_of(attributes)
        last_for_all = max((names.index(name) for name in FOR_ALL if name in names), default=-1)
        for number, name in enumerate(names):
            overlay = self._loaded.overlays.get(name)
            if overlay is not None:
                found.append(overlay)
            elif name in self._loaded.faults:
                faults.append(self._loaded.faults[name].partition("\n")[0])
            else:
                faults.append(f"overlay {name}: not there{nearest(name, self._loaded.overlays)}")
            if plain is not None and number == last_for_all:
                found.append(plain)
                plain = None
        return ([plain, *found] if plain is not None else found), faults

    def _holds(self, held: _Held, node: Node, session: Session, attributes: Attributes) -> bool:
        return (
            held.node is node
            and held.attributes is attributes
            and held.generation == self._generation
            and held.hwaddr == session.hwaddr
            and held.peer == session.peer
            and (held.nodes is None or held.nodes is self._table())
        )

    def _make_held(self, node: Node, session: Session, attributes: Attributes) -> _Held:
        rendered = self.render(node, attributes, hwaddr=session.hwaddr, peer=session.peer)
        planned, fault = None, "; ".join(rendered.faults[:1])
        if not rendered.faults:
            try:
                keep_members(self._memo)
                data = pack_overlay(rendered.files, self._memo)
                planned = PlannedOverlay(digest=digest_of(data), size_bytes=len(data))
            except InputError as error:
                fault = error.message
        return _Held(
            node=node,
            attributes=attributes,
            hwaddr=session.hwaddr,
            peer=session.peer,
            generation=self._generation,
            nodes=self._table() if OF_ALL_NODES & rendered.uses else None,
            planned=planned,
            fault=fault,
        )

    def _table(self) -> NodeTable:
        """Return the table of all nodes; the same one until something in it changed."""
        registry = self._registry
        if self._nodes_version != registry.version:
            self._nodes_version = registry.version
            if self._find_rows():
                rows = (row for _, row in self._rows.values())
                table = make_node_table(rows, self._site.domain)
                if tuple(table) != tuple(self._nodes):
                    self._nodes = table
        return self._nodes

    def _find_rows(self) -> bool:
        """Find the rows of all nodes; tell whether they are others than before.

        Most changes are of one node, and many of them, as what a first boot tells of its machine,
        do not show in the table: what is not new is not worked out anew.
        """
        registry, before = self._registry, self._rows
        held = before if registry.scopes is self._rows_scopes else {}
        self._rows_scopes = registry.scopes
        self._rows = {}
        for node_id, node in registry.nodes.items():
            found = held.get(node_id)
            if found is None or found[0] is not node:
                found = (node, self._make_row(node))
            self._rows[node_id] = found
        rows = [row for _, row in self._rows.values()]
        return rows != [row for _, row in before.values()]

    def _make_row(self, node: Node) -> _Row:
        tags = self._registry.effective(node).family("tag")
        texts = {name: values[""] for name, values in tags.items()}
        return node.name, node.kept_address, node.groups, texts
