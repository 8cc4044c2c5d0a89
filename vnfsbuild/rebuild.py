"""The inside of ``vnfsbuild reproduce``: run as a program, in namespaces of its own.

It changes what one process can change about itself (host name, umask, processors, user), then
builds as ever. A process of its own, so that nothing of the caller is there but what it was told.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from vnfsbuild.bootstrap import build_bootstrap
from vnfsbuild.build import build_capsule
from vnfsbuild.errors import VnfsbuildError, render_error
from vnfsbuild.manifest import BOOTSTRAP
from vnfsbuild.places import Places
from vnfsbuild.timings import Timings

TERMINATED = 143


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What to build, and as whom."""

    recipe: str
    artifact_type: str
    scratch: str
    """the directory with store, cache and site, which are to be used"""
    umask: int
    host_name: str | None
    processor: int | None
    uid: int | None
    gid: int | None


def places_below(scratch: Path) -> Places:
    """Return the places of a build that knows nothing of this host's."""
    return Places(
        store=scratch / "store", cache=scratch / "cache", site=scratch / "site", share=scratch
    )


def become(order: Order) -> None:
    """Make this process what *order* says."""
    if order.host_name is not None:
        socket.sethostname(order.host_name)
    if order.processor is not None:
        os.sched_setaffinity(0, {order.processor})
    os.umask(order.umask)
    if order.uid is not None and order.gid is not None:
        os.setgroups([])
        os.setresgid(order.gid, order.gid, order.gid)
        os.setresuid(order.uid, order.uid, order.uid)


def rebuild(order: Order) -> None:
    """Build what *order* says into its store.

    Raises:
        VnfsbuildError: as any build.
    """
    build = build_bootstrap if order.artifact_type == BOOTSTRAP else build_capsule
    places = places_below(Path(order.scratch))
    build(Path(order.recipe), places, timings=Timings(), key_name=None)


def main(arguments: list[str]) -> int:
    """Do what the JSON in *arguments* says; return the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("libarchive").setLevel(logging.ERROR)
    signal.signal(signal.SIGTERM, _terminate)
    order = Order(**json.loads(arguments[0]))
    become(order)
    try:
        rebuild(order)
    except VnfsbuildError as error:
        sys.stderr.write(render_error(error) + "\n")
        return error.exit_status
    return 0


def _terminate(number: int, frame: FrameType | None) -> None:
    """End as by Ctrl-C: what is half-done is removed on the way out."""
    sys.exit(TERMINATED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
