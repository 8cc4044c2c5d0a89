"""Which ids an ordinary user's namespace has: ranges of the host become the ids of a system.

The namespace's root is the user. All other ids below 2**16 are subordinate ones that the host has
set aside for that user (/etc/subuid, /etc/subgid); and so are the larger ids that a recipe names,
each in the place of one of the highest small ids, which no distribution hands out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vnfsbuild.errors import InputError

SMALL_IDS = 1 << 16
NEEDED_IDS = SMALL_IDS - 1
"""All of them but root, who is the user."""
MAX_LARGE = 14
"""65520 to 65533 are the distributions' to keep free; 61184 to 65519 are systemd's, at run time."""

FIRST_SUBORDINATE = 100_000
"""Where useradd begins with them."""

NOBODY = SMALL_IDS - 2
_LAST_FREE = NOBODY - 1

SURE_IDS = NOBODY - MAX_LARGE
"""Ids below this one are in every map."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Extent:
    """*count* ids from *inner* on, which are those from *outer* on outside."""

    inner: int
    outer: int
    count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Ids:
    """The ids above the small ones that a tree has."""

    users: frozenset[int] = frozenset()
    groups: frozenset[int] = frozenset()


def make_ids(users: Iterable[int], groups: Iterable[int]) -> Ids:
    """Return those of *users* and *groups* that no namespace has by itself."""
    return Ids(
        users=frozenset(number for number in users if number >= SMALL_IDS),
        groups=frozenset(number for number in groups if number >= SMALL_IDS),
    )


def parse_subordinate(text: str, names: Sequence[str]) -> list[tuple[int, int]]:
    """Return the ranges (first, count) that *text*, of the form of /etc/subuid, gives *names*."""
    return [(first, count) for name, first, count in _rows(text) if name in names]


def find_free(text: str) -> int:
    """Return the first id that *text*, of the form of /etc/subuid, leaves free for a new range."""
    return max([FIRST_SUBORDINATE, *(first + count for _, first, count in _rows(text))])


def _rows(text: str) -> list[tuple[str, int, int]]:
    rows = [line.strip().split(":") for line in text.splitlines()]
    return [
        (row[0], int(row[1]), int(row[2]))
        for row in rows
        if len(row) == 3 and row[1].isdigit() and row[2].isdigit()
    ]


def make_map(
    own: int, ranges: Sequence[tuple[int, int]], large: Iterable[int] = ()
) -> tuple[Extent, ...]:
    """Return the map of a namespace whose root is *own*, with *ranges* for all others.

    Ids of *large* are in it as what they are.

    Raises:
        InputError: *ranges* have fewer than :data:`NEEDED_IDS`, or *large* are too many.
    """
    wanted = sorted(set(large))
    have = sum(count for _, count in ranges)
    if have < NEEDED_IDS:
        raise InputError(f"found {have} subordinate ids, expected {NEEDED_IDS} or more")
    if len(wanted) > MAX_LARGE:
        raise InputError(
            f"found {len(wanted)} different ids from {SMALL_IDS} on in the recipe, "
            f"expected at most {MAX_LARGE}",
            hint="as root there is no such limit",
        )
    inner = [(1, _LAST_FREE - len(wanted)), (NOBODY, 2), *((number, 1) for number in wanted)]
    return (Extent(inner=0, outer=own, count=1), *_pair(inner, list(ranges)))


def map_words(extents: Iterable[Extent]) -> list[str]:
    """Return *extents* as newuidmap and newgidmap take them."""
    return [str(number) for item in extents for number in (item.inner, item.outer, item.count)]


def _pair(inner: Sequence[tuple[int, int]], outer: list[tuple[int, int]]) -> list[Extent]:
    """Return extents that give each id of the ranges *inner* one of the ranges *outer*."""
    found = []
    for first, count in inner:
        while count:
            start, left = outer[0]
            size = min(count, left)
            if size:
                found.append(Extent(inner=first, outer=start, count=size))
            outer[0] = (start + size, left - size)
            if not outer[0][1]:
                del outer[0]
            first, count = first + size, count - size
    return found
