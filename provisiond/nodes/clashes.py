"""What two nodes cannot both have, and what no node can: addresses. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from ipaddress import IPv4Address, IPv4Interface

from provisiond.nodes.model import Node


def find_clashes(
    nodes: Iterable[Node], changed: Collection[str], server: IPv4Interface
) -> Iterator[str]:
    """Yield what is wrong with the addresses of the nodes whose ids are *changed*, among *nodes*.

    *server* is the address of the node server, in the network that the nodes boot in.
    """
    holders: dict[str, list[Node]] = {}
    for node in nodes:
        for address in addresses_of(node):
            holders.setdefault(address, []).append(node)
        assigned = node.attributes.get("address")
        if node.node_id in changed and assigned is not None and not _is_free(assigned, server):
            yield (
                f"{node.name}: address: found {assigned}, expected one of {server.network} for "
                "nodes"
            )
    for address, held in holders.items():
        if len(held) > 1 and any(node.node_id in changed for node in held):
            # The one that had it before is named; of two that are changed, any.
            holder = next((node for node in held if node.node_id not in changed), held[0])
            other = next(node for node in held if node is not holder)
            yield f"{other.name}: address: {address} is the address of {holder.name}"


def addresses_of(node: Node) -> set[str]:
    """Return all addresses that *node* has: allotted, assigned, and of its interfaces."""
    found = {address for address in (node.address, node.attributes.get("address")) if address}
    for key, value in node.attributes.items():
        if key.startswith("interface.") and key.endswith(".address"):
            found.add(str(value).partition("/")[0])
    return found


def _is_free(address: str, server: IPv4Interface) -> bool:
    network = server.network
    taken = (server.ip, network.network_address, network.broadcast_address)
    return IPv4Address(address) in network and IPv4Address(address) not in taken
