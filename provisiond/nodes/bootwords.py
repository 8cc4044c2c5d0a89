"""What a bootstrap must know of its node before it can ask, as words. Pure.

They travel in site.cpio, which firmware fetches for one hardware address; none of them is secret.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Interface

from provisiond.nodes.model import Node
from provisiond.nodes.scopes import Attributes


def render_words(
    node: Node | None,
    attributes: Attributes,
    *,
    network: IPv4Interface,
    gateway: IPv4Address | None,
    name_servers: Iterable[IPv4Address],
) -> bytes:
    """Return the words for *node*, a line each; nothing when there are none.

    *network* is that of the node server, whose prefix length is the nodes' too.
    """
    words = {}
    if attributes["bootstrap_vlan"].value:
        words["vlan"] = attributes["bootstrap_vlan"].value
    address = node.kept_address if node else None
    if attributes["bootstrap_address"].value == "static" and address:
        words["ip"] = f"{address}/{network.network.prefixlen}"
        words["router"] = gateway or ""
        words["dns"] = ",".join(map(str, name_servers))
    if attributes["on_failure"].value != "retry":
        words["tries"] = attributes["tries"].value
        words["on_failure"] = attributes["on_failure"].value
    lines = [f"vnfs.{name}={value}\n" for name, value in words.items() if value != ""]
    if attributes["debug"].value:
        lines.append("vnfs.debug\n")
    return "".join(lines).encode("ascii")
