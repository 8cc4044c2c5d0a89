"""Hardware that the bootstrap's own drivers do not drive: told to the server, and drivers.cpio
fetched and loaded when the network works without.

docs/booting.md has the whole story. What is loaded is vouched for like a capsule: by the signed
manifest of the bootstrap whose drivers these are.
"""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from sys import stdout
from typing import Any, BinaryIO, Callable, Dict, Iterator, List, Optional, Sequence

from provisiond.agent import machine
from provisiond.agent.console import Tell, describe
from provisiond.agent.fetch import Fetcher, Patience
from provisiond.agent.hardware import Aliases, find_devices, told_device, wanted_modules
from provisiond.agent.machine import boot_address
from provisiond.agent.obtain import open_raw
from provisiond.agent.order import order_blobs
from provisiond.agent.unpack import unpack
from provisiond.protocol import Plan, PlannedCapsule
from vnfsbuild.digest import Digest, short
from vnfsbuild.dsse import VerifyEd25519
from vnfsbuild.errors import VerificationError, VnfsbuildError
from vnfsbuild.manifest import BOOTSTRAP, KERNEL, MAX_METADATA_BYTES, parse_manifest
from vnfsbuild.trust import Trust
from vnfsbuild.verify import VerifiedCapsule, verify_capsule

ALIASES = "usr/lib/vnfs/drivers.alias"
NOTE = "etc/vnfs/drivers.json"
DESCRIPTION = "etc/vnfs/bootstrap.json"
MODPROBE = "/usr/sbin/modprobe"

FIRMWARE, AGENT = "firmware", "agent"
"""Who brought drivers.cpio."""

RETRY_SECONDS = 30.0
SPARE_BYTES = 16 * 1024 * 1024
"""What is left to the node besides the archive and what it unpacks to."""
NETWORK_CLASS = "bc02"
ROUNDS = 3
"""Drivers of buses bring devices, which want drivers."""


class Drivers:
    """The drivers of one boot of one bootstrap."""

    def __init__(
        self,
        *,
        tell: Tell,
        root: Path = Path("/"),
        sys: Path = machine.SYS,
        run: Path = Path("/run/vnfs"),
        patience: Optional[Patience] = None,
        load: Optional[Callable[[], None]] = None,
    ) -> None:
        self._tell = tell
        self._root = root
        self._sys = sys
        self._file = run / "drivers.cpio"
        self._patience = patience or Patience()
        self._load = load or (lambda: load_drivers(sys))
        self._from = FIRMWARE if (root / NOTE).is_file() else ""
        self._again_at = 0.0
        self._aliases: Optional[Aliases] = None

    def report(self) -> Dict[str, Any]:
        """Return the figures for the server: what nothing drives, and what would."""
        aliases = self._load_aliases()
        devices = find_devices(self._sys)
        figures: Dict[str, Any] = {
            "undriven": [item.modalias for item in devices if item.is_undriven(aliases)],
            "driversFrom": self._from,
        }
        if aliases is not None:
            figures["wantedDrivers"] = wanted_modules(devices, aliases)
        return figures

    def obtain(self, plan: Plan, *, trust: Trust, now: int, verify_ed25519: VerifyEd25519) -> None:
        """Fetch and load the drivers that *plan* names, unless they are here.

        A failure is told, and tried again a while later: the boot goes on without them.
        """
        if plan.drivers is None or self._from or time.monotonic() < self._again_at:
            return
        try:
            bootstrap = self._judge(plan.drivers, plan, trust, now, verify_ed25519)
            self._fetch(bootstrap, plan)
            self._load()
        except (VnfsbuildError, OSError, subprocess.SubprocessError) as error:
            self._again_at = time.monotonic() + RETRY_SECONDS
            told = describe(error, getattr(error, "hint", None))
            self._tell(f"drivers.cpio: {told}; going on without it")

    def _judge(
        self,
        planned: PlannedCapsule,
        plan: Plan,
        trust: Trust,
        now: int,
        verify_ed25519: VerifyEd25519,
    ) -> VerifiedCapsule:
        """Return the bootstrap *planned* when it may run here and is for this kernel.

        Raises:
            VerificationError: it may not, or is not.
            NetworkError: its documents cannot be had.
        """
        fetcher = Fetcher(_order(plan), tell=self._tell, patience=self._patience)

        def small(digest: Digest, where: str) -> bytes:
            return fetcher.fetch_small(digest, limit_bytes=MAX_METADATA_BYTES, where=where)

        manifest_bytes = small(planned.digest, "manifest")
        manifest = parse_manifest(manifest_bytes)
        if manifest.artifact_type != BOOTSTRAP:
            raise VerificationError(f"found {manifest.artifact_type}, expected a bootstrap")
        bootstrap = verify_capsule(
            manifest_bytes,
            small(manifest.config.digest, "config"),
            [small(digest, "signature") for digest in planned.signatures],
            trust=trust,
            now=now,
            verify_ed25519=verify_ed25519,
            digest=planned.digest,
        )
        if bootstrap.config.name != planned.name:
            raise VerificationError(
                f"found the bootstrap {bootstrap.config.name!r}, the plan says {planned.name!r}"
            )
        description = json.loads((self._root / DESCRIPTION).read_bytes())
        if manifest.payload(KERNEL).digest != description.get("kernelDigest"):
            raise VerificationError(
                f"{planned.name}@{short(planned.digest)} has drivers for the kernel "
                f"{bootstrap.config.kernel.version}, another one runs",
                hint="boot the node anew: firmware then brings kernel and drivers of one kind",
            )
        return bootstrap

    def _fetch(self, bootstrap: VerifiedCapsule, plan: Plan) -> None:
        """Fetch drivers.cpio of *bootstrap* and unpack it over the root.

        Raises:
            VnfsbuildError: it has none, it cannot be had, or there is no room for it.
        """
        blob = bootstrap.manifest.drivers
        if blob is None:
            raise VnfsbuildError("the bootstrap on the server has none any more")
        needed = 2 * blob.size_bytes + SPARE_BYTES
        there = 1024 * machine.read_memory().get("MemAvailable", 0)
        if there < needed:
            raise VnfsbuildError(
                f"takes {needed / 1e6:.0f} MB of memory for a moment, found {there / 1e6:.0f} MB"
            )
        self._tell(f"{plan.name}: fetching drivers.cpio, {blob.size_bytes / 1e6:.1f} MB")
        self._file.unlink(missing_ok=True)
        try:
            with open_raw(self._file) as file:
                fetcher = Fetcher(_order(plan), tell=self._tell, patience=self._patience)
                fetcher.fetch_into(file, blob, where="drivers.cpio")
            with self._file.open("rb") as archive:
                self._unpack(archive)
        finally:
            self._file.unlink(missing_ok=True)
        self._from = AGENT
        self._tell(f"{plan.name}: drivers.cpio of {bootstrap.config.name} is here")

    def _unpack(self, archive: BinaryIO) -> None:
        # The note says that all of it is there: it comes last.
        unpack(archive, self._root, last=NOTE)

    def _load_aliases(self) -> Optional[Aliases]:
        if self._aliases is None:
            self._aliases = Aliases.load(self._root / ALIASES)
        return self._aliases


