"""What the agent keeps in ``/run/vnfs`` from one of its processes to the next.

Each file is replaced as a whole, and only root may read it. All of it is gone with the boot.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Optional

from provisiond.protocol import STATES, Plan, clean, parse_plan
from vnfsbuild.digest import Digest, parse_digest
from vnfsbuild.errors import InputError

RUN = Path("/run/vnfs")
PLAN = "plan.json"
"""The newest plan of the server."""
LEAVING = "leaving.json"
"""What is to be said at the end in the place of ``halted``: state, detail, capsule."""
NEXT = "next.json"
"""How far this node is with the capsule that it is to go over to."""
FIGURES = "report.d"
WORK_LOCK = "work.lock"
WAITER = "VNFS_WAITER"
"""The process that started this one, and waits for the next check-in."""
MAX_FIGURE_CHARACTERS = 2000
LOCK_TRIES = 20
LOCK_PAUSE_SECONDS = 0.1


@dataclass(frozen=True)
class Leaving:
    """What a node says that goes over to another kernel."""

    state: str
    detail: str
    capsule: Optional[Digest] = None
    """What it goes over to."""


def write_note(path: Path, value: Any) -> None:
    """Put the JSON *value* at *path*; a reader sees the old one or this one."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(value, file, sort_keys=True)
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def read_note(path: Path) -> Any:
    """Return the value at *path*; None when there is none, or it is broken."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def load_plan(run: Path) -> Optional[Plan]:
    """Return the newest plan of the server; None when there is none yet."""
    value = read_note(run / PLAN)
    try:
        return None if value is None else parse_plan(value)
    except InputError:
        return None


def load_leaving(run: Path) -> Optional[Leaving]:
    """Return what this node says at its end; None: that it is halted."""
    value = read_note(run / LEAVING)
    if not isinstance(value, dict) or value.get("state") not in STATES:
        return None
    try:
        capsule = parse_digest(str(value["capsule"]), where=LEAVING)
    except (KeyError, InputError):
        capsule = None
    return Leaving(value["state"], str(value.get("detail", "")), capsule)


def put_figure(run: Path, key: str, text: str) -> None:
    """Let each check-in report *text* as *key* from now on; an empty text takes it back."""
    directory = run / FIGURES
    directory.mkdir(mode=0o700, exist_ok=True)
    write_note(directory / key, clean(text, limit=MAX_FIGURE_CHARACTERS))


def read_figures(run: Path) -> Dict[str, str]:
    """Return what :func:`put_figure` put there."""
    try:
        entries = sorted((run / FIGURES).iterdir())
    except OSError:
        return {}
    found = {path.name: read_note(path) for path in entries if not path.name.startswith(".")}
    return {key: value for key, value in found.items() if isinstance(value, str)}


def ask_checkin() -> None:
    """Let the agent check in at once: something has come about that the server should hear of."""
    waiter = os.environ.get(WAITER, "")
    # Only of one's own parent is it known that the number is still its.
    if waiter.isdigit() and int(waiter) == os.getppid():
        os.kill(int(waiter), signal.SIGUSR1)


def lock_work(run: Path) -> Optional[int]:
    """Return the lock of the one process that works, until it ends; None: another one does."""
    for _ in range(LOCK_TRIES):
        descriptor = _try_lock(run, fcntl.LOCK_EX)
        if descriptor is not None:
            return descriptor
        # It may be one who only looks.
        time.sleep(LOCK_PAUSE_SECONDS)
    return None


def is_worked(run: Path) -> bool:
    """Tell whether a process works at present."""
    descriptor = _try_lock(run, fcntl.LOCK_SH)
    if descriptor is None:
        return True
    os.close(descriptor)
    return False


def _try_lock(run: Path, kind: int) -> Optional[int]:
    # Not inherited: what a script leaves running in the background must not hold it.
    descriptor = os.open(run / WORK_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
