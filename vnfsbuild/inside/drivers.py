"""Which drivers a bootstrap has, in its initrd and beside it, and what they say they are for."""

from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyzstd

from vnfsbuild.errors import InputError, VerificationError
from vnfsbuild.initrd.drivers import HARDWARE
from vnfsbuild.initrd.kmod import module_name
from vnfsbuild.initrd.modinfo import parse_modinfo
from vnfsbuild.inside.look import Tree, open_archive
from vnfsbuild.inside.opened import Opened
from vnfsbuild.manifest import BOOTSTRAP

INITRD, ARCHIVE = "initrd", "drivers"
"""The payloads that have drivers."""
DESCRIPTION = "/etc/vnfs/bootstrap.json"

GROUPS = {
    "network": ("drivers/net/", "net/8021q/"),
    "InfiniBand": ("drivers/infiniband/",),
    "disks": (
        "drivers/ata/", "drivers/block/", "drivers/cdrom/", "drivers/md/", "drivers/message/",
        "drivers/nvme/", "drivers/pci/", "drivers/scsi/", "drivers/usb/storage/",
    ),
    "USB and input": ("drivers/hid/", "drivers/usb/"),
    "file systems": ("fs/", "net/sunrpc/"),
}  # fmt: skip
"""What drivers are for → where the kernel keeps them."""
OTHERS = "buses and others"


@dataclass(frozen=True, kw_only=True, slots=True)
class Driver:
    """A kernel module of a bootstrap."""

    name: str
    payload: str
    group: str
    description: str
    """what it says of itself; of those that say nothing, nothing"""
    hardware: int
    """for how many kinds of hardware it asks to be loaded; 0: others need it, or it is asked for"""
    firmware: tuple[str, ...]
    """files that it may want besides"""
    size_bytes: int
    """as it lies there, compressed"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What is told of a bootstrap."""

    protocol: int
    """what its agent speaks"""
    drivers: tuple[Driver, ...]


def find_drivers(opened: Opened) -> Found:
    """Return the protocol and the drivers of a bootstrap.

    Raises:
        InputError: it is a capsule.
        VerificationError: it is damaged.
    """
    if opened.head.capsule.manifest.artifact_type != BOOTSTRAP:
        raise InputError(
            f"{opened.name}: a capsule, expected a bootstrap",
            hint=f"vnfsbuild show {opened.name}",
        )
    trees = {
        payload: open_archive(opened, payload)
        for payload in (INITRD, ARCHIVE)
        if payload in opened.payloads
    }
    drivers = [driver for payload in trees for driver in _find(trees[payload], payload)]
    return Found(
        protocol=_read_protocol(trees[INITRD]),
        drivers=tuple(sorted(drivers, key=_order)),
    )


def _order(driver: Driver) -> tuple[bool, int, str]:
    groups = [*GROUPS, OTHERS]
    return driver.payload != INITRD, groups.index(driver.group), driver.name


def _find(tree: Tree, payload: str) -> Iterator[Driver]:
    for placed in tree.listed:
        path = placed.entry.path
        _, inside, below = path.partition("/kernel/")
        if not inside or ".ko" not in path.rpartition("/")[2]:
            continue
        data = b"".join(tree.read_file(placed))
        says = parse_modinfo(unpack_module(path, data), where=f"{tree.where}: {path}")
        yield Driver(
            name=module_name(path),
            payload=payload,
            group=find_group(below),
            description=" ".join(says.get("description", ("",))[0].split()),
            hardware=sum(alias.partition(":")[0] in HARDWARE for alias in says.get("alias", ())),
            firmware=tuple(sorted(set(says.get("firmware", ())))),
            size_bytes=len(data),
        )


def find_group(path: str) -> str:
    """Return what a module is for by its *path* below ``kernel/``."""
    found = [
        (len(place), group)
        for group, places in GROUPS.items()
        for place in places
        if path.startswith(place)
    ]
    return max(found)[1] if found else OTHERS


def unpack_module(path: str, data: bytes) -> bytes:
    """Return the module *data*, which is compressed as its *path* says.

    Raises:
        VerificationError: it is not.
    """
    unpack = {"xz": lzma.decompress, "gz": gzip.decompress, "zst": pyzstd.decompress}
    suffix = path.rpartition(".")[2]
    try:
        return unpack[suffix](data) if suffix in unpack else data
    except (OSError, EOFError, lzma.LZMAError, pyzstd.ZstdError) as error:
        raise VerificationError(f"{path}: cannot be unpacked: {error}") from error


def _read_protocol(tree: Tree) -> int:
    try:
        value: Any = json.loads(b"".join(tree.read_file(tree.find_file(DESCRIPTION))))
        protocol = value["protocol"]
    except (ValueError, KeyError, TypeError) as error:
        raise VerificationError(f"{tree.where}: {DESCRIPTION}: {error}") from error
    if not isinstance(protocol, int):
        raise VerificationError(f"{tree.where}: {DESCRIPTION}: found protocol {protocol!r}")
    return protocol


def total_bytes(drivers: Sequence[Driver], payload: str) -> int:
    """Return how large the modules in *payload* are together."""
    return sum(driver.size_bytes for driver in drivers if driver.payload == payload)
