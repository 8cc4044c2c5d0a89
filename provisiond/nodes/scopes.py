"""Which value of an attribute counts for a node, and where it was set. Values only.

The later wins: built in < defaults < the settings kept with the capsule's name < the node's groups,
the first named the strongest < the node itself. Lists may add up instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from provisiond.nodes.attributes import (
    ADDS,
    ATTRIBUTES,
    CAPSULE,
    DEFAULTS,
    FAMILIES,
    GROUP,
    NODE,
    find_attribute,
)
from vnfsbuild.reference import parse_reference

BUILT_IN = "built in"

Settings = Mapping[str, Any]
"""Values by key of the attribute."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Effective:
    """The value of an attribute that counts for a node, and where it was set."""

    value: Any
    origin: str
    """``node``, ``group NAME``, ``capsule NAME``, ``defaults``, ``built in``; of a list that adds
    up all of them, the weakest first, parted by commas."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scopes:
    """All that is set elsewhere than on nodes."""

    defaults: Settings = field(default_factory=dict)
    capsules: Mapping[str, Settings] = field(default_factory=dict)
    """By the capsule's name."""
    groups: Mapping[str, Settings] = field(default_factory=dict)
    """By name: a group that is not here is none."""

    def settings(self, scope: str, subject: str) -> Settings:
        """Return what is set in *scope* for *subject*: a name, of the defaults an empty text."""
        if scope == DEFAULTS:
            return self.defaults
        return (self.groups if scope == GROUP else self.capsules).get(subject, {})


class Attributes(Mapping[str, Effective]):
    """Every attribute of a node: all of the table, and the members of families that are set.

    What its scopes say is shared with all nodes of the same groups and capsule.
    """

    __slots__ = ("_own", "_shared")

    def __init__(self, own: dict[str, Effective], shared: Mapping[str, Effective]) -> None:
        self._own = own
        self._shared = shared

    def __getitem__(self, key: str) -> Effective:
        found = self._own.get(key)
        return self._shared[key] if found is None else found

    def __iter__(self) -> Iterator[str]:
        yield from self._shared
        for key in self._own:
            if key not in self._shared:
                yield key

    def __len__(self) -> int:
        return len(self._shared) + sum(key not in self._shared for key in self._own)

    def value(self, key: str) -> Any:
        """Return the value of *key*; None for a member of a family that is not set."""
        found = self._own.get(key) or self._shared.get(key)
        return found.value if found is not None else None

    def family(self, family: str) -> dict[str, dict[str, Any]]:
        """Return the members of *family*: name → field → value; without fields the field ``""``."""
        return self.families().get(family, {})

    def families(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Return the members of all families, each sorted by name, as :meth:`family` does."""
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for key in sorted(key for key in self if "." in key):
            family, _, rest = key.partition(".")
            has_fields = "" not in FAMILIES[family].fields
            name, _, last = rest.rpartition(".") if has_fields else (rest, "", "")
            found.setdefault(family, {}).setdefault(name, {})[last] = self[key].value
        return found


_BUILT_IN: Mapping[str, Effective] = {
    key: Effective(value=attribute.default, origin=BUILT_IN)
    for key, attribute in ATTRIBUTES.items()
}


def find_capsule_name(own: Settings, groups: tuple[str, ...], scopes: Scopes) -> str | None:
    """Return the name of the capsule that node, groups or defaults assign."""
    layers = (own, *(scopes.groups.get(name, {}) for name in groups), scopes.defaults)
    assigned = next((layer["vnfs"] for layer in layers if "vnfs" in layer), None)
    return parse_reference(assigned).name if assigned is not None else None


def resolve_shared(
    groups: tuple[str, ...], capsule: str | None, scopes: Scopes
) -> dict[str, Effective]:
    """Return what counts for all nodes of these *groups* that are assigned *capsule*."""
    found = dict(_BUILT_IN)
    _lay_over(found, scopes.defaults, DEFAULTS)
    if capsule is not None:
        _lay_over(found, scopes.capsules.get(capsule, {}), f"{CAPSULE} {capsule}")
    for name in reversed(groups):
        _lay_over(found, scopes.groups.get(name, {}), f"{GROUP} {name}")
    return found


def resolve_own(own: Settings, shared: Mapping[str, Effective]) -> Attributes:
    """Return what counts for a node that has its *own* settings."""
    found: dict[str, Effective] = {}
    for key, value in own.items():
        found[key] = _combine(key, shared.get(key), value, NODE)
    return Attributes(found, shared)


def resolve(own: Settings, groups: tuple[str, ...], scopes: Scopes) -> Attributes:
    """Return every attribute of a node with its *own* settings and its ordered *groups*."""
    capsule = find_capsule_name(own, groups, scopes)
    return resolve_own(own, resolve_shared(groups, capsule, scopes))


def _lay_over(found: dict[str, Effective], settings: Settings, origin: str) -> None:
    for key, value in settings.items():
        found[key] = _combine(key, found.get(key), value, origin)


def _combine(key: str, weaker: Effective | None, value: Any, origin: str) -> Effective:
    if not isinstance(value, tuple):
        return Effective(value=value, origin=origin)
    attribute = find_attribute(key)
    adds = bool(value) and value[0] == ADDS
    items = value[1:] if adds else value
    if not (adds or attribute.always_adds) or weaker is None or not weaker.value:
        return Effective(value=items, origin=origin)
    # Of an overlay that is named twice the stronger place counts.
    held = weaker.value
    if attribute.always_adds:
        held = tuple(item for item in held if item not in items)
    return Effective(value=(*held, *items), origin=f"{weaker.origin}, {origin}")
