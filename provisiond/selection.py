"""Which nodes are meant: names, ranges as ``n0000[1-9]``, and ``*`` and ``?``."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet, NodeSetException
from ClusterShell.RangeSet import RangeSetException

from provisiond.model import nearest
from vnfsbuild.errors import InputError

MOST_NODES = 100_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """What was named: those that there are, and those that there are not."""

    found: tuple[str, ...]
    missing: tuple[str, ...]


def select_nodes(expressions: Sequence[str], known: Iterable[str]) -> Selection:
    """Return which of the names *known* the *expressions* mean, sorted, each once.

    A range may name nodes that are yet to come: it is enough that one is there.

    Raises:
        InputError: an expression cannot be read, or none of the named nodes is known.
    """
    names = sorted(known)
    found: set[str] = set()
    missing: set[str] = set()
    for expression in expressions:
        if set("*?") & set(expression):
            matching = set(fnmatch.filter(names, expression))
            if not matching:
                missing.add(expression)
        else:
            matching = _expand(expression)
        missing |= matching - set(names)
        found |= matching & set(names)
    if not found:
        told = ", ".join(sorted(missing)[:3]) or "nothing"
        near = nearest(min(missing), names) if missing else ""
        raise InputError(
            f"nodes: found no node {told}{', …' if len(missing) > 3 else ''}{near}",
            hint="provisionctl node list shows all that are known",
        )
    return Selection(found=tuple(sorted(found)), missing=tuple(sorted(missing)))


def _expand(expression: str) -> set[str]:
    try:
        nodes = NodeSet(expression, resolver=RESOLVER_NOGROUP)
        if len(nodes) > MOST_NODES:
            raise InputError(f"nodes {expression!r}: found {len(nodes)}, expected {MOST_NODES}")
        return set(nodes)
    except (NodeSetException, RangeSetException) as error:
        raise InputError(
            f"nodes {expression!r:.80}: {error}",
            hint="expected a name, a range as n0000[1-9], or a pattern as 'n*'",
        ) from error
