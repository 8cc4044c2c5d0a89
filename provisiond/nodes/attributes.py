"""What can be set on nodes, groups, capsules' names and in the defaults: one table of attributes.

A key is the name of a scalar (``vnfs``), of a list (``overlays``), or of a member of a family with
a name of its own in it (``interface.eth1.address``, ``tag.rack``). Values are texts, numbers,
booleans, and tuples of texts; a tuple that begins with :data:`ADDS` adds to what weaker scopes say.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from provisiond.nodes.families import ADDS as ADDS
from provisiond.nodes.families import CAPSULE as CAPSULE
from provisiond.nodes.families import DEFAULTS as DEFAULTS
from provisiond.nodes.families import FAMILIES as FAMILIES
from provisiond.nodes.families import GROUP as GROUP
from provisiond.nodes.families import NODE as NODE
from provisiond.nodes.families import SCOPES as SCOPES
from provisiond.nodes.families import SECRET_FAMILY_FIELDS as SECRET_FAMILY_FIELDS
from provisiond.nodes.families import Attribute as Attribute
from provisiond.nodes.values import (
    integer,
    one_of,
    parse_ascii,
    parse_bool,
    parse_capsule,
    parse_device,
    parse_host,
    parse_ip,
    parse_ipv4,
    parse_line,
    parse_overlay_name,
    parse_password_hash,
    parse_time_zone,
    parse_tmpfs_size,
    parse_user,
    parse_web_address,
)
from provisiond.protocol import AFTER_FAILURES, METHODS
from vnfsbuild.errors import InputError

SHOWN_SECRET = "set"
"""What is shown instead of a secret value."""

_SHARED = frozenset({GROUP, DEFAULTS, NODE})
_ONE_NODE = frozenset({NODE})
_SPLITS = re.compile(r"[\s,]+")

ATTRIBUTES: Mapping[str, Attribute] = {
    "vnfs": Attribute(
        parse=parse_capsule, scopes=_SHARED, meaning="the capsule that it boots",
    ),
    "bootstrap": Attribute(
        parse=parse_capsule, scopes=_SHARED, default="bootstrap",
        meaning="the bootstrap OS that fetches it",
    ),
    "method": Attribute(
        parse=one_of(*METHODS), default="auto",
        meaning="how it boots: auto, kexec, pivot (the same kernel); local (its disk), rescue",
    ),
    "drivers": Attribute(
        parse=parse_bool,
        meaning="true: its bootstrap gets all drivers; not set: when its hardware takes them",
    ),
    "transfer": Attribute(
        parse=one_of("http", "nfs"), default="http",
        meaning="how it fetches the capsule: http, nfs (provisiond.toml: nfs.exports)",
    ),
    "mirrors": Attribute(
        parse=parse_web_address, is_list=True, by_commas=True, default=(),
        meaning="servers of blobs near it, asked before all others: http://rack7/blobs",
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
    "on_failure": Attribute(
        parse=one_of(*AFTER_FAILURES), default="retry",
        meaning="what it does after so many failures in a row: retry, reboot, local",
    ),
    "tries": Attribute(
        parse=integer(1, 1000), default=5, meaning="after how many failures on_failure counts",
    ),
    "tmpfs_size": Attribute(
        parse=parse_tmpfs_size,
        meaning="how much memory changes to the root may take: 50% (the kernel's), 2g",
    ),
    "bootstrap_vlan": Attribute(
        parse=integer(1, 4094), meaning="the VLAN that its bootstrap asks in, tagged",
    ),
    "bootstrap_address": Attribute(
        parse=one_of("dhcp", "static"), default="dhcp",
        meaning="static: its bootstrap takes the node's address without asking",
    ),
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
    "health_seconds": Attribute(
        parse=integer(0, 86400), default=300,
        meaning="how often health checks (/etc/vnfs/health.d) are run; 0: only at boot",
    ),
    "description": Attribute(parse=parse_line, meaning="a line for people"),
}  # fmt: skip
"""What can be set, besides :data:`FAMILIES`."""


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
