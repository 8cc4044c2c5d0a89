"""Network devices of Warewulf 4: of profiles and node together, as our interfaces."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from provisiond.foreign.draft import Draft
from provisiond.foreign.yamllines import Value
from provisiond.nodes.attributes import NODE

DEFAULT = "default"
"""The network that is meant where none is said."""

_TRUE = ("true", "yes", "1")
_FIELDS = {"mtu": "mtu", "gateway": "gateway", "onboot": "onboot"}
_READ = {*_FIELDS, "device", "hwaddr", "ipaddr", "netmask", "type", "tags", "primary", "default",
         "ipaddr6", "ip6addr", "prefixlen6", "prefix", "ipcidr"}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """A network device with all that profiles and node say of it."""

    name: str
    """Of the network."""
    values: Mapping[str, Value]
    tags: Mapping[str, Value]

    def text(self, key: str) -> str:
        """Return the text at *key*, an empty one when it is not there."""
        return self.values[key].text() if key in self.values else ""

    def line_of(self, key: str) -> int:
        """Return the line of *key*."""
        return self.values[key].line

    @property
    def device(self) -> str:
        """Return the name of the device in the system; where none is said that of the network."""
        return self.text("device") or self.name


def read_devices(sources: Iterable[Value]) -> dict[str, Device]:
    """Return the devices by network; of what *sources* say the last counts."""
    devices: dict[str, Device] = {}
    for source in sources:
        networks = source.get("network devices")
        for name, item in networks.items() if networks else ():
            held = devices.get(name) or Device(name=name, values={}, tags={})
            tags = item.get("tags")
            devices[name] = Device(
                name=name,
                values={**held.values, **{key: value for key, value in item.items()
                                          if value.value is not None}},
                tags={**held.tags, **dict(tags.items() if tags else ())},
            )  # fmt: skip
    return devices


def find_primary(sources: Iterable[Value], devices: Mapping[str, Device]) -> str | None:
    """Return the network that the node boots from: the one said, or the first with a hwaddr."""
    said = [text for source in sources if (value := source.get("primary network"))
            if (text := value.text())]  # fmt: skip
    marked = [name for name, device in devices.items() if device.text("primary") in _TRUE]
    order = [*reversed(said), *marked, DEFAULT, *devices]
    return next((name for name in order if name in devices and devices[name].text("hwaddr")), None)


def read_interfaces(draft: Draft, devices: Mapping[str, Device], primary: str) -> dict[str, Any]:
    """Return the attributes of interfaces; of the primary one what an overlay needs more."""
    found: dict[str, Any] = {}
    for name, device in devices.items():
        for key, value in device.values.items():
            if key not in _READ:
                draft.note(value.line, f"network {name}: {key}: not known, left out")
        fields: dict[str, tuple[int, str]] = {
            field: (device.line_of(key), device.text(key))
            for key, field in _FIELDS.items()
            if device.text(key)
        }
        if name == primary:
            # Address and gateway of the provisioning network are the node's own.
            fields.pop("gateway", None)
            if device.text("device"):
                line = device.line_of("device")
                found["boot_interface"] = draft.value(
                    line, "boot_interface", device.device, scope=NODE
                )
        else:
            fields |= _more_fields(draft, device)
        for field, (line, text) in fields.items():
            key = f"interface.{device.device}.{field}"
            found[key] = draft.value(line, key, text, scope=NODE)
        _note_tags(draft, device)
    return {key: value for key, value in found.items() if value is not None}


def _more_fields(draft: Draft, device: Device) -> dict[str, tuple[int, str]]:
    fields = {}
    if device.text("hwaddr"):
        fields["hwaddr"] = (device.line_of("hwaddr"), device.text("hwaddr"))
    address = _address(draft, device)
    if address is not None:
        fields["address"] = (device.line_of("ipaddr"), address)
    if device.text("type").lower() == "bond":
        mode = device.tags.get("mode")
        shown = mode.text() if mode else "active-backup"
        fields["bond_mode"] = (device.line_of("type"), shown)
    for tag, field in (("master", "bond"), ("vlan_id", "vlan"), ("parent_device", "vlan_parent")):
        if tag in device.tags and device.tags[tag].text():
            fields[field] = (device.tags[tag].line, device.tags[tag].text())
    for key in ("ipaddr6", "ip6addr"):
        if device.text(key):
            draft.note(device.line_of(key), f"network {device.name}: {key}: a second address, "
                                            "left out")  # fmt: skip
    return fields


def _address(draft: Draft, device: Device) -> str | None:
    """Return the address with its prefix length."""
    text = device.text("ipaddr")
    if not text or "/" in text:
        return text or None
    if not device.text("netmask"):
        draft.fault(device.line_of("ipaddr"),
                    f"network {device.name}: found ipaddr without netmask")  # fmt: skip
        return None
    try:
        return str(ipaddress.ip_interface(f"{text}/{device.text('netmask')}"))
    except ValueError:
        draft.fault(device.line_of("ipaddr"), f"network {device.name}: found {text!r:.40} and "
                    f"netmask {device.text('netmask')!r:.40}, expected addresses")  # fmt: skip
        return None


def _note_tags(draft: Draft, device: Device) -> None:
    for tag, value in device.tags.items():
        if tag not in ("master", "vlan_id", "parent_device", "mode"):
            draft.note(value.line, f"network {device.name}: tag {tag}: left out")
