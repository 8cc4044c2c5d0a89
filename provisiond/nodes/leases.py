"""dnsmasq's lease file: which address it gave to which hardware address."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path

Leases = dict[str, tuple[str, ...]]
"""Hardware address → its addresses, sorted. Mostly one: a set takes four times as much."""


def parse_leases(text: str, *, now: float) -> Leases:
    """Return the leases that *text* holds and that have not ended; other lines are passed over.

    A line is: when it ends (0: never), hardware address, address, name, client id.
    """
    found: defaultdict[str, set[str]] = defaultdict(set)
    for line in text.splitlines():
        words = line.split()
        if len(words) < 4 or not words[0].isdigit() or ":" in words[2]:
            continue
        if words[0] == "0" or int(words[0]) > now:
            found[words[1].lower()].add(words[2])
    return {hwaddr: tuple(sorted(addresses)) for hwaddr, addresses in found.items()}


def find_next_end(text: str, *, now: float) -> float:
    """Return when the first of the leases that count *now* ends; infinity when none does."""
    ends = (line.partition(" ")[0] for line in text.splitlines())
    return min((float(end) for end in ends if end.isdigit() and int(end) > now), default=math.inf)


class LeaseFile:
    """The lease file, read again only when it has changed.

    What it says is worked out anew only then, or when a lease ends: each check-in asks.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._text = ""
        self._leases: Leases = {}
        self._holds = (math.inf, -math.inf)
        """From when to when *_leases* is what *_text* says."""

    def read(self, *, now: float) -> Leases:
        """Return the leases; none when there is no file, as on a site with its own DHCP."""
        try:
            status = self._path.stat()
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
            if stamp != self._stamp:
                self._text = self._path.read_text(encoding="ascii", errors="replace")
                self._stamp = stamp
                self._holds = (math.inf, -math.inf)
        except FileNotFoundError:
            return {}
        since, until = self._holds
        if not since <= now < until:
            self._leases = parse_leases(self._text, now=now)
            self._holds = (now, find_next_end(self._text, now=now))
        return self._leases
