"""Which packages of a lock the essential set may need: what the undermost stage is made of.

The solver takes a part of them, most often all. Of alternatives every one that the lock has counts,
so that nothing is missing whatever the solver prefers; that makes the stage's key finer than it
need be, and no more.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from vnfsbuild.lock import LockedPackage
from vnfsbuild.sources.control import parse_stanzas

ALWAYS = ("base-files",)
"""Asked for beside what is marked as essential."""
NEEDS = ("depends", "pre-depends")


def find_essential(stanzas: Mapping[LockedPackage, str]) -> tuple[LockedPackage, ...]:
    """Return of the packages of a lock those that the essential ones may need, and these."""
    fields = {item: next(parse_stanzas(text)) for item, text in stanzas.items()}
    providers: dict[str, list[LockedPackage]] = defaultdict(list)
    for item, found in fields.items():
        for name in {item.name, *list_names(found.get("provides", ""))}:
            providers[name].append(item)
    todo = [
        item
        for item, found in fields.items()
        if found.get("essential") == "yes" or item.name in ALWAYS
    ]
    chosen: set[LockedPackage] = set()
    while todo:
        item = todo.pop()
        if item in chosen:
            continue
        chosen.add(item)
        for name in (name for key in NEEDS for name in list_names(fields[item].get(key, ""))):
            todo += providers.get(name, ())
    return tuple(item for item in stanzas if item in chosen)


def list_names(text: str) -> Sequence[str]:
    """Return the names of packages in a field of dependencies, alternatives among them."""
    words = (word.strip() for word in re.split(r"[,|]", text))
    return [re.split(r"[ (:\\[]", word, maxsplit=1)[0] for word in words if word]
