"""Values that are well-formed and cannot be all the same: what is not in the store, is taken."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from provisiond.nodes.attributes import is_secret, nearest
from provisiond.nodes.clashes import find_clashes
from provisiond.nodes.model import Node, parse_group_name
from provisiond.parts import Parts
from vnfsbuild.errors import InputError
from vnfsbuild.manifest import BOOTSTRAP, CAPSULE
from vnfsbuild.reference import parse_reference

_REFERENCES = {"vnfs": (CAPSULE, "capsule"), "bootstrap": (BOOTSTRAP, "bootstrap")}
"""Attributes that name something in the store, and what."""


class Checks:
    """Judges by what is in the store and in the registry."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def is_hidden(self, key: str) -> bool:
        """Tell whether values of *key* are not to be told in events."""
        return is_secret(key)

    def is_in_store(self, key: str, value: str) -> bool:
        """Tell whether what attribute *key* names as *value* is in the store."""
        try:
            self.verify_references({key: value})
        except InputError:
            return False
        return True

    def verify_references(self, values: Mapping[str, Any]) -> None:
        """Make sure that what *values* name is in the store.

        Raises:
            InputError: it is not; the nearest name is told.
        """
        for key, (artifact_type, kind) in _REFERENCES.items():
            if values.get(key) is not None:
                self._verify_reference(values[key], artifact_type, kind)

    def verify_addresses(self, nodes: Collection[Node], deleted: Collection[str] = ()) -> None:
        """Make sure that no two nodes have one address once *nodes* are saved.

        Raises:
            InputError: with each that clashes.
        """
        changed = {node.node_id: node for node in nodes}
        before = self._parts.registry.nodes
        if all(_same_addresses(before.get(node.node_id), node) for node in nodes):
            return
        after = {**before, **changed}
        for node_id in deleted:
            after.pop(node_id, None)
        clashes = list(find_clashes(after.values(), changed, self._parts.config.address))
        if clashes:
            raise InputError("\n".join(clashes))

    def parse_groups(self, text: str) -> tuple[str, ...]:
        """Return the groups that *text* names, parted by blanks or commas, each once.

        Raises:
            InputError: one is not known.
        """
        names = tuple(dict.fromkeys(text.replace(",", " ").split()))
        for name in names:
            self.known_group(parse_group_name(name))
        return names

    def known_group(self, name: str) -> str:
        """Return *name* when it is that of a group.

        Raises:
            InputError: it is not; the nearest is told.
        """
        groups = self._parts.registry.scopes.groups
        if name not in groups:
            raise InputError(f"group {name}: not known{nearest(name, groups)}",
                             hint=f"provisionctl group add {name}")  # fmt: skip
        return name

    def known_name(self, name: str) -> str:
        """Return *name* when it is that of a node.

        Raises:
            InputError: it is not; the nearest is told.
        """
        names = self._parts.registry.names
        if name not in names:
            raise InputError(f"nodes: found no node {name}{nearest(name, names)}",
                             hint="provisionctl node list shows all that are known")  # fmt: skip
        return name

    def _verify_reference(self, text: str, artifact_type: str, kind: str) -> None:
        reference = parse_reference(text)
        catalogue = self._parts.catalogue
        if catalogue.find_stored(reference, artifact_type) is None:
            names = {
                item.name
                for item in catalogue.capsules
                if item.manifest.artifact_type == artifact_type
            }
            raise InputError(
                f"{kind} {text}: not in the store{nearest(reference.name, sorted(names))}",
                hint="provisionctl vnfs list; provisionctl vnfs import FILE",
            )


def _same_addresses(old: Node | None, new: Node) -> bool:
    def addresses(node: Node) -> list[tuple[str, Any]]:
        return [item for item in node.attributes.items() if item[0].endswith("address")]

    return old is not None and (old.address, addresses(old)) == (new.address, addresses(new))
