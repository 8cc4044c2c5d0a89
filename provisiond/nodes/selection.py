"""Which nodes are meant: names, ranges, patterns, groups with set operators, and filters.

Words that name nodes add up; words with ``=`` are filters, and each narrows what the others left.
Filters alone narrow all nodes. Pure: what is known of nodes is passed in.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet, NodeSetException
from ClusterShell.NodeUtils import GroupResolver, GroupResolverError, GroupSource
from ClusterShell.RangeSet import RangeSetException

from provisiond.nodes.attributes import (
    find_attribute,
    known_keys,
    nearest,
    parse_attribute,
    render_value,
)
from vnfsbuild.errors import InputError

MOST_NODES = 100_000
OPERATORS = frozenset("@!&^")
"""Where one of these stands, ClusterShell's set algebra reads the word."""
COMMON = frozenset("@*?")
"""Where one of these stands, nodes are meant that nobody has named."""
FORMS = "a name, a range as n0000[1-9], a pattern as 'n*', @group, or a filter as state=ready"

_FILTER = re.compile(r"([a-z][A-Za-z0-9_.-]*)(!?=)(.*)\Z", re.DOTALL)
_GROUP = re.compile(r"@([A-Za-z0-9][A-Za-z0-9_.-]*)")

Values = Callable[[str, str], Collection[str]]
"""Name of a node, key → the texts that the key has there; none: it is not set."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """What there is to choose from."""

    names: Collection[str]
    groups: Mapping[str, Collection[str]] = field(default_factory=dict)
    """Group → names of its nodes."""
    values: Values = lambda _name, _key: ()
    facts: Mapping[str, Collection[str]] = field(default_factory=dict)
    """Keys besides the attributes → the values that there are; an empty collection: any."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """What was named: those that there are, and those that there are not."""

    found: tuple[str, ...]
    missing: tuple[str, ...]
    named: frozenset[str] = frozenset()
    """Those of *found* that stand there by name or in a range, and not by what they have in common
    with others: a pattern, a group, a filter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Filter:
    key: str
    pattern: str
    negated: bool


def select_nodes(
    expressions: Sequence[str], known: Known, *, may_be_none: bool = False
) -> Selection:
    """Return which nodes the *expressions* mean, sorted, each once.

    A range may name nodes that are yet to come: it is enough that one is there. That filters leave
    no node is an error too unless it *may_be_none*.

    Raises:
        InputError: an expression cannot be read, a name, group or key in it is not known, or no
            node is meant.
    """
    filters, words = [], []
    for expression in expressions:
        match = _FILTER.match(expression)
        if match:
            filters.append(_parse_filter(match, known))
        else:
            words.append(expression)
    found: set[str] = set()
    missing: set[str] = set()
    named: set[str] = set()
    for word in words:
        here, absent = _named(word, known)
        found |= here
        missing |= absent
        if not COMMON & set(word):
            named |= here
    if filters and not words:
        found = set(known.names)
    if not found and not (filters and not words):
        raise InputError("nodes: found no node nothing", hint=f"expected {FORMS}")
    kept = tuple(
        name for name in sorted(found) if all(_passes(item, name, known) for item in filters)
    )
    if not kept and not may_be_none:
        told = " ".join(expressions)
        raise InputError(f"nodes: found no node that is meant by {told!r:.200}",
                         hint="provisionctl node status shows all of them")  # fmt: skip
    return Selection(
        found=kept, missing=tuple(sorted(missing)), named=frozenset(named.intersection(kept))
    )


def _named(word: str, known: Known) -> tuple[set[str], set[str]]:
    """Return the nodes that *word* means, and those that it names and are not there.

    Raises:
        InputError: it means none.
    """
    names = set(known.names)
    group = _GROUP.fullmatch(word)
    if group and group[1] in known.groups:
        wanted = set(known.groups[group[1]])
    elif OPERATORS & set(word):
        wanted = _expand(word, _resolver(word, known))
    elif set("*?") & set(word):
        wanted = set(fnmatch.filter(names, word)) or {word}
    else:
        wanted = _expand(word, RESOLVER_NOGROUP)
    found, missing = wanted & names, wanted - names
    if not found:
        if OPERATORS & set(word):
            raise InputError(f"nodes: found no node in {word!r:.200}",
                             hint="provisionctl group show tells who is where")  # fmt: skip
        told = ", ".join(sorted(missing)[:3]) or "nothing"
        near = nearest(min(missing), names) if missing else ""
        raise InputError(
            f"nodes: found no node {told}{', …' if len(missing) > 3 else ''}{near}",
            hint="provisionctl node list shows all that are known",
        )
    return found, missing


def _expand(word: str, resolver: object) -> set[str]:
    try:
        nodes = NodeSet(word, resolver=resolver)
        if len(nodes) > MOST_NODES:
            raise InputError(f"nodes {word!r}: found {len(nodes)}, expected {MOST_NODES}")
        return set(nodes)
    except (NodeSetException, RangeSetException, GroupResolverError) as error:
        raise InputError(f"nodes {word!r:.80}: {error}", hint=f"expected {FORMS}") from error


def _resolver(word: str, known: Known) -> GroupResolver:
    """Return what tells ClusterShell of the groups in *word*.

    Raises:
        InputError: there is no such group.
    """
    groups = {}
    for name in _GROUP.findall(word):
        if name not in known.groups:
            raise InputError(f"group {name}: not known{nearest(name, known.groups)}",
                             hint="provisionctl group list shows all groups")  # fmt: skip
        groups[name] = ",".join(known.groups[name])
    everything = ",".join(known.names)
    return GroupResolver(GroupSource("provisiond", groups=groups, allgroups=everything))


def _parse_filter(match: re.Match[str], known: Known) -> _Filter:
    key, sign, text = match.groups()
    pattern = text.strip()
    if key in known.facts:
        choices = known.facts[key]
        if choices and pattern and not any(fnmatch.fnmatchcase(item, pattern) for item in choices):
            raise InputError(
                f"{key}={pattern!s:.80}: not known{nearest(pattern, choices)}",
                hint=f"expected {', '.join(choices)}",
            )
    else:
        pattern = _attribute_pattern(key, pattern, known)
    return _Filter(key=key, pattern=pattern, negated=sign == "!=")


def _attribute_pattern(key: str, text: str, known: Known) -> str:
    """Return what the values of attribute *key* are compared with, as they are written.

    Raises:
        InputError: there is no such attribute.
    """
    try:
        attribute = find_attribute(key)
    except InputError as error:
        every = [*known.facts, *known_keys()]
        raise InputError(f"filter {key}=…: {error.message}",
                         hint=f"keys are {', '.join(sorted(every))}") from error  # fmt: skip
    if isinstance(attribute.default, bool) and text:
        return render_value(parse_attribute(key, text))
    return text


def _passes(item: _Filter, name: str, known: Known) -> bool:
    values: Iterable[str] = known.values(name, item.key)
    if item.pattern:
        passes = any(fnmatch.fnmatchcase(value, item.pattern) for value in values)
    else:
        passes = not any(values)
    return passes != item.negated
