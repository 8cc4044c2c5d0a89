"""What was read of another system's file, with the line of each thing, and all its faults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from provisiond.nodes.attributes import parse_value, verify_scope
from provisiond.nodes.model import parse_group_name, parse_node_name
from provisiond.nodes.values import parse_hwaddr
from vnfsbuild.errors import InputError

NAMES_SHOWN = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class ForeignNode:
    """A node that a file names."""

    line: int
    name: str | None
    """None: it gets the next free name."""
    hwaddrs: tuple[str, ...]
    """The one that it boots from first."""
    attributes: Mapping[str, Any]
    groups: tuple[str, ...] = ()
    """The strongest first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Foreign:
    """All that a file says."""

    where: str
    nodes: tuple[ForeignNode, ...]
    groups: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Group → what it sets."""
    notes: tuple[str, ...] = ()
    """What is there and was left out, each with its line."""


class Draft:
    """Collects nodes, groups, notes and faults of the file *where*."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._nodes: list[ForeignNode] = []
        self._groups: dict[str, dict[str, Any]] = {}
        self._notes: list[str] = []
        self._faults: list[tuple[int, str]] = []
        self._lines: dict[str, int] = {}

    def fault(self, line: int, text: str) -> None:
        """Note that what stands in *line* cannot be."""
        self._faults.append((line, text))

    def note(self, line: int, text: str) -> None:
        """Note that what stands in *line* was left out."""
        self._notes.append(f"{self._where}:{line}: {text}")

    def value(self, line: int, key: str, value: Any, *, scope: str) -> Any:
        """Return *value* as the value of attribute *key* in *scope*; None when it is a fault."""
        try:
            verify_scope(key, scope)
            return parse_value(key, value)
        except InputError as error:
            self.fault(line, error.message)
            return None

    def hwaddr(self, line: int, text: str) -> str | None:
        """Return *text* as a hardware address; None when it is a fault."""
        try:
            return parse_hwaddr(text)
        except InputError as error:
            self.fault(line, error.message)
            return None

    def name(self, line: int, text: str) -> str | None:
        """Return the name that the node *text* gets here: its first label, in lower case."""
        name = text.strip().partition(".")[0].lower().replace("_", "-")
        try:
            return parse_node_name(name)
        except InputError as error:
            self.fault(line, error.message)
            return None

    def group(self, line: int, name: str, settings: Mapping[str, Any]) -> None:
        """Add the group *name*, or more of what it sets."""
        try:
            self._groups.setdefault(parse_group_name(name), {}).update(settings)
        except InputError as error:
            self.fault(line, error.message)

    def node(self, node: ForeignNode) -> None:
        """Add *node*; another one with its name or one of its addresses is a fault."""
        for what in (*([node.name] if node.name else []), *node.hwaddrs):
            line = self._lines.setdefault(what, node.line)
            if line != node.line:
                self.fault(node.line, f"{what} stands in line {line} too")
        self._nodes.append(node)

    def finish(self) -> Foreign:
        """Return what was read.

        Raises:
            InputError: with every fault, each with its line.
        """
        if self._faults:
            faults = sorted(dict.fromkeys(self._faults))
            raise InputError("\n".join(f"{self._where}:{line}: {text}" for line, text in faults))
        if not self._nodes:
            raise InputError(f"{self._where}: found no node in it")
        return Foreign(
            where=self._where,
            nodes=tuple(self._nodes),
            groups=self._groups,
            notes=tuple(self._notes),
        )
