"""The site's word on whether a node may leave what it runs: the scripts of ``/etc/vnfs/drain.d``.

Each is asked with ``drain`` until it ends with 0: nothing runs here any more, and nothing new will.
75 says: not yet, ask again; anything else is a failure. When the node stays after all, those that
were asked are told ``resume``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Mapping

from provisiond.agent.readyscripts import find_scripts, run_command

DIRECTORY = Path("/etc/vnfs/drain.d")
SECONDS = 300.0
NOT_YET = "exit status 75"


@dataclass(frozen=True)
class Verdict:
    """What the scripts say."""

    is_idle: bool
    detail: str = ""
    """What they wait for."""
    failure: str = ""
    """Which failed, and how; empty: none."""


def drain(directory: Path, *, capsule: str, seconds: float = SECONDS) -> Verdict:
    """Ask each script; return what they say together. *capsule* is what the node goes over to."""
    waits = []
    for script in find_scripts(directory):
        status, output = run_command([str(script), "drain"], seconds, _environment(capsule))
        last = output.splitlines()[-1] if output else ""
        if status == NOT_YET:
            waits.append(f"{script.name}: {last or 'not yet'}")
        elif status:
            failure = f"{directory.name}/{script.name}: {status}"
            return Verdict(False, failure=f"{failure}: {output}" if output else failure)
    return Verdict(not waits, detail="; ".join(waits))


def resume(directory: Path, *, capsule: str, seconds: float = SECONDS) -> str:
    """Tell each script that the node stays; return what went wrong, empty when nothing did."""
    faults = []
    for script in find_scripts(directory):
        status, output = run_command([str(script), "resume"], seconds, _environment(capsule))
        if status:
            faults.append(f"{directory.name}/{script.name} resume: {status} {output}".strip())
    return "; ".join(faults)


def _environment(capsule: str) -> Mapping[str, str]:
    path = os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
    return {"PATH": path, "LC_ALL": "C.UTF-8", "VNFS_NEXT": capsule}
