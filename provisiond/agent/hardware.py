"""Devices of the machine, what drives them, and which drivers there are besides. From /sys."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

BUSES = ("pci", "virtio", "vmbus", "xen", "usb")
COUNTED = ("pci", "virtio", "vmbus", "xen")
"""The buses whose devices the server is told of. Not usb: management controllers have network
cards there, on all servers alike, that no boot needs."""

MOST = 64
"""Of anything in a report."""

_CLASS = re.compile(r"bc(0[12]|0[cC]sc0[46])")
"""PCI classes of what drivers.cpio is for: disks, networks, Fibre Channel, InfiniBand."""
_WILD = re.compile(r"[*?\[]")
_PCI_IDS = re.compile(r"pci:v0000([0-9A-F]{4})d0000([0-9A-F]{4})")


class Aliases:
    """Which hardware the drivers are for that are not in the initrd."""

    def __init__(self, lines: Sequence[str]) -> None:
        self._by_head: Dict[str, List[Tuple[str, str]]] = {}
        for line in lines:
            alias, _, module = line.strip().rpartition(" ")
            if alias:
                wild = _WILD.search(alias)
                head = alias[: wild.start()] if wild else alias
                self._by_head.setdefault(head, []).append((alias, module))
        self._lengths = sorted({len(head) for head in self._by_head})
        self.modules = frozenset(module for pairs in self._by_head.values() for _, module in pairs)

    @classmethod
    def load(cls, path: Path) -> "Optional[Aliases]":
        """Return the aliases in the file *path*; None when there is none."""
        try:
            return cls(path.read_text(encoding="ascii", errors="replace").splitlines())
        except OSError:
            return None

    def find(self, modalias: str) -> List[str]:
        """Return the modules for the hardware *modalias*, sorted."""
        return sorted(
            {
                module
                for length in self._lengths
                for alias, module in self._by_head.get(modalias[:length], ())
                if fnmatch.fnmatchcase(modalias, alias)
            }
        )


@dataclass(frozen=True)
class Device:
    """A piece of hardware."""

    bus: str
    name: str
    modalias: str
    driver: str
    """What drives it; empty when nothing does."""
    module: str
    """The kernel module of the driver; empty when it is in the kernel itself."""

    def is_undriven(self, aliases: Optional[Aliases]) -> bool:
        """Tell whether nothing drives it and something should."""
        if self.driver or self.bus not in COUNTED:
            return False
        known = bool(aliases and aliases.find(self.modalias))
        return known or (self.bus == "pci" and bool(_CLASS.search(self.modalias)))


def find_devices(sys: Path) -> List[Device]:
    """Return the devices on :data:`BUSES`, sorted."""
    found = []
    for bus in BUSES:
        for place in sorted((sys / "bus" / bus / "devices").glob("*")):
            try:
                modalias = (place / "modalias").read_text(encoding="ascii", errors="replace")
            except OSError:
                continue
            driver, module = _link(place / "driver"), _link(place / "driver/module")
            found.append(Device(bus, place.name, modalias.strip(), driver, module))
    return found


def wanted_modules(devices: Sequence[Device], aliases: Aliases) -> List[str]:
    """Return the modules of drivers.cpio that *devices* take, whether they are loaded or not.

    So the answer is the same in the next boot, in which they are.
    """
    found = set()
    for device in devices:
        if device.bus not in COUNTED:
            continue
        if not device.driver:
            found |= set(aliases.find(device.modalias))
        elif device.module in aliases.modules:
            found.add(device.module)
    return sorted(found)[:MOST]


def told_device(device: Device) -> str:
    """Return how *device* is called on the console."""
    ids = _PCI_IDS.match(device.modalias)
    if ids:
        return f"{device.bus} {device.name} ({ids.group(1).lower()}:{ids.group(2).lower()})"
    return f"{device.bus} {device.name}"


def _link(path: Path) -> str:
    try:
        return path.resolve(strict=True).name
    except OSError:
        return ""
