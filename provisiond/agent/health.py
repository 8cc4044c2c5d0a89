"""The site's health checks: executables of ``/etc/vnfs/health.d``, run before a check-in.

A check that fails says so by its exit status; its last lines say why. Nothing is done about it
here: the node server shows it, and tells the site's hooks.
"""

from __future__ import annotations

import fcntl
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

from provisiond.agent.notes import read_note, write_note
from provisiond.agent.readyscripts import find_scripts, run_command, tail

CHECKS = Path("/etc/vnfs/health.d")
NOTE = "health.json"
CHECK_SECONDS = 30.0
"""How long each may take."""
ALL_SECONDS = 60.0
"""After so long no further one is begun: the node would be taken for late."""
EVERY_SECONDS = 300
"""When the plan does not say how often."""
TOLD_CHARACTERS = 300
"""Of each that failed."""


LOCKS = "health.locks"
STUCK = "still at it, from an earlier time; not run again"


@dataclass(frozen=True)
class Health:
    """What the checks found."""

    unhealthy: str
    """Which failed, how, and their last lines; empty when all is well."""
    output: str
    """The last lines of all, with the names of the checks."""


def is_due(last: Optional[float], now: float, *, every_seconds: int) -> bool:
    """Tell whether the checks are to be run: on all nodes at the same multiple of the interval."""
    if every_seconds == 0:
        return False
    # A clock that was set back must not keep them from being run.
    return last is None or int(last // every_seconds) != int(now // every_seconds)


def run_checks(
    directory: Path,
    locks: Path,
    *,
    check_seconds: float = CHECK_SECONDS,
    all_seconds: float = ALL_SECONDS,
) -> Health:
    """Run the checks in *directory*, each whatever the others say; in *locks* is one for each."""
    begun = time.monotonic()
    locks.mkdir(mode=0o700, parents=True, exist_ok=True)
    failures, told = [], []
    for check in find_scripts(directory):
        if time.monotonic() - begun > all_seconds:
            told.append(f"{check.name}: not run, the others took {all_seconds:.0f} s")
            continue
        status, output = _run_check(check, locks / check.name, check_seconds)
        told.append(f"{check.name}: {status or 'done'}" + (f"\n{output}" if output else ""))
        if status:
            last = " ".join(output.split())[-TOLD_CHARACTERS:]
            failures.append(f"{check.name}: {status}" + (f": {last}" if last else ""))
    return Health("; ".join(failures), tail("\n".join(told)))


def _run_check(check: Path, lock: Path, timeout_seconds: float) -> Tuple[str, str]:
    """Run *check*, unless it hangs from the last time: one that waits for a dead disk for ever.

    Not to be killed either; one more each time would pile up.
    """
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return run_command([str(check)], timeout_seconds, lock=descriptor)
    except BlockingIOError:
        return STUCK, ""
    finally:
        os.close(descriptor)


def keep_health(run: Path, directory: Path, now: float, *, every_seconds: int) -> None:
    """Run the checks when they are due, and keep what they found."""
    kept = read_note(run / NOTE) or {}
    if not is_due(kept.get("at"), now, every_seconds=every_seconds):
        return
    found = run_checks(directory, run / LOCKS)
    value: Dict[str, Any] = {"at": now, "unhealthy": found.unhealthy, "output": found.output}
    write_note(run / NOTE, value)


def read_health(run: Path) -> Dict[str, str]:
    """Return the figures of what was found last; an empty text says that nothing is wrong."""
    kept = read_note(run / NOTE) or {}
    return {"unhealthy": str(kept.get("unhealthy", "")), "health.d": str(kept.get("output", ""))}
