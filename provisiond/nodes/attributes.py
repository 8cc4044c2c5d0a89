"""What can be set on nodes, groups, capsules' names and in the defaults: one table of attributes.

A key is the name of a scalar (``vnfs``), of a list (``overlays``), or of a member of a family with
a name of its own in it (``interface.eth1.address``, ``tag.rack``). Values are texts, numbers,
booleans, and tuples of texts; a tuple that begins with :data:`ADDS` adds to what weaker scopes say.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from provisiond.nodes.values import (
    DEVICE,
    integer,
    one_of,
    parse_ascii,
    parse_bond_mode,
    parse_bool,
    parse_capsule,
    parse_device,
    parse_host,
    parse_hwaddr,
    parse_ip,
    parse_ip_interface,
    parse_ipv4,
    parse_line,
    parse_mount_source,
    parse_overlay_name,
    parse_password_hash,
    parse_path,
    parse_public_key,
    parse_time_zone,
    parse_user,
)
from vnfsbuild.errors import InputError

NODE = "node"
GROUP = "group"
CAPSULE = "capsule"
DEFAULTS = "defaults"
SCOPES = (NODE, GROUP, CAPSULE, DEFAULTS)
"""Where values are set, the strongest first."""

ADDS = "+"
USABLE_METHODS = ("kexec", "pivot")
"""Methods that an agent of this version carries out."""
SHOWN_SECRET = "set"
"""What is shown instead of a secret value."""

_SHARED = frozenset({GROUP, DEFAULTS, NODE})
_ONE_NODE = frozenset({NODE})
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}\Z")
_LOGIN = re.compile(r"[a-z_][a-z0-9_-]{0,30}\Z")
_SYSCTL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,120}\Z")
_SPLITS = re.compile(r"[\s,]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Attribute:
    """Something that can be set."""

    parse: Callable[[str], Any]
    """Returns the value of a text, or of one item of a list; raises :class:`InputError`."""
    meaning: str
    default: Any = None
    is_list: bool = False
    by_commas: bool = False
    """Whether commas part the items of a list too."""
    always_adds: bool = False
    """A list of which each scope's part counts, with or without :data:`ADDS`."""
    scopes: frozenset[str] = frozenset(SCOPES)
    """Where it may be set."""
    secret: bool = False
    """Whether its value is not shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """Attributes with a name in the key: ``FAMILY.NAME.FIELD``, or ``FAMILY.NAME`` alone."""

    name: re.Pattern[str]
    meaning: str
    fields: Mapping[str, Attribute]
    """Field → attribute; the only field ``""`` stands for a family without fields."""


ATTRIBUTES: Mapping[str, Attribute] = {
    "vnfs": Attribute(
        parse=parse_capsule, scopes=_SHARED, meaning="the capsule that it boots",
    ),
    "bootstrap": Attribute(
        parse=parse_capsule, scopes=_SHARED, default="bootstrap",
        meaning="the bootstrap OS that fetches it",
    ),
    "method": Attribute(
        parse=one_of(*USABLE_METHODS), default="kexec",
        meaning="how it gets into the capsule: kexec, pivot",
    ),
    "kernel_arguments": Attribute(
        parse=parse_ascii, is_list=True, default=(), meaning="added to those of the capsule",
    ),
    "console": Attribute(
        parse=parse_ascii, is_list=True, default=(),
        meaning="the capsule's consoles, the last one the main one: tty0 ttyS0,115200",
    ),
    "overlays": Attribute(
        parse=parse_overlay_name, is_list=True, by_commas=True,
        always_adds=True, default=(),
        meaning="files laid over the capsule; all scopes' add up, -NAME takes one away",
    ),
    "enabled": Attribute(parse=parse_bool, default=True, meaning="false: it boots nothing"),
    "debug": Attribute(parse=parse_bool, default=False, meaning="its boot tells more"),
    "address": Attribute(
        parse=parse_ipv4, scopes=_ONE_NODE, meaning="its IPv4 address, instead of the allotted one",
    ),
    "boot_interface": Attribute(
        parse=parse_device, meaning="the capsule's device of the provisioning network",
    ),
    "bmc_address": Attribute(
        parse=parse_ip, scopes=_ONE_NODE, meaning="where its management controller is",
    ),
    "root_password": Attribute(
        parse=parse_password_hash, secret=True, meaning="a hash, as openssl passwd -6 makes it",
    ),
    "server": Attribute(parse=parse_host, meaning="the host that services of the capsule turn to"),
    "dns": Attribute(
        parse=parse_ip, is_list=True, by_commas=True, default=(), meaning="name servers",
    ),
    "ntp": Attribute(
        parse=parse_host, is_list=True, by_commas=True, default=(), meaning="time servers",
    ),
    "syslog": Attribute(parse=parse_host, meaning="where its log goes: HOST or HOST:PORT"),
    "timezone": Attribute(
        parse=parse_time_zone, meaning="as Europe/Berlin",
    ),
    "hosts": Attribute(
        parse=one_of("self", "all"), default="self",
        meaning="/etc/hosts: of the node itself, or of all nodes",
    ),
    "network_setup": Attribute(
        parse=one_of("networkd", "networkmanager"), default="networkd",
        meaning="what sets up the capsule's network: networkd, networkmanager",
    ),
    "kernel_modules": Attribute(
        parse=parse_ascii, is_list=True, by_commas=True, default=(),
        meaning="kernel modules that the capsule loads",
    ),
    "slurm": Attribute(
        parse=parse_host, meaning="the host that slurmctld runs on: HOST or HOST:PORT",
    ),
    "slurm_address": Attribute(
        parse=parse_ipv4, meaning="its address, where nodes cannot look up its name",
    ),
    "slurm_cluster": Attribute(
        parse=parse_user, default="cluster", meaning="what Slurm calls the cluster",
    ),
    "description": Attribute(parse=parse_line, meaning="a line for people"),
}  # fmt: skip
"""What can be set, besides :data:`FAMILIES`."""

_INTERFACE_FIELDS: Mapping[str, Attribute] = {
    "hwaddr": Attribute(
        parse=parse_hwaddr, scopes=_ONE_NODE, meaning="the device is found by it",
    ),
    "address": Attribute(
        parse=parse_ip_interface, scopes=_ONE_NODE, meaning="with its prefix length: 10.1.0.7/16",
    ),
    "gateway": Attribute(parse=parse_ip, meaning="the gateway reached by it"),
    "mtu": Attribute(parse=integer(68, 65535), meaning="the largest packet"),
    "vlan": Attribute(parse=integer(1, 4094), meaning="it is this VLAN of vlan_parent"),
    "vlan_parent": Attribute(parse=parse_device, meaning="the device that carries the VLAN"),
    "bond": Attribute(parse=parse_device, meaning="the bond that it is part of"),
    "bond_mode": Attribute(
        parse=parse_bond_mode, meaning="it is a bond of this mode: active-backup, 802.3ad, …",
    ),
    "onboot": Attribute(parse=parse_bool, meaning="false: it is left down"),
}  # fmt: skip

_MOUNT_FIELDS: Mapping[str, Attribute] = {
    "what": Attribute(parse=parse_mount_source, meaning="as nfs1:/export/home"),
    "where": Attribute(parse=parse_path, meaning="the directory of the node"),
    "type": Attribute(parse=parse_ascii, meaning="the file system; nfs when it is not set"),
    "options": Attribute(parse=parse_ascii, meaning="as fstab has them"),
}

_USER_FIELDS: Mapping[str, Attribute] = {
    "uid": Attribute(parse=integer(1, 2**32 - 2), meaning="its number"),
    "group": Attribute(parse=parse_user, meaning="its first group; one of its own name else"),
    "groups": Attribute(
        parse=parse_user, is_list=True, by_commas=True, meaning="the other groups it is in",
    ),
    "home": Attribute(parse=parse_path, meaning="its home directory"),
    "shell": Attribute(parse=parse_path, meaning="its shell"),
    "description": Attribute(parse=parse_line, meaning="its full name"),
    "password": Attribute(parse=parse_password_hash, secret=True, meaning="a hash"),
}  # fmt: skip

FAMILIES: Mapping[str, Family] = {
    "interface": Family(
        name=DEVICE, fields=_INTERFACE_FIELDS, meaning="a network interface of the capsule",
    ),
    "tag": Family(
        name=_TAG, fields={"": Attribute(parse=parse_line, meaning="free text, for templates")},
        meaning="free text under a name of the site's own",
    ),
    "mount": Family(name=_TAG, fields=_MOUNT_FIELDS, meaning="a file system that nodes mount"),
    "user": Family(name=_LOGIN, fields=_USER_FIELDS, meaning="a user of the nodes"),
    "usergroup": Family(
        name=_LOGIN, fields={"gid": Attribute(parse=integer(1, 2**32 - 2), meaning="its number")},
        meaning="a group of users of the nodes",
    ),
    "authorized_key": Family(
        name=_TAG, fields={"": Attribute(parse=parse_public_key, meaning="an ssh public key")},
        meaning="an ssh key that root lets in, under a name of the site's own",
    ),
    "sysctl": Family(
        name=_SYSCTL, fields={"": Attribute(parse=parse_line, meaning="its value")},
        meaning="a setting of the kernel: sysctl.vm.swappiness",
    ),
}  # fmt: skip


SECRET_FAMILY_FIELDS: Mapping[str, frozenset[str]] = {
    name: frozenset(field for field, attribute in family.fields.items() if attribute.secret)
    for name, family in FAMILIES.items()
}
"""Family → those of its fields that are not shown."""


@cache
def find_attribute(key: str) -> Attribute:
    """Return the attribute *key*.

    Raises:
        InputError: there is none; the nearest is named.
    """
    if key in ATTRIBUTES:
        return ATTRIBUTES[key]
    family, dot, rest = key.partition(".")
    if not dot or family not in FAMILIES:
        near = nearest(family, FAMILIES) if dot else nearest(key, known_keys())
        raise InputError(f"attribute {key!r:.80}: not known{near}",
                         hint=f"attributes are {', '.join(sorted(known_keys()))}")  # fmt: skip
    found = FAMILIES[family]
    name, _, field = (rest, "", "") if "" in found.fields else rest.rpartition(".")
    if not found.name.match(name):
        raise InputError(f"attribute {key!r:.80}: found the name {name!r:.80}, expected "
                         f"{family_form(family)}")  # fmt: skip
    if field not in found.fields:
        raise InputError(
            f"attribute {key!r:.80}: no field {field!r:.40}{nearest(field, found.fields)}",
            hint=f"fields of {family}.NAME are {', '.join(sorted(found.fields))}",
        )
    return found.fields[field]


def family_form(family: str) -> str:
    """Return how a key of *family* is written."""
    return f"{family}.NAME" if "" in FAMILIES[family].fields else f"{family}.NAME.FIELD"


def known_keys() -> list[str]:
    """Return all keys as they are told: scalars, lists, and the forms of families."""
    return [*ATTRIBUTES, *(family_form(family) for family in FAMILIES)]


def verify_scope(key: str, scope: str) -> None:
    """Make sure that *key* may be set in *scope*.

    Raises:
        InputError: there is no such attribute, or it belongs elsewhere.
    """
    scopes = find_attribute(key).scopes
    if scope not in scopes:
        told = " or ".join(name for name in SCOPES if name in scopes)
        raise InputError(f"attribute {key}: found it for {scope}, expected it for {told} only")


def parse_attribute(key: str, text: str) -> Any:
    """Return the value that *text* stands for as attribute *key*; an empty text: none, unset it.

    Raises:
        InputError: there is no such attribute, or *text* is no value of it.
    """
    attribute = find_attribute(key)
    if not text.strip():
        return None
    if not attribute.is_list:
        return _parse_one(key, attribute, text.strip())
    adds = text.lstrip().startswith(ADDS)
    rest = text.strip().removeprefix(ADDS).strip()
    return _parse_list(key, attribute, _split(attribute, rest), adds=adds)


def parse_value(key: str, value: Any) -> Any:
    """Return *value*, from TOML or JSON, as the value of attribute *key*; None when it is empty.

    Texts are read as :func:`parse_attribute` does.

    Raises:
        InputError: there is no such attribute, or *value* is none of it.
    """
    attribute = find_attribute(key)
    if isinstance(value, str):
        return parse_attribute(key, value)
    if isinstance(value, (list, tuple)) and attribute.is_list:
        if not all(isinstance(item, str) and item.strip() for item in value):
            raise InputError(f"attribute {key}: found {value!r:.80}, expected a list of texts")
        adds = bool(value) and value[0] == ADDS
        return _parse_list(key, attribute, value[1:] if adds else value, adds=adds)
    if isinstance(value, (bool, int)) and not attribute.is_list:
        return _parse_one(key, attribute, str(value).lower())
    expected = "a list of texts" if attribute.is_list else "a text, a number, true or false"
    raise InputError(f"attribute {key}: found {value!r:.80}, expected {expected}")


def render_value(value: Any) -> str:
    """Return *value* as :func:`parse_attribute` reads it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return " ".join(str(item) for item in value)
    return str(value)


def is_secret(key: str) -> bool:
    """Tell whether the value of *key* is not to be shown."""
    return find_attribute(key).secret


def shown_value(key: str, value: Any) -> Any:
    """Return *value* as it may be shown and sent to an administrator."""
    return SHOWN_SECRET if value is not None and is_secret(key) else value


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``, did you mean 'x'?`` for the nearest of *known*, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _split(attribute: Attribute, text: str) -> list[str]:
    return [item for item in _SPLITS.split(text) if item] if attribute.by_commas else text.split()


def _parse_list(
    key: str, attribute: Attribute, items: Iterable[str], *, adds: bool
) -> tuple[str, ...] | None:
    words: list[str] = []
    for item in items:
        words += _split(attribute, item)
    parsed = tuple(_parse_one(key, attribute, word) for word in words)
    if not parsed:
        # Nothing, said so: `node set kernel_arguments '' …` unsets, a lone '+' adds nothing.
        return None
    return (ADDS, *parsed) if adds and not attribute.always_adds else parsed


def _parse_one(key: str, attribute: Attribute, text: str) -> Any:
    try:
        return attribute.parse(text)
    except InputError as error:
        raise InputError(f"attribute {key}: {error.message}", hint=error.hint) from error
