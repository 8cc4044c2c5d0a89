"""Nodes, what an administrator sets on them, and what they said last.

Values only. A :class:`Node` is what administration knows and changes; a :class:`Session` is what
one boot of it said. The two are stored apart, since they change by different hands.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any

from provisiond.nodes.tasks import Task
from provisiond.protocol import NextReport
from vnfsbuild.errors import InputError

_NODE_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")
_PATTERN = re.compile(r"([a-z][a-z0-9-]*?)(#+)\Z")

_GROUP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")

BY_ADMINISTRATOR = "administrator"
BY_REGISTRATION = "registration"


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """What is known of a machine by name."""

    node_id: str
    """The hardware address that it is known by; never changes."""
    name: str
    hwaddrs: tuple[str, ...]
    """All that it was seen with, *node_id* among them."""
    uuid: str | None = None
    approved_by: str | None = None
    """:data:`BY_ADMINISTRATOR`, or :data:`BY_REGISTRATION` where that is open: it may boot, and
    gets no secrets. None: it waits."""
    address: str | None = None
    """The address allotted to it when it registered; the attribute ``address`` stands above."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """What is set on the node itself; :mod:`.scopes` says what counts."""
    groups: tuple[str, ...] = ()
    """The groups that it is in, the strongest first."""
    created: int = 0

    @property
    def approved(self) -> bool:
        """Whether it may boot what it is assigned."""
        return self.approved_by is not None

    @property
    def gets_secrets(self) -> bool:
        """Whether an administrator has approved it, and not a rule."""
        return self.approved_by == BY_ADMINISTRATOR

    @property
    def kept_address(self) -> str | None:
        """The address that is this node's: the assigned one, else the allotted one."""
        assigned: str | None = self.attributes.get("address")
        return assigned or self.address


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """One boot of a node, from its first check-in on."""

    boot_id: str
    state: str
    since: float
    """When it came into *state*, seconds since 1970."""
    hwaddr: str
    """The hardware address that it was booted from."""
    peer: str
    """The address that it checked in from."""
    last_contact: float
    detail: str = ""
    key_hash: str | None = None
    """sha256 of the node key; none until one was given."""
    key_used: bool = False
    """Whether the node has shown that it got the key."""
    capsule: str | None = None
    """The digest that it reported."""
    last_good: str | None = None
    """The digest with which the node last came to ``ready``, in this boot or an earlier one."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """Digest → how often in a row the node failed with it, in this boot and earlier ones."""
    last_error: str = ""
    """Why the node failed last, in this boot or an earlier one."""
    last_error_at: float | None = None
    drivers: tuple[str, ...] = ()
    """Modules of drivers.cpio that its hardware takes, as this boot said, or an earlier one."""
    phases: Mapping[str, float] = field(default_factory=dict)
    """State → when this boot came into it."""
    report: Mapping[str, Any] = field(default_factory=dict)
    task: Task | None = None
    """What the node was given to do last, in this boot or an earlier one."""
    next: NextReport | None = None
    """What it said last of the capsule that it is to go over to; in memory only, it comes again."""


def parse_node_name(text: str) -> str:
    """Return *text* as the name of a node: one DNS label.

    Raises:
        InputError: it cannot be one.
    """
    if not _NODE_NAME.match(text):
        raise InputError(
            f"node name: found {text!r:.80}, expected lower-case letters, digits and '-'"
        )
    return text


def parse_group_name(text: str) -> str:
    """Return *text* as the name of a group.

    Raises:
        InputError: it cannot be one.
    """
    if not _GROUP_NAME.match(text):
        raise InputError(
            f"group name: found {text!r:.80}, expected letters, digits, '.', '_' and '-'"
        )
    return text


def parse_pattern(text: str) -> tuple[str, int]:
    """Return prefix and least width of a name pattern such as ``n####``.

    Raises:
        InputError: it is none.
    """
    match = _PATTERN.match(text)
    if not match:
        raise InputError(f"found {text!r:.80}, expected letters and then '#' signs, as n####")
    return match[1], len(match[2])


def make_node_name(pattern: str, total_nodes: int, taken: Container[str]) -> str:
    """Return the lowest free name; as wide as its pattern, or as *total_nodes* needs.

    Raises:
        InputError: *pattern* is none, or every name up to *total_nodes* is taken.
    """
    return find_node_name(pattern, total_nodes, taken, first=1)[0]


def find_node_name(
    pattern: str, total_nodes: int, taken: Container[str], *, first: int
) -> tuple[str, int]:
    """Return the lowest free name from number *first* on, and its number.

    Raises:
        InputError: as :func:`make_node_name`.
    """
    prefix, least_width = parse_pattern(pattern)
    width = max(least_width, len(str(total_nodes)))
    for number in range(first, total_nodes + 1):
        name = f"{prefix}{number:0{width}d}"
        if name not in taken:
            return name, number
    raise InputError(f"node names: all {total_nodes} of {pattern} are taken")