def load_drivers(sys: Path = machine.SYS) -> None:
    """Load the driver of each device that has none.

    Raises:
        OSError: there is no modprobe.
    """
    known: List[str] = []
    for _ in range(ROUNDS):
        found = sorted({_read(path) for path in (sys / "devices").rglob("modalias")} - {""})
        if found == known:
            return
        known = found
        _modprobe("-q", "-a", "-b", "--", *found)
        if (sys / "class/infiniband").is_dir():
            # No device asks for it: it is a protocol.
            _modprobe("-q", "-a", "-b", "--", "ib_ipoib")


def tell_undriven() -> None:
    """Print a line for each network card that nothing here drives, and what to type.

    For init, when there is no network by which the server could be told.
    """
    line = (machine.PROC / "cmdline").read_text(encoding="utf-8", errors="replace")
    for text in describe_undriven(Path("/"), machine.SYS, boot_address(line) or "MAC"):
        stdout.write(f"{text}\n")


def describe_undriven(root: Path, sys: Path, hwaddr: str) -> Iterator[str]:
    """Tell of each network card that nothing drives; *hwaddr* is what firmware booted from."""
    aliases = Aliases.load(root / ALIASES)
    for device in find_devices(sys):
        is_card = NETWORK_CLASS in device.modalias or device.bus == "usb"
        if device.driver or not is_card:
            continue
        modules = aliases.find(device.modalias) if aliases else []
        if modules:
            yield (
                f"{told_device(device)} takes {' or '.join(modules)}, which is in drivers.cpio: "
                f"provisionctl node add {hwaddr}, provisionctl node set drivers true NAME"
            )
        elif device.bus != "usb":
            yield f"{told_device(device)}: no driver here, and none in drivers.cpio"


def _modprobe(*words: str) -> None:
    subprocess.run(
        [MODPROBE, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _order(plan: Plan) -> Sequence[str]:
    """Return the servers of blobs of *plan*, in this node's own order."""
    return order_blobs(plan.blobs, plan.near, plan.node_id)
