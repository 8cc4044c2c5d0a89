"""dnsmasq's directories of hosts: a file per node in each, for its address and for its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from provisiond.dnsmasq_config import DnsmasqPlaces, render_host, render_name
from provisiond.nodes.model import Node


class HostsDirectory:
    """The directories; *tell_dnsmasq* makes dnsmasq read them anew.

    It sees new files by itself, but keeps what a changed or deleted one said before.
    """

    def __init__(self, places: DnsmasqPlaces, tell_dnsmasq: Callable[[], None]) -> None:
        self._hosts = places.hosts
        self._names = places.names
        self._tell_dnsmasq = tell_dnsmasq

    def replace_all(self, nodes: Mapping[str, Node]) -> None:
        """Bring the directories in line with *nodes*, by node id."""
        known = {_file_name(node_id) for node_id in nodes}
        for directory in (self._hosts, self._names):
            for path in directory.iterdir():
                if path.name not in known:
                    path.unlink()
        for node in nodes.values():
            self._write_node(node)
        self._tell_dnsmasq()

    def update(self, nodes: tuple[Node, ...], deleted: tuple[str, ...] = ()) -> None:
        """Write the files of *nodes*, and remove those of the nodes whose ids are *deleted*."""
        stale = False
        for node_id in deleted:
            for directory in (self._hosts, self._names):
                (directory / _file_name(node_id)).unlink(missing_ok=True)
            stale = True
        for node in nodes:
            stale |= self._write_node(node)
        if stale:
            self._tell_dnsmasq()

    def _write_node(self, node: Node) -> bool:
        """Write the files of *node*; tell whether others were there."""
        address = node.kept_address
        name = _file_name(node.node_id)
        hosts = _write(self._hosts / name, render_host(node.hwaddrs, address, node.name))
        names = _write(self._names / name, render_name(address, node.name))
        return hosts or names


def _write(path: Path, text: str) -> bool:
    try:
        found: str | None = path.read_text(encoding="ascii")
    except FileNotFoundError:
        found = None
    if found == text:
        return False
    # Whole, but not synced: where they differ they are written anew when the daemon starts.
    aside = path.with_name(f".{path.name}.new")
    aside.write_text(text, encoding="ascii")
    aside.chmod(0o644)
    aside.replace(path)
    return bool(found)


def _file_name(node_id: str) -> str:
    return node_id.replace(":", "-")
