"""Which laboratories run on this machine.

Each holds a lock on a file in its directory: the kernel lets it go when the process dies, however
it dies, so a directory without a holder is one that was left behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vnfsbuild.errors import InputError

DIRECTORY = Path("/var/tmp")
"""Where laboratories keep what they need; not /tmp, which may be memory."""

PREFIX = "vnfs-lab-"
PID_FILE = "lab.pid"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningLab:
    """A laboratory that runs."""

    pid: int
    directory: Path


@contextlib.contextmanager
def registered(directory: Path) -> Iterator[None]:
    """Let *directory* be found as that of a running laboratory while the block runs."""
    new = directory / f".{PID_FILE}"
    with new.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(f"{os.getpid()}\n")
        file.flush()
        # It gets its name when it is held: whoever finds it free finds a dead one's.
        new.rename(directory / PID_FILE)
        yield


def find_labs(directory: Path = DIRECTORY) -> tuple[RunningLab, ...]:
    """Return the laboratories that run; what dead ones of ours left behind is removed."""
    labs = []
    for path in sorted(directory.glob(f"{PREFIX}*")):
        # Anybody may make a directory here; whom root signals, only root may say.
        if path.is_symlink() or path.stat().st_uid != os.geteuid():
            continue
        if not (path / PID_FILE).is_file():
            continue
        pid = _holder(path / PID_FILE)
        if pid is not None:
            labs.append(RunningLab(pid=pid, directory=path))
        else:
            shutil.rmtree(path, ignore_errors=True)
    return tuple(labs)


def stop_lab(pid: int | None, directory: Path = DIRECTORY) -> None:
    """Tell the laboratory of the process *pid* to end, or the only one there is.

    Raises:
        InputError: there is none, or several and none was named.
    """
    labs = find_labs(directory)
    chosen = [lab for lab in labs if pid in (None, lab.pid)]
    if not chosen:
        what = "none" if pid is None else f"none with process {pid}"
        raise InputError(f"laboratory: found {what} running", hint="provisionctl lab list")
    if len(chosen) > 1:
        pids = ", ".join(str(lab.pid) for lab in chosen)
        raise InputError(f"laboratory: found {pids}, expected the one to stop to be named")
    os.kill(chosen[0].pid, signal.SIGTERM)


def _holder(path: Path) -> int | None:
    try:
        with path.open() as file:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return None
            return int(file.read())
    except (FileNotFoundError, ValueError):
        return None
