"""What a plan says of the capsule to boot, now or next, and what a node says of the next one.

Values ⇄ JSON objects; :mod:`provisiond.protocol` has the rest of a plan. The agent carries this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from provisiond.wire import MAX_DETAIL_CHARACTERS, Fields, clean
from vnfsbuild.digest import Digest, parse_digest

TRANSFERS = ("http", "nfs")
NEXT_STATES = ("fetching", "fetched", "draining", "leaving", "failed")
"""How far a running node is with the capsule that it is to go over to."""
WHENS = ("idle", "now")
AFTER_FAILURES = ("retry", "reboot", "local")


@dataclass(frozen=True)
class PlannedCapsule:
    """Which capsule to boot. It is verified on the node; nothing here is trusted for that."""

    name: str
    digest: Digest
    signatures: tuple[Digest, ...]
    """Digests of the DSSE envelopes over its manifest."""
    chunks: Digest | None = None
    """Of its chunk index, where the server has one: a hint, never trusted."""


@dataclass(frozen=True)
class PlannedOverlay:
    """The files of this node: a tar, fetched from the server itself with the node key."""

    digest: Digest
    size_bytes: int


@dataclass(frozen=True)
class PlannedNext:
    """The capsule that a running node is to go over to, without its firmware."""

    capsule: PlannedCapsule
    kernel_arguments: tuple[str, ...] = ()
    overlay: PlannedOverlay | None = None
    blobs: tuple[str, ...] = ()
    near: int = 0
    transfer: str = "http"
    nfs: tuple[str, ...] = ()
    running_chunks: Digest | None = None
    """The chunk index of the capsule that runs, where the server has one: a hint."""
    go: bool = False
    """Not yet: fetch and verify it, and wait."""
    attempt: str = ""
    """Another text is another try: what came of an earlier one is forgotten."""
    when: str = "idle"
    """idle: once the site's drain scripts say that nothing runs any more; now: at once."""


@dataclass(frozen=True)
class OnFailure:
    """What a node does that failed again and again."""

    tries: int = 0
    """After so many failures in a row; 0: never, it goes on trying."""
    then: str = "retry"
    """retry: go on trying; reboot: start anew from the firmware; local: boot the local disk."""


NO_LIMIT = OnFailure()


@dataclass(frozen=True)
class NextReport:
    """How far a running node is with the capsule that it is to go over to."""

    capsule: Digest
    state: str
    """One of :data:`NEXT_STATES`."""
    detail: str = ""
    """What it waits for, or why it failed."""
    attempt: str = ""
    """Of the plan that it is about."""


def capsule_value(capsule: PlannedCapsule) -> dict[str, Any]:
    """Return *capsule* as a JSON object."""
    value: dict[str, Any] = {
        "name": capsule.name,
        "digest": capsule.digest,
        "signatures": list(capsule.signatures),
    }
    if capsule.chunks:
        value["chunks"] = capsule.chunks
    return value


def overlay_value(overlay: PlannedOverlay) -> dict[str, Any]:
    """Return *overlay* as a JSON object."""
    return {"digest": overlay.digest, "size": overlay.size_bytes}


def next_value(planned: PlannedNext) -> dict[str, Any]:
    """Return *planned* as a JSON object."""
    value: dict[str, Any] = {
        "capsule": capsule_value(planned.capsule),
        "kernelArguments": list(planned.kernel_arguments),
        "blobs": list(planned.blobs),
        "go": planned.go,
        "attempt": planned.attempt,
        "when": planned.when,
    }
    if planned.overlay:
        value["overlay"] = overlay_value(planned.overlay)
    if planned.near:
        value["near"] = planned.near
    if planned.transfer != "http":
        value.update(transfer=planned.transfer, nfs=list(planned.nfs))
    if planned.running_chunks:
        value["runningChunks"] = planned.running_chunks
    return value


def next_report_value(report: NextReport) -> dict[str, Any]:
    """Return *report* as a JSON object."""
    return {
        "capsule": report.capsule,
        "state": report.state,
        "detail": report.detail,
        "attempt": report.attempt,
    }


def parse_capsule(value: Any, *, where: str = "plan: capsule") -> PlannedCapsule:
    """Return the capsule that *value* names.

    Raises:
        InputError: it names none.
    """
    fields = Fields(value, where)
    signatures = fields.texts("signatures", most=64)
    return PlannedCapsule(
        name=fields.required("name"),
        digest=parse_digest(fields.required("digest"), where=where),
        signatures=tuple(parse_digest(item, where="plan: signatures") for item in signatures),
        chunks=fields.digest("chunks"),
    )


def parse_next(value: Any) -> PlannedNext | None:
    """Return what a running node is to go over to; None: nothing.

    Raises:
        InputError: it is malformed.
    """
    if value is None:
        return None
    fields = Fields(value, "plan: next")
    overlay = fields.get("overlay")
    return PlannedNext(
        capsule=parse_capsule(fields.get("capsule")),
        kernel_arguments=fields.texts("kernelArguments"),
        overlay=parse_overlay(overlay) if overlay is not None else None,
        blobs=fields.texts("blobs"),
        near=fields.integer("near", least=0, most=256, default=0),
        transfer=fields.choice("transfer", TRANSFERS, default="http"),
        nfs=fields.texts("nfs"),
        running_chunks=fields.digest("runningChunks"),
        go=fields.get("go") is True,
        attempt=fields.text("attempt") or "",
        when=fields.choice("when", WHENS),
    )


def parse_next_report(value: Any) -> NextReport | None:
    """Return how far a node says it is; None: it says nothing.

    Raises:
        InputError: it is malformed.
    """
    if value is None:
        return None
    fields = Fields(value, "check-in: next")
    return NextReport(
        capsule=parse_digest(fields.required("capsule"), where="check-in: next"),
        state=fields.choice("state", NEXT_STATES),
        detail=clean(fields.text("detail") or "", limit=MAX_DETAIL_CHARACTERS),
        attempt=clean(fields.text("attempt") or "", limit=64),
    )


def parse_on_failure(value: Any) -> OnFailure:
    """Return what a node is to do that failed again and again.

    Raises:
        InputError: it is malformed.
    """
    if value is None:
        return OnFailure()
    fields = Fields(value, "plan: onFailure")
    return OnFailure(
        tries=fields.integer("tries", least=0, most=1_000_000),
        then=fields.choice("then", AFTER_FAILURES),
    )


def parse_overlay(value: Any) -> PlannedOverlay:
    """Return the overlay that *value* names.

    Raises:
        InputError: it names none.
    """
    fields = Fields(value, "plan: overlay")
    return PlannedOverlay(
        digest=parse_digest(fields.required("digest"), where="plan: overlay"),
        size_bytes=fields.integer("size", least=0, most=2**32 - 1),
    )
