"""Servers that gave wrong bytes: not asked again in this boot, as long as there is another."""

from __future__ import annotations

from typing import Dict, List, Sequence, TypeVar

MOST_TOLD = 16

Named = TypeVar("Named")


class Distrust:
    """One for a boot: it is kept over all tries."""

    def __init__(self) -> None:
        self._wrong: Dict[str, str] = {}

    def note(self, base: str, where: str) -> bool:
        """Note that *base* gave wrong bytes for *where*; tell whether that is news."""
        news = base not in self._wrong
        self._wrong.setdefault(base, where)
        return news

    def usable(self, sources: Sequence[Named]) -> List[Named]:
        """Return those of *sources* that may be asked.

        All of them when each gave wrong bytes: to wait for ever helps nobody, and somebody may
        have mended one of them.
        """
        good = [source for source in sources if getattr(source, "base", "") not in self._wrong]
        return good or list(sources)

    def report(self) -> Dict[str, List[str]]:
        """Return the figure that travels with check-ins; none while nobody was caught."""
        told = [f"{base}: wrong bytes: {where}" for base, where in self._wrong.items()]
        return {"wrongMirrors": told[:MOST_TOLD]} if told else {}
