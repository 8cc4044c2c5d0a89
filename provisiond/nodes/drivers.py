"""Which nodes are given drivers.cpio, and why. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from provisiond.nodes.model import Session
from provisiond.nodes.scopes import Attributes

WANTED = "wantedDrivers"
"""The figure of a bootstrap's report: modules of drivers.cpio that the hardware of the node takes,
whether they are there or not. A node that runs does not tell."""
UNDRIVEN = "undriven"
"""The figure with the hardware itself that nothing drives, as modaliases."""

MOST_DRIVERS = 64
_MODULE = re.compile(r"[A-Za-z0-9_]{1,55}\Z")
"""The kernel has no longer names."""


def find_wanted_drivers(report: Mapping[str, Any], *, known: tuple[str, ...]) -> tuple[str, ...]:
    """Return the modules that the hardware of a node takes, as *report* says; else what is *known*.

    What is no module's name is left out: a node says what it likes.
    """
    told = report.get(WANTED)
    if not isinstance(told, list):
        return known
    names = {name for name in told if isinstance(name, str) and _MODULE.match(name)}
    return tuple(sorted(names)[:MOST_DRIVERS])


def why_drivers(attributes: Attributes, session: Session | None) -> str:
    """Return why a node with these *attributes*, whose last boot is *session*, gets drivers.cpio.

    Empty when it does not. Set by hand counts above what its hardware takes.
    """
    if attributes["transfer"].value == "nfs":
        return "transfer is nfs"
    told = attributes["drivers"]
    if told.value is not None:
        return f"drivers is true ({told.origin})" if told.value else ""
    if attributes["method"].value == "rescue":
        return "method is rescue"
    if session is not None and session.drivers:
        return f"its hardware takes {' '.join(session.drivers)}"
    return ""


def find_lack(drivers: Mapping[str, Any]) -> str:
    """Return that a node should be given drivers.cpio and there is none; else nothing.

    *drivers* is what is shown of it: ``why``, and whether its bootstrap has them ``there``.
    """
    if not drivers["why"] or drivers["there"]:
        return ""
    return f"{drivers['why']}, and its bootstrap has no drivers.cpio; vnfsbuild bootstrap build"
