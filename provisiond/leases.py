"""dnsmasq's lease file: which address it gave to which hardware address."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

Leases = dict[str, frozenset[str]]
"""Hardware address → its addresses."""


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
    return {hwaddr: frozenset(addresses) for hwaddr, addresses in found.items()}


class LeaseFile:
    """The lease file, read again only when it has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._text = ""

    def read(self, *, now: float) -> Leases:
        """Return the leases; none when there is no file, as on a site with its own DHCP."""
        try:
            status = self._path.stat()
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
            if stamp != self._stamp:
                self._text = self._path.read_text(encoding="ascii", errors="replace")
                self._stamp = stamp
        except FileNotFoundError:
            return {}
        return parse_leases(self._text, now=now)
