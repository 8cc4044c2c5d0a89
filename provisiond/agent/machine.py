"""Facts of the machine, read from /proc and /sys; and its clock."""

from __future__ import annotations

import os
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Optional, Tuple, Union

SYS = Path("/sys")
PROC = Path("/proc")

CLOCK_SLACK_SECONDS = 60

_BOOTIF = re.compile(r"[0-9a-f]{2}((?:-[0-9a-f]{2}){6,20})\Z")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")


@dataclass(frozen=True)
class Machine:
    """Which machine this is."""

    hwaddrs: Tuple[str, ...]
    """Hardware addresses of its network interfaces; the one it was booted from first."""
    uuid: Optional[str]


def boot_address(command_line: str) -> Optional[str]:
    """Return the hardware address that ``BOOTIF=`` names: type, then address, with hyphens."""
    found = None
    for word in command_line.split():
        key, _, value = word.partition("=")
        match = _BOOTIF.match(value.lower()) if key == "BOOTIF" else None
        if match:
            found = match.group(1)[1:].replace("-", ":")
    return found


def read_hwaddrs(first: Optional[str], *, sys: Path = SYS) -> Tuple[str, ...]:
    """Return the addresses of the physical network interfaces, *first* first when it is there."""
    found = []
    for interface in sorted((sys / "class/net").glob("*")):
        if not (interface / "device").exists():
            continue
        address = _read(interface / "address").lower()
        # Interfaces without an address of their own show zeros.
        if address.strip("0:") and address not in found:
            found.append(address)
    return tuple(sorted(found, key=lambda address: address != first))


def read_command_line(*, proc: Path = PROC) -> str:
    """Return what the running kernel was started with."""
    return _read(proc / "cmdline")


def read_uuid(*, sys: Path = SYS) -> Optional[str]:
    """Return the SMBIOS UUID; None when the maker never set one."""
    uuid = _read(sys / "class/dmi/id/product_uuid").lower()
    if not _UUID.match(uuid) or len(set(uuid.replace("-", ""))) == 1:
        return None
    return uuid


def read_machine(*, sys: Path = SYS, proc: Path = PROC) -> Machine:
    """Return which machine this is."""
    first = boot_address(read_command_line(proc=proc))
    return Machine(hwaddrs=read_hwaddrs(first, sys=sys), uuid=read_uuid(sys=sys))


def read_memory(*, proc: Path = PROC) -> Dict[str, int]:
    """Return /proc/meminfo, in KiB by name."""
    figures = {}
    for line in _read(proc / "meminfo").splitlines():
        name, _, rest = line.partition(":")
        value = rest.split()
        if value and value[0].isdigit():
            figures[name] = int(value[0])
    return figures


def make_report(*, proc: Path = PROC) -> Dict[str, Union[int, str]]:
    """Return the figures that travel with every check-in."""
    memory = read_memory(proc=proc)
    total = memory.get("MemTotal", 0)
    uptime = _read(proc / "uptime").split() or ["0"]
    return {
        "kernel": os.uname().release,
        "load": " ".join(_read(proc / "loadavg").split()[:3]),
        "memoryTotalKib": total,
        "memoryUsedKib": total - memory.get("MemAvailable", total),
        "uptimeCentiseconds": round(float(uptime[0]) * 100),
    }


def set_clock(seconds: int) -> Optional[str]:
    """Set the clock when it is off by more than a minute; return what was done, None if nothing.

    The hardware clock too: the kernel that is started next reads that.
    """
    wrong = time.time() - seconds
    if abs(wrong) <= CLOCK_SLACK_SECONDS:
        return None
    told = f"the clock was {abs(wrong):.0f} s {'ahead' if wrong > 0 else 'behind'}"
    try:
        time.clock_settime(time.CLOCK_REALTIME, seconds)
    except OSError as error:
        return f"{told} and cannot be set: {error.strerror}"
    argv = ["hwclock", "--systohc", "--utc"]
    # A machine without a hardware clock does not get one by failing here.
    try:
        subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return f"{told}; set by the server's, but the hardware clock cannot be set"
    return f"{told}; set by the server's"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
