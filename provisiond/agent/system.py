"""What the agent asks systemd: whether the system has started, what failed, where it goes."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import Callable, List

MAX_UNITS = 64
WAYS_DOWN = {
    "kexec.target": "starts another kernel",
    "poweroff.target": "powers off",
    "reboot.target": "reboots",
    "halt.target": "halts",
}


def system_state(*, wait: bool = False) -> str:
    """Return what systemd says of the system: ``running``, ``degraded``, ``stopping`` …

    With *wait* it returns when the system has finished starting. Empty without systemd.
    """
    argv = ["systemctl", "is-system-running", *(["--wait"] if wait else [])]
    return _systemctl(argv).strip()


def failed_units() -> List[str]:
    """Return the names of the units that failed."""
    lines = _systemctl(["systemctl", "list-units", "--failed", "--plain", "--no-legend", "--full"])
    return [line.split()[0] for line in lines.splitlines() if line.split()][:MAX_UNITS]


def find_way_down() -> str:
    """Return what a system that stops will do, in words; empty when that is not known."""
    jobs = _systemctl(["systemctl", "list-jobs", "--plain", "--no-legend", "--full"])
    words = set(jobs.split())
    return next((told for target, told in WAYS_DOWN.items() if target in words), "")


@dataclass(frozen=True)
class System:
    """What is asked of the system, and what a test answers."""

    state: Callable[..., str] = system_state
    failed_units: Callable[[], List[str]] = failed_units
    way_down: Callable[[], str] = find_way_down


def _systemctl(argv: List[str]) -> str:
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except OSError:
        return ""
    return done.stdout.decode("utf-8", "replace")
