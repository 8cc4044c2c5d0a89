"""All that administrators set, as one TOML document to keep in git: state ⇄ text. Pure.

Format: docs/nodes.md. Sorted, one key a line, the same bytes for the same state. What nodes say
(sessions) is not in it, and secrets only when they are asked for.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from provisiond.nodes.attributes import (
    ATTRIBUTES,
    CAPSULE,
    DEFAULTS,
    FAMILIES,
    GROUP,
    NODE,
    is_secret,
    parse_value,
    verify_scope,
)
from provisiond.nodes.model import (
    BY_ADMINISTRATOR,
    BY_REGISTRATION,
    Node,
    parse_group_name,
    parse_node_name,
)
from provisiond.nodes.scopes import Scopes, Settings
from provisiond.nodes.values import parse_hwaddr
from vnfsbuild.errors import InputError
from vnfsbuild.fields import Faults, parse_toml
from vnfsbuild.reference import parse_name

FORMAT = 1

_BARE = re.compile(r"[A-Za-z0-9_-]+\Z")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
_TABLES = ("defaults", "capsules", "groups", "nodes")
_FACTS = ("hwaddrs", "uuid", "approved", "lease", "groups")
"""Keys of a node that are no attributes."""
_ORDER = {key: number for number, key in enumerate((*ATTRIBUTES, *FAMILIES))}
_HEADER = """\
# All that is set for nodes. provisionctl import FILE --dry-run tells what it would change.
# Lists that begin with "+" add to what weaker scopes say; groups: the strongest first.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """Nodes and what is set for them."""

    nodes: Mapping[str, Node]
    """By name."""
    scopes: Scopes
    secrets: bool = True
    """Whether secret values are in it: where they are not, they are not known to be unset."""


def render_state(state: State) -> str:
    """Return *state* as a document; without secrets unless it has them."""
    lines = [_HEADER, f"format = {FORMAT}", f"secrets = {json.dumps(state.secrets)}"]
    scopes = state.scopes
    tables: list[tuple[str, list[str]]] = [("defaults", _settings(scopes.defaults, state.secrets))]
    for name in sorted(scopes.capsules):
        table = f"capsules.{_key(name)}"
        tables.append((table, _settings(scopes.capsules[name], state.secrets)))
    for name in sorted(scopes.groups):
        tables.append((f"groups.{_key(name)}", _settings(scopes.groups[name], state.secrets)))
    for name in sorted(state.nodes):
        tables.append((f"nodes.{_key(name)}", _node(state.nodes[name], state.secrets)))
    for table, rows in tables:
        lines += ["", f"[{table}]", *rows]
    return "\n".join(lines) + "\n"


def parse_state(text: str, *, where: str) -> State:
    """Return the state that the document *text* says.

    Raises:
        InputError: it is not TOML, or with every fault that it has, each with its key path.
    """
    document = parse_toml(text, where=where)
    faults = Faults(where)
    for key in document:
        if key not in ("format", "secrets", *_TABLES):
            faults.add(key, f"unknown key, expected {', '.join(('format', 'secrets', *_TABLES))}")
    if document.get("format") != FORMAT:
        faults.add("format", f"found {document.get('format')!r:.80}, expected {FORMAT}")
    tables = {name: _table(document, name, faults) for name in _TABLES}
    groups = {}
    for name, table in _subtables(tables["groups"], "groups", faults):
        _try(faults, f"groups.{name}", parse_group_name, name)
        groups[name] = _parse_settings(table, GROUP, f"groups.{name}", faults)
    capsules = {}
    for name, table in _subtables(tables["capsules"], "capsules", faults):
        try:
            parse_name(name, where="capsule")
        except InputError as error:
            faults.add(f"capsules.{name}", error.message)
        capsules[name] = _parse_settings(table, CAPSULE, f"capsules.{name}", faults)
    scopes = Scopes(
        defaults=_parse_settings(tables["defaults"], DEFAULTS, "defaults", faults),
        capsules={name: values for name, values in capsules.items() if values},
        groups=groups,
    )
    nodes = {
        name: _parse_node(name, table, groups, faults)
        for name, table in _subtables(tables["nodes"], "nodes", faults)
    }
    _find_twins(nodes.values(), faults)
    faults.verify()
    return State(nodes=nodes, scopes=scopes, secrets=document.get("secrets") is not False)


