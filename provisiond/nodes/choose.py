"""What a node boots, or why it waits. Pure: the answer follows from what is passed in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from provisiond.nodes.model import Node, Session
from provisiond.nodes.scopes import Attributes
from provisiond.protocol import (
    WITHOUT_CAPSULE,
    OnFailure,
    Plan,
    PlannedCapsule,
    PlannedOverlay,
)
from vnfsbuild.digest import Digest, short
from vnfsbuild.errors import VerificationError
from vnfsbuild.reference import Reference, parse_reference

FindCapsule = Callable[[Reference], PlannedCapsule | None]
"""Raises :class:`VerificationError` for one that is there and may not run."""

PANIC_ARGUMENT = "panic=60"
"""A node whose kernel panics starts anew, and asks again, instead of standing still."""

FALLBACK_FAILURES = 3
"""After so many failures in a row with a digest a node boots its last good one instead."""

FALLBACK = (
    "{digest} failed {count} times on {name}, which boots its last good one, {good}; "
    "provisionctl node retry {name}"
)
TO_ITS_DISK = (
    "{digest} failed {count} times on {name}, which boots its own disk instead; "
    "provisionctl node retry {name}"
)
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
    attributes: Attributes,
    *,
    state: str,
    conflict: bool,
    find: FindCapsule,
    overlay: PlannedOverlay | None,
    overlay_fault: str = "",
    site: Site,
    session: Session | None = None,
) -> Plan:
    """Return the plan for *node* with these *attributes*, which says that it is in *state*.

    A node that runs is left as it is, but for its overlay; any other boots the capsule that it is
    assigned, or waits for a reason that says what to type. *overlay_fault*: why it has no overlay.
    """
    if conflict:
        return _plan(node, "wait", site, reason=CONFLICT.format(name=node.name))
    method, without = choose_method(node, attributes, find, session)
    capsule, reason = None, without
    if method not in WITHOUT_CAPSULE:
        capsule, reason = choose_capsule(node, attributes, find, session)
    if overlay_fault and (capsule is not None or not reason):
        reason = f"{overlay_fault}; provisionctl overlay check {node.name}"
    if state in ("ready", "halted"):
        return _plan(node, "none", site, reason=reason,
                     overlay=overlay if state == "ready" else None)  # fmt: skip
    # The disk needs no overlay; and rescue is for when something is wrong.
    if not without and (capsule is None or overlay_fault):
        return _plan(node, "wait", site, reason=reason)
    return Plan(
        node_id=node.node_id,
        name=node.name,
        action="boot",
        reason=reason,
        capsule=capsule,
        method=method,
        kernel_arguments=_kernel_arguments(attributes),
        overlay=overlay,
        blobs=site.blobs,
        checkin_seconds=site.checkin_seconds,
        on_failure=_on_failure(attributes),
        debug=attributes["debug"].value,
    )


def choose_method(
    node: Node, attributes: Attributes, find: FindCapsule, session: Session | None = None
) -> tuple[str, str]:
    """Return how *node* boots, and the reason when that takes no capsule.

    A node that may not boot at all boots by no other method either.
    """
    method = str(attributes["method"].value)
    if not node.approved or not attributes["enabled"].value:
        return "auto", ""
    if method == "rescue":
        return method, f"{node.name} is in rescue; provisionctl node unset method {node.name}"
    if method == "local":
        return method, f"{node.name} boots from its own disk: method = local"
    on_failure = _on_failure(attributes)
    if on_failure.then != "local" or session is None or attributes["vnfs"].value is None:
        return method, ""
    capsule, _ = choose_capsule(node, attributes, find, session)
    count = session.failures.get(capsule.digest, 0) if capsule else 0
    if capsule is None or count < on_failure.tries:
        return method, ""
    told = f"{capsule.name}@{short(capsule.digest)}"
    return "local", TO_ITS_DISK.format(digest=told, count=count, name=node.name)


def choose_capsule(
    node: Node, attributes: Attributes, find: FindCapsule, session: Session | None = None
) -> tuple[PlannedCapsule | None, str]:
    """Return what *node* is to boot; or none and the reason, with what to type against it.

    A capsule *and* a reason: it is not the assigned one, with which the node failed again and
    again, as *session* has it, but the last good one.
    """
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
    try:
        capsule = find(parse_reference(assigned))
    except VerificationError as error:
        return None, f"{error}; {error.hint or 'vnfsbuild trust show, vnfsbuild sign'}"
    if capsule is None:
        return None, (
            f"the capsule {assigned}, assigned to {name}, is not in the store; "
            "provisionctl vnfs import FILE"
        )
    good = _find_last_good(capsule, find, session)
    if good is None or session is None:
        return capsule, ""
    return good, FALLBACK.format(
        name=name,
        digest=f"{capsule.name}@{short(capsule.digest)}",
        count=session.failures[capsule.digest],
        good=f"{good.name}@{short(good.digest)}",
    )


def _find_last_good(
    capsule: PlannedCapsule, find: FindCapsule, session: Session | None
) -> PlannedCapsule | None:
    """Return what to boot in the place of *capsule*; None while that is to be tried itself."""
    if session is None or session.failures.get(capsule.digest, 0) < FALLBACK_FAILURES:
        return None
    if session.last_good is None or session.last_good == capsule.digest:
        return None
    try:
        return find(Reference(name=capsule.name, digest=Digest(session.last_good)))
    except VerificationError:
        return None


def choose_stranger(hwaddr: str, *, reason: str, site: Site) -> Plan:
    """Return the plan for a machine that may not register for *reason*."""
    return Plan(
        node_id=hwaddr,
        name="unregistered",
        action="wait",
        reason=reason,
        checkin_seconds=site.checkin_seconds,
    )


def _plan(
    node: Node, action: str, site: Site, *, reason: str, overlay: PlannedOverlay | None = None
) -> Plan:
    return Plan(
        node_id=node.node_id,
        name=node.name,
        action=action,
        reason=reason,
        overlay=overlay,
        checkin_seconds=site.checkin_seconds,
    )


def _on_failure(attributes: Attributes) -> OnFailure:
    then = str(attributes["on_failure"].value)
    return OnFailure() if then == "retry" else OnFailure(int(attributes["tries"].value), then)


def _kernel_arguments(attributes: Attributes) -> tuple[str, ...]:
    """Return what follows the capsule's own arguments; of two the kernel takes the later."""
    arguments = [f"console={word}" for word in attributes["console"].value]
    arguments += [str(word) for word in attributes["kernel_arguments"].value]
    if not any(word.startswith("panic=") for word in arguments):
        arguments.insert(0, PANIC_ARGUMENT)
    if attributes["tmpfs_size"].value:
        arguments.append(f"vnfs.tmpfs={attributes['tmpfs_size'].value}")
    if attributes["debug"].value:
        arguments.append("vnfs.debug")
    return tuple(arguments)
