"""Nodes in Warewulf 4's ``nodes.conf``: profiles become groups, network devices interfaces.

What has no counterpart here is told as a note, with its line: nothing is lost in silence.
docs/from-warewulf.md has the table.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from provisiond.foreign.draft import Draft, Foreign, ForeignNode
from provisiond.foreign.warewulfnet import find_primary, read_devices, read_interfaces
from provisiond.foreign.yamllines import Value, compose
from provisiond.nodes.attributes import ADDS, GROUP, NODE
from vnfsbuild.errors import InputError

_LEFT_OUT = {
    "kernel version": "the capsule brings its kernel",
    "kernel override": "the capsule brings its kernel",
    "init": "the capsule says how it starts",
    "root": "the capsule's layers are the root",
    "ipxe template": "there is one iPXE script for all nodes",
    "grub template": "nodes boot by iPXE",
    "runtime overlay": "overlays are others here: docs/overlays.md",
    "system overlay": "overlays are others here: docs/overlays.md",
    "disks": "nodes have no disks here",
    "filesystems": "nodes have no disks here",
    "resources": "free data: set tag.NAME, or write an overlay",
    "asset key": "node keys take its place",
    "discoverable": "new machines register by themselves",
    "keys": "set tag.NAME",
}
"""Key → why it is left out."""
_NAMES = {
    "comment": "description",
    "cluster name": "tag.cluster",
    "image name": "vnfs",
    "container name": "vnfs",
}
_READ = {*_NAMES, "profiles", "kernel", "kernel args", "ipmi", "tags", "network devices",
         "primary network"}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class _Profile:
    value: Value
    parents: tuple[str, ...]


def parse_nodes_conf(text: str, *, where: str) -> Foreign:
    """Return the nodes and profiles of the YAML *text*.

    Raises:
        InputError: it is no YAML, or with every fault, each with its line.
    """
    try:
        document = compose(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        told = getattr(error, "problem", None) or str(error)
        raise InputError(f"{where}:{line}: not YAML: {told}") from error
    draft = Draft(where)
    if document is None or not isinstance(document.value, dict):
        draft.fault(1, "found no mapping, expected nodeprofiles and nodes")
        return draft.finish()
    profiles = {}
    for name, value in _entries(draft, document, "nodeprofiles"):
        profiles[name] = _Profile(value=value, parents=_texts(draft, value.get("profiles")))
        settings = _settings(draft, value, scope=GROUP)
        draft.group(value.line, name, settings)
    for name, value in _entries(draft, document, "nodes"):
        _read_node(draft, name, value, profiles)
    return draft.finish()


def _read_node(draft: Draft, name: str, value: Value, profiles: Mapping[str, _Profile]) -> None:
    named = _texts(draft, value.get("profiles"))
    for profile in named:
        if profile.removeprefix("~") not in profiles:
            draft.fault(value.line, f"{name}: profile {profile}: not in nodeprofiles")
    applied = [item for item in _applied(named, profiles) if item in profiles]
    sources = [*(profiles[item].value for item in applied), value]
    devices = read_devices(sources)
    primary = find_primary(sources, devices)
    if primary is None:
        draft.note(value.line, f"{name}: no network device has a hwaddr, left out")
        return
    device = devices[primary]
    hwaddr = draft.hwaddr(device.line_of("hwaddr"), device.text("hwaddr"))
    attributes = _settings(draft, value, scope=NODE)
    attributes |= read_interfaces(draft, devices, primary)
    if device.text("ipaddr"):
        address = _address(draft, device.line_of("ipaddr"), device.text("ipaddr"))
        if address is not None:
            attributes["address"] = address
    if hwaddr is not None:
        draft.node(
            ForeignNode(
                line=value.line,
                name=draft.name(value.line, name),
                hwaddrs=(hwaddr,),
                attributes=attributes,
                # Theirs: the last profile counts. Ours: the first group.
                groups=tuple(reversed(applied)),
            )
        )


def _applied(
    named: tuple[str, ...], profiles: Mapping[str, _Profile], seen: tuple[str, ...] = ()
) -> list[str]:
    """Return the profiles that count, those of profiles before them; ``~`` takes one away."""
    found: list[str] = []
    for item in named:
        if item.startswith("~"):
            found = [other for other in found if other != item[1:]]
        elif item not in seen and item in profiles:
            found += [
                other
                for other in _applied(profiles[item].parents, profiles, (*seen, item))
                if other not in found
            ]
            found = [other for other in found if other != item]
            found.append(item)
    return found


def _settings(draft: Draft, value: Value, *, scope: str) -> dict[str, Any]:
    """Return what *value*, a profile or node, sets here, but for its network devices."""
    found: dict[str, Any] = {}
    for key, item in value.items():
        if key in _NAMES and item.text():
            target = _NAMES[key]
            # Their images are called as registries call them: with slashes and colons.
            text = item.text().rpartition("/")[2] if target == "vnfs" else item.text()
            found[target] = draft.value(item.line, target, text, scope=scope)
        elif key == "kernel args":
            found |= _kernel_arguments(draft, item, scope)
        elif key == "kernel":
            found |= _kernel(draft, item, scope)
        elif key == "ipmi":
            found |= _ipmi(draft, item, scope)
        elif key == "tags":
            for tag, value_of in item.items():
                name = f"tag.{tag}"
                found[name] = draft.value(value_of.line, name, value_of.text(), scope=scope)
        elif key in _LEFT_OUT:
            draft.note(item.line, f"{key}: left out: {_LEFT_OUT[key]}")
        elif key not in _READ:
            draft.note(item.line, f"{key}: not known, left out")
    return {key: item for key, item in found.items() if item is not None}


def _kernel(draft: Draft, value: Value, scope: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, item in value.items():
        if key == "args":
            found |= _kernel_arguments(draft, item, scope)
        elif item.text():
            draft.note(item.line, f"kernel {key}: left out: the capsule brings its kernel")
    return found


def _kernel_arguments(draft: Draft, value: Value, scope: str) -> dict[str, Any]:
    """Lists of profiles and node add up there, a text takes the place of another."""
    words = [item.text() for item in value.value] if isinstance(value.value, list) else None
    text = " ".join(words) if words is not None else value.text()
    if not text:
        return {}
    parsed = draft.value(value.line, "kernel_arguments", text, scope=scope)
    return {"kernel_arguments": (ADDS, *parsed) if words is not None and parsed else parsed}


def _ipmi(draft: Draft, value: Value, scope: str) -> dict[str, Any]:
    found = {}
    for key, item in value.items():
        if key == "ipaddr" and scope == NODE:
            found["bmc_address"] = draft.value(item.line, "bmc_address", item.text(), scope=scope)
        elif item.text() or item.value:
            draft.note(item.line, f"ipmi {key}: left out: only the address is kept here")
    return found


def _address(draft: Draft, line: int, text: str) -> str | None:
    try:
        return str(ipaddress.IPv4Interface(text).ip)
    except ValueError:
        draft.fault(line, f"ipaddr: found {text!r:.80}, expected an IPv4 address")
        return None


def _entries(draft: Draft, document: Value, key: str) -> Iterator[tuple[str, Value]]:
    table = document.get(key)
    if table is None or table.value is None:
        return
    if not isinstance(table.value, dict):
        draft.fault(table.line, f"{key}: expected a mapping")
        return
    for name, value in table.value.items():
        if value.value is None:
            yield name, Value(line=value.line, value={})
        elif isinstance(value.value, dict):
            yield name, value
        else:
            draft.fault(value.line, f"{key}: {name}: expected a mapping")


def _texts(draft: Draft, value: Value | None) -> tuple[str, ...]:
    if value is None or value.value is None:
        return ()
    if isinstance(value.value, list):
        return tuple(item.text() for item in value.value if item.text())
    draft.fault(value.line, "profiles: expected a list")
    return ()
