"""How a check-in changes what is known of a boot, and what the server concludes from silence."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from operator import attrgetter
from typing import Any

from provisiond.nodes.drivers import find_wanted_drivers
from provisiond.nodes.model import Node, Session
from provisiond.nodes.tasks import advance_task, end_with_boot
from provisiond.protocol import Checkin, Plan

LATE_FACTOR = 2
LATE_GRACE_SECONDS = 10
NO_WORD = "no word after kexec"
NO_REASON = "the node did not say why"
KEPT_FAILURES = 8
"""Of so many digests it is kept how often a node failed with them: a node names what it likes."""
_DURABLE = attrgetter(
    "boot_id", "state", "key_hash", "key_used", "capsule", "hwaddr", "drivers", "task"
)  # fmt: skip
READY = "ready"
FOUND_OUT = ("untrusted", "unhealthy")
"""Conditions that a node finds out itself, and reports with the reason; an empty one: none."""
NOT_READY = frozenset(("conflict", "dead", "late"))
"""Conditions in which a node is not ready, whatever it said last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeouts:
    """After how long silence means something."""

    checkin_seconds: int
    node_seconds: int
    boot_seconds: int
    session_seconds: int
    deaf_from: float = 0.0
    """From then to *deaf_until* the server did not run: nobody could be heard, none was silent."""
    deaf_until: float = 0.0


class Admission(Enum):
    """What a check-in is to the node that it names."""

    NEW_BOOT = "a boot begins"
    SAME_BOOT = "the boot that is known goes on"
    CONFLICT = "another boot of this node is alive"
    WRONG_KEY = "the node key is missing or not the one that this boot was given"


def admit(
    node: Node, session: Session | None, checkin: Checkin, *, now: float, timeouts: Timeouts
) -> Admission:
    """Return what *checkin* is to *node*, whose last boot is *session*.

    Keys are for approved nodes only: of others nothing is known that would need one, and no
    secret is given to them.
    """
    same_boot = session is not None and session.boot_id == checkin.boot_id
    if not node.approved:
        return Admission.SAME_BOOT if same_boot else Admission.NEW_BOOT
    if session is not None and same_boot:
        return _admit_again(session, checkin)
    if checkin.node_key is not None:
        return Admission.WRONG_KEY
    if session is not None and is_live(session, now=now, timeouts=timeouts):
        return Admission.CONFLICT
    return Admission.NEW_BOOT


def _admit_again(session: Session, checkin: Checkin) -> Admission:
    """Judge the key of a boot that is known, of an approved node."""
    if checkin.node_key is not None:
        good = has_key(session, checkin.node_key)
    else:
        # Until the node has shown that it got its key, the answer with it may have been lost.
        good = not session.key_used
    return Admission.SAME_BOOT if good else Admission.WRONG_KEY


def is_live(session: Session, *, now: float, timeouts: Timeouts) -> bool:
    """Tell whether a boot that was given a key may still run."""
    if session.key_hash is None or session.state == "halted":
        return False
    return now - session.last_contact < timeouts.session_seconds


def has_key(session: Session, node_key: str) -> bool:
    """Tell whether *node_key* is the one of this boot, in a time that says nothing of it."""
    return session.key_hash is not None and hmac.compare_digest(
        session.key_hash, hash_key(node_key)
    )


def hash_key(node_key: str) -> str:
    """Return how a node key is stored. It is random, so that a plain digest is enough."""
    return hashlib.sha256(node_key.encode("ascii")).hexdigest()


def begin_session(
    checkin: Checkin, *, peer: str, now: float, before: Session | None = None
) -> Session:
    """Return what is known of a boot after its first check-in; *before* was the boot before it."""
    blank = Session(
        boot_id=checkin.boot_id, state="", since=now, hwaddr=checkin.hwaddrs[0], peer=peer,
        last_contact=now,
    )  # fmt: skip
    if before is not None:
        # It was started anew without having come up: the boot before failed, unheard.
        unheard = before.state == "booting"
        blank = replace(
            blank,
            last_good=before.last_good,
            failures=count_failure(before.failures, before.capsule) if unheard else before.failures,
            last_error=NO_WORD if unheard else before.last_error,
            last_error_at=now if unheard else before.last_error_at,
            drivers=before.drivers,
            task=end_with_boot(before.task, now=now),
        )
    record = _record(blank, checkin, checkin.capsule, now=now)
    return Session(
        boot_id=checkin.boot_id,
        state=checkin.state,
        since=now,
        hwaddr=checkin.hwaddrs[0],
        peer=peer,
        last_contact=now,
        detail=checkin.detail,
        capsule=checkin.capsule,
        phases={checkin.state: now},
        report=_figures(checkin),
        task=blank.task,
        **record,
    )


def _record(
    session: Session, checkin: Checkin, capsule: str | None, *, now: float
) -> dict[str, Any]:
    """Return what outlives a boot: the last good capsule, the failures in a row, the last error,
    the drivers that its hardware takes.
    """
    last_good, failures = session.last_good, session.failures
    last_error, last_error_at = session.last_error, session.last_error_at
    if checkin.state == READY:
        last_good = capsule
        failures = {key: count for key, count in failures.items() if key != capsule}
    if checkin.state == "failed":
        last_error = checkin.detail or NO_REASON
        if session.state != "failed":
            failures, last_error_at = count_failure(failures, capsule), now
    return {
        "last_good": last_good,
        "failures": failures,
        "last_error": last_error,
        "last_error_at": last_error_at,
        "drivers": find_wanted_drivers(checkin.report, known=session.drivers),
    }


