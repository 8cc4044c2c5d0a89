"""YAML with the line of each value; every scalar is a text, as it was written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

MOST_VALUES = 5_000_000
"""Aliases may make much of little; so much is no list of nodes."""
UNSET = ("", "~", "null", "UNDEF", "--")
"""Scalars that say that nothing is set; the last two are Warewulf's own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Value:
    """A mapping of texts to values, a list of values, a text, or None."""

    line: int
    value: Any

    def get(self, key: str) -> Value | None:
        """Return the value at *key*; None when this is no mapping, or has no such key."""
        found: Value | None = self.value.get(key) if isinstance(self.value, dict) else None
        return found

    def items(self) -> Iterator[tuple[str, Value]]:
        """Yield keys and values of a mapping; of anything else nothing."""
        if isinstance(self.value, dict):
            yield from self.value.items()

    def text(self) -> str:
        """Return the text; of anything else an empty one."""
        return self.value if isinstance(self.value, str) else ""


def compose(text: str) -> Value | None:
    """Return the document that *text* is; None for an empty one.

    Raises:
        yaml.YAMLError: it is none, or far too large.
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    return None if root is None else _value(root, [MOST_VALUES], ())


def _value(node: yaml.Node, budget: list[int], above: tuple[yaml.Node, ...]) -> Value:
    budget[0] -= 1
    if budget[0] < 0 or node in above:
        raise yaml.YAMLError("found aliases without an end")
    line = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        found = {}
        for key, item in node.value:
            found[str(key.value)] = _value(item, budget, (*above, node))
            if isinstance(item, yaml.MappingNode):
                # Where its name stands is where people look for it.
                name = str(key.value)
                found[name] = Value(line=key.start_mark.line + 1, value=found[name].value)
        return Value(line=line, value=found)
    if isinstance(node, yaml.SequenceNode):
        return Value(line=line, value=[_value(item, budget, (*above, node)) for item in node.value])
    text = str(node.value)
    return Value(line=line, value=None if text in UNSET else text)
