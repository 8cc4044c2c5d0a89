"""What a node boots, or why it waits. Pure: the answer follows from what is passed in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from provisiond.model import Effective, Node, effective_attributes
from provisiond.protocol import Plan, PlannedCapsule, PlannedOverlay
from vnfsbuild.reference import Reference, parse_reference

FindCapsule = Callable[[Reference], PlannedCapsule | None]

PANIC_ARGUMENT = "panic=60"
"""A node whose kernel panics starts anew, and asks again, instead of standing still."""

CONFLICT = (
    "conflict: another boot of {name} is alive; this one waits until that one halts or falls silent"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """What plans hold that is the same for all nodes."""

    blobs: tuple[str, ...]
    checkin_seconds: int


def choose_plan(
    node: Node,
    *,
    state: str,
    conflict: bool,
    find: FindCapsule,
    overlay: PlannedOverlay | None,
    site: Site,
) -> Plan:
    """Return the plan for *node*, which says that it is in *state*.

    A node that runs is left as it is; any other boots the capsule that it is assigned, or waits
    for a reason that says what to type.
    """
    if conflict:
        return _plan(node, "wait", site, reason=CONFLICT.format(name=node.name))
    attributes = effective_attributes(node)
    capsule, reason = choose_capsule(node, attributes, find)
    if state in ("ready", "halted"):
        return _plan(node, "none", site, reason=reason)
    if capsule is None:
        return _plan(node, "wait", site, reason=reason)
    return Plan(
        node_id=node.node_id,
        name=node.name,
        action="boot",
        capsule=capsule,
        method=str(attributes["method"].value),
        kernel_arguments=_kernel_arguments(attributes),
        overlay=overlay,
        blobs=site.blobs,
        checkin_seconds=site.checkin_seconds,
    )


def choose_capsule(
    node: Node, attributes: dict[str, Effective], find: FindCapsule
) -> tuple[PlannedCapsule | None, str]:
    """Return what *node* is to boot; or none and the reason, with what to type against it."""
    name = node.name
    if not attributes["enabled"].value:
        return None, f"{name} is disabled; provisionctl node set enabled true {name}"
    assigned = attributes["vnfs"].value
    if assigned is None:
        also = "" if node.approved else ", and it is not approved"
        told = f"no VNFS capsule is assigned to {name}{also}"
        return None, f"{told}; provisionctl node set vnfs NAME {name}"
    if not node.approved:
        return None, f"{name} waits for approval; provisionctl node approve {name}"
    capsule = find(parse_reference(assigned))
    if capsule is None:
        return None, (
            f"the capsule {assigned}, assigned to {name}, is not in the store; "
            "provisionctl vnfs import FILE"
        )
    return capsule, ""


def choose_stranger(hwaddr: str, *, reason: str, site: Site) -> Plan:
    """Return the plan for a machine that may not register for *reason*."""
    return Plan(
        node_id=hwaddr,
        name="unregistered",
        action="wait",
        reason=reason,
        checkin_seconds=site.checkin_seconds,
    )


def _plan(node: Node, action: str, site: Site, *, reason: str) -> Plan:
    return Plan(
        node_id=node.node_id,
        name=node.name,
        action=action,
        reason=reason,
        checkin_seconds=site.checkin_seconds,
    )


def _kernel_arguments(attributes: dict[str, Effective]) -> tuple[str, ...]:
    """Return what follows the capsule's own arguments; of two the kernel takes the later."""
    arguments = [str(word) for word in attributes["kernel_arguments"].value]
    if not any(word.startswith("panic=") for word in arguments):
        arguments.insert(0, PANIC_ARGUMENT)
    if attributes["debug"].value:
        arguments.append("vnfs.debug")
    return tuple(arguments)
