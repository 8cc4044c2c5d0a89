"""Where a node fetches blobs from: the node server, mirrors, or an NFS export. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from provisiond.nodes.model import Session
from provisiond.nodes.scopes import Attributes
from provisiond.protocol import Plan

NO_EXPORT = (
    "{name} is to fetch by NFS, and no server that exports the store is configured; "
    "provisiond.toml: nfs.exports, or provisionctl node set transfer http {name}"
)


WRONG = "wrongMirrors"
"""The figure in which nodes name servers that gave wrong bytes in this boot."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Supply:
    """Who has the blobs of the site's store."""

    blobs: tuple[str, ...]
    """Base URLs: this server's first, then mirrors for all nodes."""
    exports: tuple[str, ...] = ()
    """``SERVER:/PATH`` of NFS exports."""


def supply_plan(plan: Plan, attributes: Attributes, supply: Supply) -> Plan:
    """Return *plan* with where its blobs are, for a node with these *attributes*.

    The node's own mirrors are asked before the others. Without an export a node that is to fetch
    by NFS waits.
    """
    if not plan.blobs:
        return plan
    near = tuple(attributes["mirrors"].value)
    others = tuple(base for base in supply.blobs if base not in near)
    plan = replace(plan, blobs=near + others, near=len(near))
    if plan.action != "boot" or plan.capsule is None or attributes["transfer"].value != "nfs":
        return plan
    if not supply.exports:
        reason = NO_EXPORT.format(name=plan.name)
        return replace(plan, action="wait", reason=reason, capsule=None, overlay=None)
    return replace(plan, transfer="nfs", nfs=supply.exports)


def find_wrong_mirrors(old: Session | None, new: Session) -> tuple[str, ...]:
    """Return what a node says of servers that gave wrong bytes, and did not say before."""
    known = _wrong(old) if old is not None and old.boot_id == new.boot_id else ()
    return tuple(text for text in _wrong(new) if text not in known)


def _wrong(session: Session) -> tuple[str, ...]:
    told = session.report.get(WRONG)
    return tuple(text for text in told if isinstance(text, str)) if isinstance(told, list) else ()
