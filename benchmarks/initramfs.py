"""A capsule's root as one compressed initramfs that iPXE itself loads, as Warewulf 4 boots nodes.

Nothing of ours runs there: dnsmasq says where the script is, a plain web server has the files. A
second archive holds what a node needs of its own, and the unit that tells of its memory.
"""

from __future__ import annotations

import contextlib
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from benchmarks.harness import run, vnfsbuild
from provisiond.dnsmasq_config import (
    BIOS_LOADER,
    EFI_LOADER,
    DnsmasqPlaces,
    dnsmasq_argv,
    render_dnsmasq_config,
)
from provisiond.lab.children import Children
from provisiond.lab.laboratory import Laboratory, Settings
from provisiond.lab.network import ADDRESS, BRIDGE, RANGE, open_network
from provisiond.lab.running import DIRECTORY, PREFIX, registered
from vnfsbuild.newc import render_archive

PORT = 8988
URL = f"http://{ADDRESS.ip}:{PORT}"
IMAGE = "image.cpio.gz"
OWN = "own.cpio"
UNIT = "bench-memory.service"
UNIT_DIR = "etc/systemd/system"
# Stands in for the agent of a capsule: that, too, waits until the system has started.
UNIT_TEXT = """\
[Unit]
Description=Tells of the memory once the system runs
[Service]
ExecStart=/bin/sh -c 'systemctl is-system-running --wait; exec /bin/sh /etc/bench-memory'
"""
MACHINE_ID = b"5f2c3d0a9b8e4c17a6d1e0f4b3c2a190\n"

PACK = 'cd "$1" && find . -print0 | LC_ALL=C sort -z | cpio --quiet -0 -o -H newc | "$3" -c >"$2"'
PACKERS = ("pigz", "gzip")
"""The first one that there is; both write the same format, at level 6."""


@dataclass(frozen=True, kw_only=True)
class Image:
    """What iPXE fetches, in a directory of its own."""

    directory: Path
    packed_bytes: int
    """Of the root, compressed."""
    unpacked_bytes: int
    """Of the archive before it was compressed."""
    arguments: Sequence[str]
    """The capsule's own kernel arguments."""


def make_image(
    capsule: Path, kernel: Path, arguments: Sequence[str], command: str, *, site: Path, work: Path
) -> Image:
    """Pack the whole root of *capsule*, adding nothing; *command* is what tells of the memory."""
    directory, mounted = work / "image", work / "mounted"
    directory.mkdir()
    mounted.mkdir()
    env = {"VNFS_SITE": site, "VNFS_STORE": work / "store"}
    packer = next(name for name in PACKERS if shutil.which(name))
    vnfsbuild("mount", capsule, mounted, **env)
    try:
        run(["bash", "-o", "pipefail", "-c", PACK, "pack", mounted, directory / IMAGE, packer])
    finally:
        vnfsbuild("umount", mounted, **env)
    shutil.copyfile(kernel, directory / "kernel")
    (directory / OWN).write_bytes(render_own(command))
    (directory / "boot.ipxe").write_text(render_script(arguments), encoding="utf-8")
    return Image(
        directory=directory,
        packed_bytes=(directory / IMAGE).stat().st_size,
        unpacked_bytes=int(
            run(["bash", "-c", 'gzip -dc "$1" | wc -c', "count", directory / IMAGE])
        ),
        arguments=tuple(arguments),
    )


def render_own(command: str) -> bytes:
    """Return the archive of what is this node's own; its directories are in the root already."""
    file, link = stat.S_IFREG | 0o644, stat.S_IFLNK | 0o777
    return render_archive(
        [
            ("etc/machine-id", file, MACHINE_ID),
            ("etc/hostname", file, b"n00001\n"),
            ("etc/bench-memory", file, f"{command}\n".encode()),
            (f"{UNIT_DIR}/{UNIT}", file, UNIT_TEXT.encode()),
            (f"{UNIT_DIR}/multi-user.target.wants/{UNIT}", link, f"../{UNIT}".encode()),
        ]
    )


def render_script(arguments: Sequence[str]) -> str:
    """Return the script that starts the kernel with the root as its initramfs, for good."""
    words = [f"initrd={IMAGE}", f"initrd={OWN}", "rdinit=/sbin/init", *arguments]
    return "\n".join(
        [
            "#!ipxe",
            f"kernel --name kernel {URL}/kernel {' '.join(words)}",
            *(f"initrd --name {name} {URL}/{name}" for name in (IMAGE, OWN)),
            "boot",
            "",
        ]
    )


@contextlib.contextmanager
def open_plain(settings: Settings, image: Image) -> Iterator[Laboratory]:
    """Make a laboratory that has dnsmasq and a web server, and no node server."""
    directory = Path(tempfile.mkdtemp(dir=DIRECTORY, prefix=PREFIX))
    children = Children()
    try:
        with registered(directory), open_network(children) as network:
            laboratory = Laboratory(directory, settings, children, network)
            try:
                laboratory.start(
                    "dnsmasq", dnsmasq_argv(_configure(directory, settings), owner=None)
                )
                web = [sys.executable, "-m", "http.server", "--bind", str(ADDRESS.ip)]
                laboratory.start("web", [*web, "--directory", str(image.directory), str(PORT)])
                yield laboratory
            finally:
                children.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _configure(directory: Path, settings: Settings) -> Path:
    """Write what dnsmasq reads: as a node server would have it, but for the files' address."""
    places = DnsmasqPlaces(
        leases=directory / "leases",
        hosts=directory / "hosts",
        names=directory / "names",
        tftp=directory / "tftp",
    )
    for path in (places.hosts, places.names, places.tftp):
        path.mkdir()
    for loader in (BIOS_LOADER, EFI_LOADER):
        shutil.copyfile(settings.tree / "usr/lib/ipxe" / loader, places.tftp / loader)
    first, _, last = RANGE.partition("-")
    config = directory / "dnsmasq.conf"
    text = render_dnsmasq_config(
        device=BRIDGE,
        address=ADDRESS,
        first=IPv4Address(first),
        last=IPv4Address(last),
        gateway=None,
        name_servers=(),
        domain="",
        boot_url=URL,
        places=places,
        as_root=True,
    )
    # Its script lies beside the other files, where a node server answers with one.
    config.write_text(text, encoding="utf-8")
    return config