def count_failure(failures: Mapping[str, int], capsule: str | None) -> dict[str, int]:
    """Return *failures* with one more of *capsule*; of many the oldest are forgotten."""
    if capsule is None:
        return dict(failures)
    others = [(key, count) for key, count in failures.items() if key != capsule]
    return {**dict(others[-KEPT_FAILURES + 1 :]), capsule: failures.get(capsule, 0) + 1}


def advance_session(session: Session, checkin: Checkin, *, peer: str, now: float) -> Session:
    """Return what is known of a boot after another check-in.

    *phases* keeps when a state was last entered; of ``init`` the first time, since there the
    boot began.
    """
    phases = session.phases
    since = session.since
    if checkin.state != session.state:
        since = now
        if checkin.state != "init" or "init" not in phases:
            phases = {**phases, checkin.state: now}
    capsule = checkin.capsule or session.capsule
    return replace(
        session,
        state=checkin.state,
        since=since,
        peer=peer,
        last_contact=now,
        detail=checkin.detail,
        key_used=session.key_used or checkin.node_key is not None,
        capsule=capsule,
        phases=phases,
        next=checkin.next,
        task=advance_task(session.task, checkin, now=now),
        report={
            key: value
            for key, value in {**session.report, **_figures(checkin)}.items()
            if value != ""  # a text that is taken back
        },
        **_record(session, checkin, capsule, now=now),
    )


def phase_seconds(session: Session | None, *, now: float) -> dict[str, float]:
    """Return how long a boot was in each of its states; the present one lasts until *now*.

    A node that is halted is in no state any more: that one has no seconds.
    """
    if session is None:
        return {}
    entered = sorted(session.phases.items(), key=lambda item: item[1])
    ends = [*(at for _, at in entered[1:]), now]
    return {
        state: round(max(0.0, end - at), 1)
        for (state, at), end in zip(entered, ends, strict=True)
        if state != "halted"
    }


def _figures(checkin: Checkin) -> dict[str, Any]:
    """Return what there is to show of a check-in: its figures, and which trust.json it holds."""
    version = checkin.trust_version
    held = {} if version is None else {"trustVersion": version}
    return {**checkin.report, **held}


def is_transition(old: Session | None, new: Session) -> bool:
    """Tell whether the change must be durable before it is answered.

    Last contact, progress and figures need not: they come again.
    """
    if old is None:
        return True
    return _DURABLE(old) != _DURABLE(new)


def find_silence(session: Session, *, now: float, timeouts: Timeouts) -> str | None:
    """Return what the silence of a node means: :data:`NO_WORD`, ``late``, ``dead``, or nothing."""
    silent = now - session.last_contact
    if session.last_contact <= timeouts.deaf_from:
        silent -= timeouts.deaf_until - timeouts.deaf_from
    if session.state == "halted":
        return None
    if session.state == "booting" and silent > timeouts.boot_seconds:
        return NO_WORD
    if silent > timeouts.node_seconds:
        return "dead"
    late = LATE_FACTOR * timeouts.checkin_seconds + LATE_GRACE_SECONDS
    return "late" if session.state == "ready" and silent > late else None


def changed_conditions(
    old: Session, new: Session, *, now: float, timeouts: Timeouts
) -> list[tuple[str, bool]]:
    """Return which conditions a check-in ended (True) or began (False).

    Silence is over with it; and the node tells what it found out about itself.
    """
    changes = []
    silence = find_silence(old, now=now, timeouts=timeouts)
    if silence in ("late", "dead"):
        changes.append((silence, True))
    for condition in FOUND_OUT:
        before, after = (bool(session.report.get(condition)) for session in (old, new))
        if before != after:
            changes.append((condition, before))
    return changes


def shown_state(
    session: Session | None, *, now: float, timeouts: Timeouts
) -> tuple[str | None, str]:
    """Return the state of a node and the detail of it, with what long silence makes of it."""
    if session is None:
        return None, ""
    if find_silence(session, now=now, timeouts=timeouts) == NO_WORD:
        return "failed", NO_WORD
    return session.state, session.detail


def find_conditions(
    session: Session | None,
    plan: Plan,
    *,
    enabled: bool,
    conflict: bool,
    now: float,
    timeouts: Timeouts,
    fallback: bool = False,
) -> tuple[str, ...]:
    """Return what the server concludes of a node: disabled, conflict, fallback, dead, late,
    waiting.

    And what the node itself found: untrusted, its trust.json does not let it boot again what runs;
    unhealthy, a check of the site failed.
    """
    conditions = [] if enabled else ["disabled"]
    if conflict:
        conditions.append("conflict")
    if fallback:
        conditions.append("fallback")
    if session is None or session.state == "halted":
        return tuple(conditions)
    silence = find_silence(session, now=now, timeouts=timeouts)
    if silence in ("dead", "late"):
        conditions.append(silence)
    elif session.state != "ready" and plan.action == "wait":
        conditions.append("waiting")
    conditions += [condition for condition in FOUND_OUT if session.report.get(condition)]
    return tuple(conditions)


def is_ready(state: str | None, conditions: Iterable[str]) -> bool:
    """Tell whether a node that is shown in *state* and *conditions* does what it is there for."""
    return state == READY and not NOT_READY & set(conditions)
