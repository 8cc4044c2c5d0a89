"""What an administrator asks of nodes: add, set, approve, rename, replace, delete. No sockets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from provisiond.administration.checks import Checks
from provisiond.nodes.attributes import NODE, parse_attribute, render_value, verify_scope
from provisiond.nodes.model import BY_ADMINISTRATOR, Node, make_node_name, parse_node_name
from provisiond.nodes.registry import Registry
from provisiond.nodes.selection import Selection, select_nodes
from provisiond.nodes.values import parse_hwaddr
from provisiond.nodes.view import NodeView
from provisiond.parts import Parts
from vnfsbuild.errors import InputError

GROUPS = "groups"
"""Set as attributes are, and none: the ordered groups of a node."""


class NodeAdministration:
    """Changes of nodes. Values go in and come out as JSON has them."""

    def __init__(self, parts: Parts, view: NodeView) -> None:
        self._parts = parts
        self._registry: Registry = parts.registry
        self._view = view
        self._checks = Checks(parts)

    def list_nodes(self, expressions: Sequence[str] = ()) -> list[dict[str, Any]]:
        """Return the nodes that *expressions* mean, without any all, sorted by name.

        Raises:
            InputError: an expression cannot be read, or a node that is named is not known.
        """
        return [self._view.show(self._registry.named(name)) for name in self._names(expressions)]

    def show_nodes(self, expressions: Sequence[str] = ()) -> list[dict[str, Any]]:
        """Return what :meth:`list_nodes` does, with the authority that each node stands on.

        Raises:
            InputError: as :meth:`list_nodes`.
        """
        nodes = [self._registry.named(name) for name in self._names(expressions)]
        return [
            {**self._view.show(node), "authority": self._view.authority(node)} for node in nodes
        ]

    async def add_node(
        self,
        hwaddr: str,
        *,
        name: str | None,
        attributes: Mapping[str, str],
        groups: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Add a node, approved, since an administrator names it.

        Raises:
            InputError: the address or name is taken, or something is malformed.
        """
        node_id = parse_hwaddr(hwaddr)
        values = {key: parse_attribute(key, text) for key, text in attributes.items()}
        for key in values:
            verify_scope(key, NODE)
        async with self._registry.administration:
            held = self._registry.find([node_id])
            if held is not None:
                raise InputError(f"node add: {node_id} is {held.name} already")
            self._verify_room()
            node = Node(
                node_id=node_id,
                name=self._free_name(name),
                hwaddrs=(node_id,),
                approved_by=BY_ADMINISTRATOR,
                attributes={key: value for key, value in values.items() if value is not None},
                groups=self._checks.parse_groups(" ".join(groups)),
                created=int(self._parts.clock()),
            )
            await self._change((node,), values, f"added as {node_id}")
            self._parts.hosts.update((node,))
            return self._view.show(node)

    async def set_attribute(
        self, key: str, text: str, expressions: Sequence[str]
    ) -> dict[str, list[str]]:
        """Set an attribute of nodes; an empty *text* unsets it.

        Assigning a capsule approves those that are named, and none that a pattern, a group or a
        filter brings in: there may be machines among them that nobody knows.

        Raises:
            InputError: no such attribute, no such value, no such capsule, or no such node.
        """
        if key == GROUPS:
            return await self._set_groups(text, expressions)
        value = parse_attribute(key, text)
        verify_scope(key, NODE)

        def change(node: Node) -> Node:
            attributes = {item: held for item, held in node.attributes.items() if item != key}
            if value is not None:
                attributes[key] = value
            return replace(node, attributes=attributes)

        shown = "set" if self._checks.is_hidden(key) else render_value(value)
        told = f"{key} unset" if value is None else f"{key} = {shown}"
        return await self._change_selected(
            expressions, change, told, {key: value}, approves=key == "vnfs" and value is not None
        )

    async def unset_attributes(
        self, keys: Sequence[str], expressions: Sequence[str]
    ) -> dict[str, list[str]]:
        """Forget what is set on the nodes themselves for *keys*; weaker scopes count then.

        Raises:
            InputError: no such attribute, or no such node.
        """
        for key in keys:
            verify_scope(key, NODE)

        def change(node: Node) -> Node:
            attributes = {key: held for key, held in node.attributes.items() if key not in keys}
            return replace(node, attributes=attributes)

        return await self._change_selected(expressions, change, f"{', '.join(keys)} unset", {})

    async def approve(self, expressions: Sequence[str]) -> dict[str, list[str]]:
        """Approve nodes: from now on they may boot what they are assigned.

        Raises:
            InputError: no such node.
        """
        return await self._change_selected(
            expressions, lambda node: replace(node, approved_by=BY_ADMINISTRATOR), "approved", {}
        )

    async def retry(self, expressions: Sequence[str]) -> dict[str, list[str]]:
        """Let nodes boot what they are assigned again, however often they failed with it.

        Raises:
            InputError: no such node.
        """
        selection = self.select(expressions)
        for name in selection.found:
            node = self._registry.named(name)
            async with self._registry.session_lock(node.node_id):
                session = self._registry.sessions.get(node.node_id)
                if session is not None and session.failures:
                    self._tell("node.changed", "failures are forgotten", node=name)
                    await self._registry.save_session(node.node_id, replace(session, failures={}))
            for hwaddr in node.hwaddrs:
                self._registry.wake(hwaddr)
        return show_selection(selection)

    async def rename(self, name: str, new_name: str) -> dict[str, Any]:
        """Give the node *name* another name.

        Raises:
            InputError: there is no such node, or the name is taken or none.
        """
        async with self._registry.administration:
            node = self._one(name)
            renamed = replace(node, name=self._free_name(new_name))
            await self._change((renamed,), {}, f"renamed, was {name}")
            self._parts.hosts.update((renamed,))
            return self._view.show(renamed)

    async def replace(self, name: str, hwaddr: str) -> dict[str, Any]:
        """Make the machine *hwaddr* the node *name*, with all that is set and allotted there.

        The boot of the machine that was it ends: its node key is worth nothing any more. When the
        new machine has registered already and nobody has set or approved anything there, it gives
        that name back.

        Raises:
            InputError: there is no such node, or the address belongs to another one.
        """
        node_id = parse_hwaddr(hwaddr)
        async with self._registry.administration:
            old = self._one(name)
            if node_id in old.hwaddrs:
                raise InputError(f"node replace: {node_id} is an address of {name} already")
            held = self._registry.find([node_id])
            if held is not None and (held.attributes or held.groups or held.gets_secrets):
                raise InputError(
                    f"node replace: {node_id} is {held.name} already",
                    hint=f"provisionctl node delete {held.name}",
                )
            new = replace(
                old,
                node_id=held.node_id if held else node_id,
                hwaddrs=held.hwaddrs if held else (node_id,),
                uuid=held.uuid if held else None,
                approved_by=BY_ADMINISTRATOR,
            )
            deleted = (old.node_id,)
            await self._registry.save_nodes((new,), deleted=deleted)
            self._parts.hosts.update((new,), deleted=deleted)
            self._tell("node.changed", f"replaced, was {old.node_id}", node=name)
            return self._view.show(new)

    async def delete(self, expressions: Sequence[str]) -> dict[str, list[str]]:
        """Forget nodes; one that still runs comes back as a new node.

        Raises:
            InputError: no such node.
        """
        async with self._registry.administration:
            selection = self.select(expressions)
            ids = tuple(self._registry.names[name] for name in selection.found)
            await self._registry.save_nodes((), deleted=ids)
            self._parts.hosts.update((), deleted=ids)
            for name in selection.found:
                self._tell("node.changed", "deleted", node=name)
        return show_selection(selection)

    def select(self, expressions: Sequence[str], *, may_be_none: bool = False) -> Selection:
        """Return which nodes *expressions* mean.

        Raises:
            InputError: an expression cannot be read, or a node that is named is not known.
        """
        return select_nodes(expressions, self._view.known(), may_be_none=may_be_none)

    def _names(self, expressions: Sequence[str]) -> Sequence[str]:
        if not expressions:
            return sorted(self._registry.names)
        return self.select(expressions, may_be_none=True).found

    def _one(self, name: str) -> Node:
        return self._registry.named(self._checks.known_name(name))

    async def _set_groups(self, text: str, expressions: Sequence[str]) -> dict[str, list[str]]:
        """Make the nodes members of these groups and no others; ``+`` puts them behind theirs."""
        adds = text.strip().startswith("+")
        named = self._checks.parse_groups(text.strip().removeprefix("+"))

        def change(node: Node) -> Node:
            kept = tuple(name for name in node.groups if name not in named) if adds else ()
            return replace(node, groups=(*kept, *named))

        told = f"groups {'+ ' if adds else '= '}{' '.join(named)}" if named else "in no group"
        return await self._change_selected(expressions, change, told, {})

    async def _change_selected(
        self,
        expressions: Sequence[str],
        change: Callable[[Node], Node],
        told: str,
        values: Mapping[str, Any],
        *,
        approves: bool = False,
    ) -> dict[str, list[str]]:
        async with self._registry.administration:
            selection = self.select(expressions)
            nodes = [change(self._registry.named(name)) for name in selection.found]
            if approves:
                nodes = [
                    replace(node, approved_by=BY_ADMINISTRATOR)
                    if node.name in selection.named
                    else node
                    for node in nodes
                ]
            await self._change(tuple(nodes), values, told)
        waiting = [node.name for node in nodes if approves and not node.approved]
        return {**show_selection(selection), "waiting": waiting}

    async def _change(self, nodes: tuple[Node, ...], values: Mapping[str, Any], told: str) -> None:
        """Save *nodes*, which differ from what they were by *values* among others."""
        self._checks.verify_references(values)
        self._checks.verify_addresses(nodes)
        before = [self._registry.nodes.get(node.node_id) for node in nodes]
        await self._registry.save_nodes(nodes)
        moved = tuple(
            node
            for node, old in zip(nodes, before, strict=True)
            if old is not None and old.kept_address != node.kept_address
        )
        self._parts.hosts.update(moved)
        for node in nodes:
            self._tell("node.changed", told, node=node.name)

    def _verify_room(self) -> None:
        most = self._parts.config.total_nodes
        if len(self._registry.nodes) >= most:
            raise InputError(f"node add: there are {most} nodes, as many as may be")

    def _free_name(self, name: str | None) -> str:
        """Return *name*, or the next free one.

        Raises:
            InputError: it is taken, or none.
        """
        config = self._parts.config
        if name is None:
            taken = set(self._registry.names)
            return make_node_name(config.name_pattern, config.total_nodes, taken)
        if parse_node_name(name) in self._registry.names:
            raise InputError(f"node: the name {name} is taken")
        return name

    def _tell(self, kind: str, text: str, *, node: str | None = None) -> None:
        self._parts.events.add(kind, text, now=self._parts.clock(), node=node)


def show_selection(selection: Selection) -> dict[str, list[str]]:
    """Return *selection* as JSON has it."""
    return {"nodes": list(selection.found), "missing": list(selection.missing)}
