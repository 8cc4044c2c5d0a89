"""Scripts that a node runs at its phases, and commands: their end, and their last lines.

``/etc/vnfs/ready.d`` once per boot, before the node calls itself ready; ``change.d`` after files of
its overlay were changed; ``halt.d`` when it stops.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import List, Mapping, Optional, Sequence, Tuple

TAIL_CHARACTERS = 1200
KILL_SECONDS = 3.0
"""How long an end is waited for that must come at once."""


@dataclass(frozen=True)
class Outcome:
    """What came of the scripts."""

    failure: str
    """Which failed and how, with its last lines; empty when all went well."""
    output: str
    """The last lines of all, with the names of the scripts."""


def find_scripts(directory: Path) -> List[Path]:
    """Return the executable files in *directory*, in the order of their names."""
    try:
        entries = sorted(directory.iterdir())
    except OSError:
        return []
    return [
        path
        for path in entries
        if path.is_file() and os.access(path, os.X_OK) and not path.name.startswith(".")
    ]


def run_scripts(
    directory: Path,
    *,
    timeout_seconds: float,
    environment: Optional[Mapping[str, str]] = None,
) -> Outcome:
    """Run the scripts in *directory* one after the other, until one fails."""
    told = []
    for script in find_scripts(directory):
        status, output = run_command([str(script)], timeout_seconds, environment)
        told.append(f"{script.name}: {status or 'done'}" + (f"\n{output}" if output else ""))
        if status:
            failure = f"{directory.name}/{script.name}: {status}"
            return Outcome(f"{failure}: {output}" if output else failure, tail("\n".join(told)))
    return Outcome("", tail("\n".join(told)))


def tail(text: str) -> str:
    """Return the end of *text*, cut at a line where it can be."""
    if len(text) <= TAIL_CHARACTERS:
        return text
    return "…" + text[-TAIL_CHARACTERS:].partition("\n")[2] or text[-TAIL_CHARACTERS:]


def run_command(
    argv: Sequence[str],
    timeout_seconds: float,
    environment: Optional[Mapping[str, str]] = None,
    *,
    lock: Optional[int] = None,
) -> Tuple[str, str]:
    """Run *argv*; return how it failed, empty when it did not, and its last lines.

    With *lock*, a descriptor that it and all that it starts hold, what it left behind is killed.
    """
    # A file, not a pipe: what a script leaves running in the background must not hold us up.
    with os.fdopen(os.memfd_create("script"), "w+b") as output:
        try:
            process = subprocess.Popen(
                list(argv),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                start_new_session=True,
                pass_fds=() if lock is None else (lock,),
            )
        except OSError as error:
            return f"cannot be run: {error.strerror}", ""
        try:
            code = process.wait(timeout_seconds)
            status = f"exit status {code}" if code > 0 else ""
            if code < 0:
                status = f"killed by {signal.Signals(-code).name}"
            if lock is not None:
                _kill_group(process.pid)
        except subprocess.TimeoutExpired:
            _kill_group(process.pid)
            status = f"not done after {timeout_seconds:.0f} s"
            if not _ends(process):
                status += ", and cannot be killed"
        size_bytes = output.seek(0, os.SEEK_END)
        output.seek(max(0, size_bytes - 4 * TAIL_CHARACTERS))
        text = output.read().decode("utf-8", "replace")
    return status, tail(text.strip())


def _ends(process: "subprocess.Popen[bytes]") -> bool:
    """Wait a moment for a process that was killed: one that waits for a dead disk does not end."""
    try:
        process.wait(KILL_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
