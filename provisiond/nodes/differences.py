"""What differs between two states of all that is set, node by node and key by key. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from provisiond.nodes.attributes import is_secret, render_value
from provisiond.nodes.interchange import State
from provisiond.nodes.model import Node
from provisiond.nodes.scopes import Settings

ADDED = "added"
CHANGED = "changed"
REMOVED = "removed"
OTHER_SECRET = "another secret"


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One thing that is another."""

    subject: str
    """``node NAME``, ``group NAME``, ``capsule NAME``, ``defaults``."""
    change: str
    """:data:`ADDED`, :data:`CHANGED` or :data:`REMOVED`: the subject."""
    key: str | None = None
    old: str | None = None
    new: str | None = None

    def value(self) -> dict[str, str | None]:
        """Return it as JSON has it."""
        return {
            "subject": self.subject,
            "change": self.change,
            "key": self.key,
            "old": self.old,
            "new": self.new,
        }


def find_differences(old: State, new: State) -> list[Difference]:
    """Return what makes *new* of *old*: defaults, capsules, groups, nodes; each sorted."""
    before, after = old.scopes, new.scopes
    found = list(_compare("defaults", before.defaults, after.defaults, CHANGED))
    for kind, held, wanted in (
        ("capsule", before.capsules, after.capsules),
        ("group", before.groups, after.groups),
    ):
        for name in sorted({*held, *wanted}):
            found += _subject(f"{kind} {name}", held.get(name), wanted.get(name))
    return found + _of_nodes(old.nodes, new.nodes)


def _of_nodes(old: Mapping[str, Node], new: Mapping[str, Node]) -> list[Difference]:
    former_names = {node.node_id: node.name for node in old.values()}
    renamed = {}
    for name, node in new.items():
        former = former_names.get(node.node_id)
        if name not in old and former is not None and former not in new:
            renamed[former] = name
    taken = set(renamed.values())
    found = []
    for name in sorted({*old, *new}):
        if name in renamed:
            new_name = renamed[name]
            found.append(
                Difference(
                    subject=f"node {name}", change=CHANGED, key="name", old=name, new=new_name
                )
            )
            found += _subject(f"node {name}", _facts(old[name]), _facts(new[new_name]))
        elif name not in taken:
            found += _subject(
                f"node {name}",
                _facts(old[name]) if name in old else None,
                _facts(new[name]) if name in new else None,
            )
    return found


def _subject(subject: str, old: Settings | None, new: Settings | None) -> Iterator[Difference]:
    if old is None and new is None:
        return
    if new is None:
        yield Difference(subject=subject, change=REMOVED)
    elif old is None:
        yield Difference(subject=subject, change=ADDED)
        yield from _compare(subject, {}, new, ADDED)
    else:
        yield from _compare(subject, old, new, CHANGED)


def _compare(subject: str, old: Settings, new: Settings, change: str) -> Iterator[Difference]:
    for key in sorted({*old, *new}):
        if old.get(key) == new.get(key):
            continue
        shown = [_shown(key, values.get(key)) for values in (old, new)]
        if shown[0] == shown[1]:
            shown[1] = OTHER_SECRET
        yield Difference(subject=subject, change=change, key=key, old=shown[0], new=shown[1])


def _facts(node: Node) -> Mapping[str, Any]:
    """Return all of *node* that an administrator sets, or keeps, by key."""
    facts = {
        "approved": node.approved_by,
        "groups": node.groups or None,
        "hwaddrs": node.hwaddrs,
        "lease": node.address,
        "uuid": node.uuid,
    }
    return {**{key: value for key, value in facts.items() if value}, **node.attributes}


def _shown(key: str, value: Any) -> str | None:
    if value is None:
        return None
    if key not in ("approved", "groups", "hwaddrs", "lease", "uuid") and is_secret(key):
        return "set"
    return render_value(value)
