"""What the nodes of another system make of all that is set here. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from provisiond.foreign.draft import Foreign, ForeignNode
from provisiond.nodes.interchange import State
from provisiond.nodes.model import BY_ADMINISTRATOR, Node, make_node_name
from provisiond.nodes.scopes import Scopes
from vnfsbuild.errors import InputError

IMAGE = "tag.image"
"""Where the name of an image is kept that is none of our capsules (yet)."""

IsThere = Callable[[str, str], bool]
"""Key of an attribute, value → whether what it names is in the store."""


def merge_foreign(
    foreign: Foreign, state: State, *, is_there: IsThere, name_pattern: str, total_nodes: int
) -> tuple[State, list[str]]:
    """Return *state* with the nodes and groups of *foreign*, and what was left out.

    Raises:
        InputError: with every node whose name or address belongs to another one here.
    """
    held = _find_owners(foreign, state)
    matched = {node.node_id for node in held.values()}
    staying = {node.name: node for node in state.nodes.values() if node.node_id not in matched}
    faults = [
        f"{foreign.where}:{item.line}: {item.name} is {staying[item.name].node_id} here; "
        f"provisionctl node replace {item.name} {item.hwaddrs[0]}"
        for item in foreign.nodes
        if item.name in staying
    ]
    if faults:
        raise InputError("\n".join(faults), hint="nothing was imported")
    notes: list[str] = []
    groups = dict(state.scopes.groups)
    for name, settings in foreign.groups.items():
        fitting = _fitting(foreign.where, f"group {name}", settings, is_there, notes)
        groups[name] = {**groups.get(name, {}), **fitting}
    taken = {*staying, *(item.name for item in foreign.nodes if item.name)}
    taken |= {node.name for node in held.values()}
    nodes = dict(staying)
    for item in foreign.nodes:
        old = held.get(item.line)
        name = item.name or (old.name if old else "")
        if not name:
            name = make_node_name(name_pattern, total_nodes, taken)
            taken.add(name)
        attributes = _fitting(foreign.where, name, item.attributes, is_there, notes)
        nodes[name] = _merged(item, old, name, attributes)
    scopes = Scopes(defaults=state.scopes.defaults, capsules=state.scopes.capsules, groups=groups)
    return State(nodes=nodes, scopes=scopes), notes


def with_lines(message: str, foreign: Foreign) -> str:
    """Return *message*, a fault a line, with the line of the file where a node's name begins it."""
    lines = {item.name: item.line for item in foreign.nodes if item.name}
    told = []
    for fault in message.split("\n"):
        line = lines.get(fault.partition(":")[0])
        told.append(fault if line is None else f"{foreign.where}:{line}: {fault}")
    return "\n".join(told)


def _find_owners(foreign: Foreign, state: State) -> dict[int, Node]:
    """Return by line the nodes here that have a hardware address of one in the file.

    Raises:
        InputError: two of the file are one here.
    """
    owners = {hwaddr: node for node in state.nodes.values() for hwaddr in node.hwaddrs}
    found: dict[int, Node] = {}
    lines: dict[str, int] = {}
    faults = []
    for item in foreign.nodes:
        node = next((owners[hwaddr] for hwaddr in item.hwaddrs if hwaddr in owners), None)
        if node is None:
            continue
        line = lines.setdefault(node.node_id, item.line)
        if line != item.line:
            faults.append(f"{foreign.where}:{item.line}: {item.hwaddrs[0]} is {node.name} here, as "
                          f"the one in line {line}")  # fmt: skip
        found[item.line] = node
    if faults:
        raise InputError("\n".join(faults), hint="nothing was imported")
    return found


def _fitting(
    where: str, subject: str, settings: Mapping[str, Any], is_there: IsThere, notes: list[str]
) -> dict[str, Any]:
    """Return *settings*, with the image as a tag when there is no capsule of that name."""
    image = settings.get("vnfs")
    if image is None or is_there("vnfs", image):
        return dict(settings)
    notes.append(
        f"{where}: {subject}: there is no capsule {image}; kept as {IMAGE}. Later: "
        f"provisionctl node set vnfs CAPSULE {IMAGE}={image}"
    )
    return {**{key: item for key, item in settings.items() if key != "vnfs"}, IMAGE: image}


def _merged(item: ForeignNode, old: Node | None, name: str, attributes: Mapping[str, Any]) -> Node:
    if old is None:
        return Node(
            node_id=item.hwaddrs[0],
            name=name,
            hwaddrs=item.hwaddrs,
            approved_by=BY_ADMINISTRATOR,
            attributes=attributes,
            groups=item.groups,
        )
    return replace(
        old,
        name=name,
        approved_by=BY_ADMINISTRATOR,
        attributes={**old.attributes, **attributes},
        groups=tuple(dict.fromkeys((*item.groups, *old.groups))),
    )
