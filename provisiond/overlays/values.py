"""What templates of overlays see: docs/overlays.md has the table. Values in, values out."""

from __future__ import annotations

import base64
import hashlib
import hmac
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from provisiond.nodes.attributes import ATTRIBUTES, FAMILIES, SECRET_FAMILY_FIELDS
from provisiond.nodes.scopes import Attributes
from provisiond.overlays.templates import SECRET_NAMES
from vnfsbuild.errors import InputError

PER_NODE = frozenset({"node", "node_key", "ssh_host_key", "item"})
"""Variables that no two nodes share."""
NODES = "nodes"
NODES_HOSTS = "nodes_hosts"
OF_ALL_NODES = frozenset({NODES, NODES_HOSTS})
"""Variables that change with other nodes."""

_LISTS: Mapping[str, str] = {
    "interface": "interfaces",
    "mount": "mounts",
    "user": "users",
    "usergroup": "usergroups",
}
"""Family → the list of its members."""
_TEXTS: Mapping[str, str] = {
    "tag": "tags",
    "sysctl": "sysctls",
    "authorized_key": "authorized_keys",
}
"""Family without fields → the mapping of its members."""
_NOT_SHOWN = {"address", "root_password", "dns", "server"}
"""Attributes that are seen in another way than as they are set."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeFacts:
    """What is known of a node besides its attributes."""

    name: str
    node_id: str
    hwaddr: str
    """Of the device that it was booted from."""
    address: IPv4Interface
    uuid: str | None = None
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteFacts:
    """What is the same for all nodes."""

    secret: bytes
    server: IPv4Address
    gateway: IPv4Address | None
    name_servers: tuple[IPv4Address, ...]
    domain: str


class NodeTable(tuple[Mapping[str, Any], ...]):
    """All nodes, for templates that tell of the cluster: name, full_name, address, groups, tags.

    Compared by identity: it is made anew when anything of it changed.
    """

    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other


@lru_cache(maxsize=2)
def _hosts_text(nodes: NodeTable) -> str:
    """Return the lines of /etc/hosts for all nodes: made once, not once for each of them."""
    lines = []
    for node in nodes:
        names = dict.fromkeys((node["full_name"], node["name"]))
        lines.append(f"{node['address']} {' '.join(names)}\n")
    return "".join(lines)


class NodeValues:
    """The variables of one node, worked out when they are looked at."""

    def __init__(
        self,
        facts: NodeFacts,
        attributes: Attributes,
        site: SiteFacts,
        nodes: Callable[[], NodeTable],
    ) -> None:
        """*nodes* is asked for only when a template looks at all nodes."""
        self._facts = facts
        self._attributes = attributes
        self._site = site
        self._nodes = nodes
        self._found: dict[str, Any] = {}
        self._families: dict[str, dict[str, dict[str, Any]]] | None = None

    def find(self, name: str) -> Any:
        """Return the variable *name*; None where there is none of it."""
        return self.select((name,)).get(name)

    def select(self, names: Iterable[str]) -> dict[str, Any]:
        """Return those of *names* that there are."""
        found = self._found
        for name in names:
            if name not in found and self._is_known(name):
                found[name] = self._make(name)
        return {name: found[name] for name in names if name in found}

    def key(self, name: str) -> Any:
        """Return what is equal where the variable *name* is."""
        value = self.find(name)
        if isinstance(value, NodeTable) or not isinstance(value, (tuple, dict)):
            return None if callable(value) else value
        return _freeze(value)

    def with_item(self, item: Mapping[str, Any]) -> NodeValues:
        """Return the same with the variable ``item``."""
        other = NodeValues(self._facts, self._attributes, self._site, self._nodes)
        other._found = {**self._found, "item": item}
        return other

    def _is_known(self, name: str) -> bool:
        return name in KNOWN_NAMES and name != "item"

    def _make(self, name: str) -> Any:
        special = _SPECIAL.get(name)
        if special is not None:
            return special(self)
        for family, plural in _LISTS.items():
            if name == plural:
                return tuple(
                    {"name": member, **_fields(family), **values}
                    for member, values in self._family(family).items()
                )
        for family, plural in _TEXTS.items():
            if name == plural:
                return {member: values[""] for member, values in self._family(family).items()}
        return self._attributes.value(name)

    def _family(self, family: str) -> dict[str, dict[str, Any]]:
        if self._families is None:
            self._families = self._attributes.families()
        members = self._families.get(family, {})
        hidden = SECRET_FAMILY_FIELDS.get(family, frozenset())
        return {
            name: {field: value for field, value in values.items() if field not in hidden}
            for name, values in members.items()
        }

    def _node(self) -> dict[str, Any]:
        facts = self._facts
        return {
            "name": facts.name,
            "full_name": _full_name(facts.name, self._site.domain),
            "id": facts.node_id,
            "uuid": facts.uuid,
            "hwaddr": facts.hwaddr,
            "address": str(facts.address.ip),
            "interface": str(facts.address),
            "netmask": str(facts.address.netmask),
            "prefix_length": facts.address.network.prefixlen,
            "network": str(facts.address.network),
            "groups": facts.groups,
            "machine_id": make_machine_id(self._site.secret, facts.node_id),
        }

    def _dns(self) -> tuple[str, ...]:
        own: tuple[str, ...] = self._attributes.value("dns")
        return own or tuple(str(server) for server in self._site.name_servers)

    def _passwords(self) -> dict[str, str]:
        own = self._attributes.value("root_password")
        found = {} if own is None else {"root": own}
        for name, values in self._attributes.families().get("user", {}).items():
            if values.get("password"):
                found[name] = values["password"]
        return found

    def _site_key(self, label: str, size_bytes: int = 64) -> str:
        return derive_key(self._site.secret, f"site {label}", size_bytes).hex()

    def _node_key(self, label: str, size_bytes: int = 64) -> str:
        return derive_key(self._site.secret, f"node {self._facts.name} {label}", size_bytes).hex()

    def _ssh_host_key(self) -> dict[str, str]:
        seed = derive_key(self._site.secret, f"ssh host key {self._facts.name}", 32)
        return make_ssh_key(seed, comment=self._facts.name)


_SPECIAL: Mapping[str, Any] = {
    NODES: lambda self: self._nodes(),
    NODES_HOSTS: lambda self: _hosts_text(self._nodes()),
    "node": NodeValues._node,
    "dns": NodeValues._dns,
    "domain": lambda self: self._site.domain,
    "gateway": lambda self: str(self._site.gateway) if self._site.gateway else None,
    "server": lambda self: self._attributes.value("server") or str(self._site.server),
    "passwords": NodeValues._passwords,
    "root_password": lambda self: self._attributes.value("root_password"),
    "site_key": lambda self: self._site_key,
    "node_key": lambda self: self._node_key,
    "ssh_host_key": NodeValues._ssh_host_key,
}

KNOWN_NAMES = frozenset(
    {key for key in ATTRIBUTES if key not in _NOT_SHOWN}
    | set(_SPECIAL) | set(_LISTS.values()) | set(_TEXTS.values()) | {"item"}
)  # fmt: skip
"""All variables that a template may look at."""

assert SECRET_NAMES <= KNOWN_NAMES


def make_machine_id(site_secret: bytes, node_id: str) -> str:
    """Return the machine id of a node: stable, and not to be guessed from its address."""
    message = b"machine-id " + node_id.encode("ascii")
    return hmac.new(site_secret, message, hashlib.sha256).hexdigest()[:32]


def make_node_table(
    nodes: Iterable[tuple[str, str | None, tuple[str, ...], Mapping[str, str]]], domain: str
) -> NodeTable:
    """Return the table of *nodes*: name, address, groups, tags; sorted, those with an address."""
    return NodeTable(
        {
            "name": name,
            "full_name": _full_name(name, domain),
            "address": address,
            "groups": groups,
            "tags": dict(tags),
        }
        for name, address, groups, tags in sorted(nodes, key=lambda item: item[0])
        if address is not None
    )


def derive_key(site_secret: bytes, label: str, size_bytes: int) -> bytes:
    """Return a key that follows from the site's secret and *label*, and tells of neither.

    Raises:
        InputError: not of a size that there are.
    """
    if not 16 <= size_bytes <= 4096:
        raise InputError(f"key {label}: found {size_bytes} bytes, expected 16 to 4096")
    found = b""
    block = b""
    while len(found) < size_bytes:
        counter = struct.pack(">I", len(found) // 32 + 1)
        message = block + b"overlay key " + label.encode("utf-8") + b"\0" + counter
        block = hmac.new(site_secret, message, hashlib.sha256).digest()
        found += block
    return found[:size_bytes]


@lru_cache(maxsize=4096)
def _ssh_public(seed: bytes) -> bytes:
    key = Ed25519PrivateKey.from_private_bytes(seed).public_key()
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def make_ssh_key(seed: bytes, *, comment: str) -> dict[str, str]:
    """Return the Ed25519 key of *seed* as OpenSSH writes it: ``private``, ``public``.

    Its format wants a number by chance, to tell whether a passphrase was right: without one, and
    for equal bytes each time, ours follows from the seed.
    """
    kind = _ssh_string(b"ssh-ed25519")
    raw = _ssh_public(seed)
    public = kind + _ssh_string(raw)
    check = hashlib.sha256(b"check" + seed).digest()[:4] * 2
    private = check + public + _ssh_string(seed + raw) + _ssh_string(comment.encode())
    private += bytes(range(1, 1 + -len(private) % 8))
    none = _ssh_string(b"none")
    body = b"openssh-key-v1\0" + none + none + _ssh_string(b"") + struct.pack(">I", 1)
    text = base64.b64encode(body + _ssh_string(public) + _ssh_string(private)).decode()
    lines = [text[start : start + 70] for start in range(0, len(text), 70)]
    name = "OPENSSH PRIVATE KEY"
    return {
        "private": "\n".join([f"-----BEGIN {name}-----", *lines, f"-----END {name}-----", ""]),
        "public": f"ssh-ed25519 {base64.b64encode(public).decode()} {comment}",
    }


def _ssh_string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _full_name(name: str, domain: str) -> str:
    return f"{name}.{domain}" if domain else name


@lru_cache(maxsize=64)
def _fields(family: str) -> dict[str, Any]:
    hidden = SECRET_FAMILY_FIELDS.get(family, frozenset())
    return {field: None for field in FAMILIES[family].fields if field not in hidden}


def _freeze(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple((key, _freeze(item)) for key, item in sorted(value.items()))
    if isinstance(value, tuple):
        return tuple(_freeze(item) for item in value)
    return value
