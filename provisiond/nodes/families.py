"""Attributes with a name of the site's own in the key: one table of families. Values, no more."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from provisiond.nodes.values import (
    DEVICE,
    integer,
    parse_ascii,
    parse_bond_mode,
    parse_bool,
    parse_device,
    parse_hwaddr,
    parse_ip,
    parse_ip_interface,
    parse_line,
    parse_mount_source,
    parse_password_hash,
    parse_path,
    parse_public_key,
    parse_user,
)

NODE = "node"
GROUP = "group"
CAPSULE = "capsule"
DEFAULTS = "defaults"
SCOPES = (NODE, GROUP, CAPSULE, DEFAULTS)
"""Where values are set, the strongest first."""

ADDS = "+"
_ONE_NODE = frozenset({NODE})
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}\Z")
_LOGIN = re.compile(r"[a-z_][a-z0-9_-]{0,30}\Z")
_SYSCTL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,120}\Z")


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
