"""Nodes, what an administrator sets on them, and what they said last.

Values only. A :class:`Node` is what administration knows and changes; a :class:`Session` is what
one boot of it said. The two are stored apart, since they change by different hands.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vnfsbuild.errors import InputError
from vnfsbuild.reference import parse_reference

_HWADDR = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}(?:(?::[0-9a-f]{2}){14})?\Z")
_NODE_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")
_PATTERN = re.compile(r"([a-z][a-z0-9-]*?)(#+)\Z")

USABLE_METHODS = ("kexec", "pivot")
"""Methods that an agent of this version carries out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """What is known of a machine by name."""

    node_id: str
    """The hardware address that it is known by; never changes."""
    name: str
    hwaddrs: tuple[str, ...]
    """All that it was seen with, *node_id* among them."""
    uuid: str | None = None
    approved: bool = False
    address: str | None = None
    """The address allotted to it when it registered; the attribute ``address`` stands above."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    created: int = 0


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
    phases: Mapping[str, float] = field(default_factory=dict)
    """State → when this boot first came into it."""
    report: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Attribute:
    """Something that can be set."""

    parse: Callable[[str], Any]
    """Returns the value of a text; raises :class:`InputError`."""
    default: Any
    meaning: str


def _parse_bool(text: str) -> bool:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if text.lower() not in words:
        raise InputError(f"found {text!r}, expected true or false")
    return words[text.lower()]


def _parse_method(text: str) -> str:
    if text not in USABLE_METHODS:
        raise InputError(f"found {text!r}, expected {' or '.join(USABLE_METHODS)}")
    return text


def _parse_capsule(text: str) -> str:
    return str(parse_reference(text))


def _parse_address(text: str) -> str:
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError as error:
        raise InputError(f"found {text!r}, expected an IPv4 address") from error


def _parse_arguments(text: str) -> list[str]:
    if not text.isprintable() or not text.isascii():
        raise InputError(f"found {text!r}, expected printable ASCII")
    return text.split()


ATTRIBUTES: Mapping[str, Attribute] = {
    "vnfs": Attribute(parse=_parse_capsule, default=None, meaning="the capsule that it boots"),
    "method": Attribute(parse=_parse_method, default="kexec", meaning="how it gets into it"),
    "kernel_arguments": Attribute(
        parse=_parse_arguments, default=(), meaning="added to those of the capsule"
    ),
    "enabled": Attribute(parse=_parse_bool, default=True, meaning="false: it boots nothing"),
    "debug": Attribute(parse=_parse_bool, default=False, meaning="its boot tells more"),
    "address": Attribute(parse=_parse_address, default=None, meaning="its IPv4 address"),
    "bootstrap": Attribute(
        parse=_parse_capsule, default="bootstrap", meaning="the bootstrap OS that fetches it"
    ),
}
"""What can be set on a node."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Effective:
    """The value of an attribute that counts for a node, and where it was set."""

    value: Any
    origin: str
    """``node`` or ``default``."""


def effective_attributes(node: Node) -> dict[str, Effective]:
    """Return the value that counts of every attribute."""
    return {
        key: Effective(value=node.attributes[key], origin="node")
        if key in node.attributes
        else Effective(value=attribute.default, origin="default")
        for key, attribute in ATTRIBUTES.items()
    }


def parse_attribute(key: str, text: str) -> Any:
    """Return the value that *text* stands for as attribute *key*; an empty text: none, unset it.

    Raises:
        InputError: there is no such attribute, or *text* is no value of it.
    """
    if key not in ATTRIBUTES:
        raise InputError(
            f"attribute {key!r}: not known{nearest(key, ATTRIBUTES)}",
            hint=f"attributes are {', '.join(sorted(ATTRIBUTES))}",
        )
    if not text.strip():
        return None
    try:
        return ATTRIBUTES[key].parse(text)
    except InputError as error:
        raise InputError(f"attribute {key}: {error.message}", hint=error.hint) from error


def parse_hwaddr(text: str) -> str:
    """Return *text* as a hardware address is written here: lower case, colons.

    Raises:
        InputError: it is none.
    """
    hwaddr = text.strip().lower().replace("-", ":")
    if not _HWADDR.match(hwaddr):
        raise InputError(f"found {text!r:.80}, expected a hardware address as 52:54:00:12:34:56")
    return hwaddr


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


def parse_pattern(text: str) -> tuple[str, int]:
    """Return prefix and least width of a name pattern such as ``n####``.

    Raises:
        InputError: it is none.
    """
    match = _PATTERN.match(text)
    if not match:
        raise InputError(f"found {text!r:.80}, expected letters and then '#' signs, as n####")
    return match[1], len(match[2])


def make_node_name(pattern: str, total_nodes: int, taken: frozenset[str] | set[str]) -> str:
    """Return the lowest free name; as wide as its pattern, or as *total_nodes* needs.

    Raises:
        InputError: *pattern* is none, or every name up to *total_nodes* is taken.
    """
    prefix, least_width = parse_pattern(pattern)
    width = max(least_width, len(str(total_nodes)))
    for number in range(1, total_nodes + 1):
        name = f"{prefix}{number:0{width}d}"
        if name not in taken:
            return name
    raise InputError(f"node names: all {total_nodes} of {pattern} are taken")


def nearest(word: str, known: Mapping[str, Any] | list[str]) -> str:
    """Return ``, did you mean 'x'?`` for the nearest of *known*, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
