"""What an administrator asks about overlays: which there are, what a node gets, what is wrong."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import Any

from provisiond.administration.nodes import NodeAdministration
from provisiond.nodes.attributes import nearest
from provisiond.nodes.model import Node
from provisiond.overlays.files import OverlayFile
from provisiond.overlays.overlays import FOR_ALL
from provisiond.overlays.render import Rendered
from provisiond.parts import Parts
from vnfsbuild.digest import digest_of
from vnfsbuild.errors import InputError

NODES_AT_ONCE = 20
"""Between so many that are checked, others are answered."""


class OverlayAdministration:
    """Reads; changes nothing. Values go in and come out as JSON has them."""

    def __init__(self, parts: Parts, nodes: NodeAdministration) -> None:
        self._parts = parts
        self._registry = parts.registry
        self._nodes = nodes

    def list_overlays(self) -> list[dict[str, Any]]:
        """Return all overlays, with how many nodes get each."""
        loaded = self._parts.overlays.loaded
        users: dict[str, int] = {}
        for node in self._registry.nodes.values():
            for name in self._parts.overlays.names_of(self._registry.effective(node)):
                users[name] = users.get(name, 0) + 1
        names = {**loaded.overlays, **dict.fromkeys(loaded.faults), **dict.fromkeys(users)}
        rows = []
        for name in sorted(names):
            overlay = loaded.overlays.get(name)
            fault = loaded.faults.get(name)
            rows.append({
                "name": name,
                "description": overlay.description if overlay else "",
                "secret": overlay.secret if overlay else False,
                "builtIn": overlay.built_in if overlay else False,
                "forAll": name in FOR_ALL,
                "where": overlay.where if overlay else "",
                "nodes": users.get(name, 0),
                "fault": fault or ("" if overlay else "not there"),
            })  # fmt: skip
        if loaded.plain is not None:
            count = len(self._registry.nodes)
            rows.append({"name": loaded.plain.name, "description": loaded.plain.description,
                         "secret": False, "builtIn": False, "forAll": True, "fault": "",
                         "where": loaded.plain.where, "nodes": count})  # fmt: skip
        return rows

    def show(self, name: str, path: str | None = None, *, secrets: bool = False) -> dict[str, Any]:
        """Return what the node *name* gets now; the content of the file *path*, or of none.

        Raises:
            InputError: there is no such node or file, it cannot be made, or it is secret and
                *secrets* were not asked for.
        """
        found = self._nodes.select([name]).found
        if len(found) != 1:
            raise InputError(f"overlay: {name}: found {len(found)} nodes, expected one")
        node = self._registry.named(found[0])
        rendered = self._render(node)
        files = {file.path: file for file in rendered.files}
        shown: dict[str, Any] = {
            "node": node.name,
            "files": [_show_file(file) for file in rendered.files],
            "faults": list(rendered.faults),
            "heldBack": list(rendered.held_back),
        }
        if path is None:
            return shown
        file = files.get(path.strip("/"))
        if file is None:
            faults = f"; {rendered.faults[0]}" if rendered.faults else ""
            raise InputError(f"overlay of {node.name}: {path}: no such file"
                             f"{nearest(path.strip('/'), files)}{faults}")  # fmt: skip
        if file.secret and not secrets:
            raise InputError(f"overlay of {node.name}: {path}: secret, of the overlay "
                             f"{file.overlay}", hint="--secrets shows it")  # fmt: skip
        if file.link is not None:
            raise InputError(f"overlay of {node.name}: {path}: a link to {file.link}")
        return {**shown, "data": base64.b64encode(file.data).decode("ascii")}

    async def check(self, expressions: Sequence[str] = ()) -> dict[str, Any]:
        """Make the overlays of nodes, without any of all, and return what is wrong with them.

        Raises:
            InputError: a node is not known.
        """
        names = list(self._nodes.select(expressions).found) if expressions else sorted(
            self._registry.names)  # fmt: skip
        faults: dict[str, list[str]] = {
            text: [] for fault in self._parts.overlays.loaded.faults.values()
            for text in fault.splitlines()
        }  # fmt: skip
        held_back = 0
        for number, name in enumerate(names):
            if name not in self._registry.names:
                continue  # it went while others were answered
            rendered = self._render(self._registry.named(name))
            held_back += bool(rendered.held_back)
            for fault in rendered.faults:
                faults.setdefault(fault, []).append(name)
            if number % NODES_AT_ONCE == 0:
                await asyncio.sleep(0)
        return {
            "nodes": len(names),
            "heldBack": held_back,
            "faults": [{"text": text, "nodes": nodes} for text, nodes in faults.items()],
        }

    def _render(self, node: Node) -> Rendered:
        session = self._registry.sessions.get(node.node_id)
        return self._parts.overlays.render(
            node,
            self._registry.effective(node),
            hwaddr=session.hwaddr if session else node.node_id,
            peer=session.peer if session else None,
        )


def _show_file(file: OverlayFile) -> dict[str, Any]:
    return {
        "path": f"/{file.path}",
        "overlay": file.overlay,
        "mode": f"{file.mode:04o}",
        "owner": file.owner,
        "group": file.group,
        "link": file.link,
        "directory": file.is_directory,
        "secret": file.secret,
        "sizeBytes": len(file.data),
        # Of a secret the digest would say whether one guessed right.
        "digest": None if file.secret or file.link or file.is_directory else digest_of(file.data),
    }