def _parse_node(
    name: str, table: Mapping[str, Any], groups: Mapping[str, Settings], faults: Faults
) -> Node:
    path = f"nodes.{name}"
    _try(faults, path, parse_node_name, name)
    hwaddrs = tuple(
        _try(faults, f"{path}.hwaddrs", parse_hwaddr, item)
        for item in _texts(table, "hwaddrs", path, faults)
    )
    if not hwaddrs:
        faults.add(f"{path}.hwaddrs", "missing, expected a list of hardware addresses")
    approved = table.get("approved")
    if approved not in (None, False, BY_ADMINISTRATOR, BY_REGISTRATION):
        faults.add(f"{path}.approved", f"found {approved!r:.80}, expected {BY_ADMINISTRATOR}, "
                                       f"{BY_REGISTRATION} or false")  # fmt: skip
    uuid = table.get("uuid")
    if uuid is not None and not (isinstance(uuid, str) and _UUID.match(uuid)):
        faults.add(f"{path}.uuid", f"found {uuid!r:.80}, expected a UUID in lower case")
    lease = table.get("lease")
    if lease is not None:
        lease = _try(faults, f"{path}.lease", _ipv4, lease)
    named = tuple(dict.fromkeys(_texts(table, "groups", path, faults)))
    for group in named:
        if group not in groups:
            faults.add(f"{path}.groups", f"found {group!r:.80}, expected one of [groups.…]")
    attributes = {key: value for key, value in table.items() if key not in _FACTS}
    return Node(
        node_id=hwaddrs[0] if hwaddrs else "",
        name=name,
        hwaddrs=hwaddrs,
        uuid=uuid,
        approved_by=approved or None,
        address=lease,
        attributes=_parse_settings(attributes, NODE, path, faults),
        groups=named,
    )


def _parse_settings(
    table: Mapping[str, Any], scope: str, path: str, faults: Faults
) -> dict[str, Any]:
    found = {}
    for key, value in _flattened(table):
        try:
            verify_scope(key, scope)
            parsed = parse_value(key, value)
        except InputError as error:
            told = error.message.removeprefix(f"attribute {key}: ")
            faults.add(f"{path}.{key}", told)
            continue
        if parsed is not None:
            found[key] = parsed
    return dict(sorted(found.items()))


def _flattened(table: Mapping[str, Any], path: str = "") -> Iterable[tuple[str, Any]]:
    """Yield the values of *table*; of tables in it by their dotted keys."""
    for key, value in table.items():
        dotted = f"{path}.{key}" if path else key
        if isinstance(value, dict):
            yield from _flattened(value, dotted)
        else:
            yield dotted, value


def _find_twins(nodes: Iterable[Node], faults: Faults) -> None:
    """Fault hardware addresses that two nodes have."""
    holders: dict[str, str] = {}
    for node in nodes:
        for hwaddr in node.hwaddrs:
            holder = holders.setdefault(hwaddr, node.name)
            if holder != node.name:
                faults.add(f"nodes.{node.name}.hwaddrs", f"{hwaddr} is of {holder} too")


def _table(document: Mapping[str, Any], key: str, faults: Faults) -> Mapping[str, Any]:
    found = document.get(key, {})
    if not isinstance(found, dict):
        faults.add(key, f"found {found!r:.80}, expected a table")
        return {}
    return found


def _subtables(
    tables: Mapping[str, Any], key: str, faults: Faults
) -> Iterable[tuple[str, Mapping[str, Any]]]:
    for name, table in tables.items():
        if isinstance(table, dict):
            yield name, table
        else:
            faults.add(f"{key}.{name}", f"found {table!r:.80}, expected a table")


def _texts(table: Mapping[str, Any], key: str, path: str, faults: Faults) -> list[str]:
    found = table.get(key, [])
    if isinstance(found, list) and all(isinstance(item, str) for item in found):
        return found
    faults.add(f"{path}.{key}", f"found {found!r:.80}, expected a list of texts")
    return []


def _try(faults: Faults, path: str, parse: Any, text: Any) -> Any:
    try:
        return parse(text)
    except InputError as error:
        faults.add(path, error.message)
        return text


def _ipv4(text: Any) -> str:
    try:
        return str(ipaddress.IPv4Address(text if isinstance(text, str) else ""))
    except ValueError as error:
        raise InputError(f"found {text!r:.80}, expected an IPv4 address") from error


def _node(node: Node, secrets: bool) -> list[str]:
    facts: dict[str, Any] = {
        "hwaddrs": node.hwaddrs,
        "uuid": node.uuid,
        "approved": node.approved_by,
        "lease": node.address,
        "groups": node.groups or None,
    }
    rows = [f"{key} = {_value(value)}" for key, value in facts.items() if value is not None]
    return rows + _settings(node.attributes, secrets)


def _settings(settings: Settings, secrets: bool) -> list[str]:
    keys = sorted(settings, key=lambda key: (_ORDER[key.partition(".")[0]], key))
    return [
        f"{_dotted(key)} = {_value(settings[key])}" for key in keys if secrets or not is_secret(key)
    ]


def _dotted(key: str) -> str:
    """Return the key of an attribute in TOML: a name with dots in it is quoted."""
    family, dot, rest = key.partition(".")
    if not dot:
        return key
    if "" in FAMILIES[family].fields:
        return f"{family}.{_key(rest)}"
    name, _, field = rest.rpartition(".")
    return f"{family}.{_key(name)}.{field}"


def _key(name: str) -> str:
    return name if _BARE.match(name) else json.dumps(name)


def _value(value: Any) -> str:
    """JSON and TOML agree on printable texts, whole numbers, true, false, and lists of texts."""
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
