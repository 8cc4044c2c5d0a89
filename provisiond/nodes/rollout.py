"""How a rollout goes on: which nodes go over to its capsule next, and when it stops. Pure.

Nodes go over in batches. Within a batch all fetch and verify the capsule first; only when every
one of them has it does the first leave what it runs. The next batch begins when all of one are
ready with the capsule; with the first node that fails the rollout stops.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from provisiond.nodes.batches import batch_size
from provisiond.protocol import NextReport

RUNNING, STOPPED, DONE = "running", "stopped", "done"
"""States of a rollout."""

WAITING, ACTIVE, BOOTING, READY = "waiting", "active", "booting", "ready"
FAILED, LATER, GONE = "failed", "later", "gone"
UNDER_WAY = (ACTIVE, BOOTING)
MEMBER_STATES = (WAITING, ACTIVE, BOOTING, READY, FAILED, LATER, GONE)
"""Of a node: its batch is yet to come; it runs what it ran; it has left that; it runs the capsule;
it failed; it was not up in its turn, and boots it when it starts; it was deleted."""

HAS_IT = ("fetched", "draining", "leaving")
"""What a node says that has the capsule, verified."""
STARTING = ("init", "fetching", "booting")
SHOWN_NAMES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """After how many seconds a node has failed that does not get on."""

    fetch_seconds: float = 1800.0
    leave_seconds: float = 900.0
    """With ``now``, from when it may leave until it has."""
    boot_seconds: float = 1800.0
    deaf_from: float = 0.0
    deaf_until: float = 0.0
    """When the server did not listen: nobody could tell it anything."""

    def waited(self, since: float, *, now: float) -> float:
        """Return how many seconds were heard of since *since*."""
        deaf = self.deaf_until - self.deaf_from if since <= self.deaf_from else 0.0
        return now - since - deaf


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What is known of a node at the moment."""

    name: str
    state: str | None
    """As it is shown; None: it never checked in."""
    detail: str = ""
    capsule: str | None = None
    boot_id: str | None = None
    silent: bool = False
    """Whether it is taken for dead."""
    heard: float = 0.0
    """When it last said something."""
    unhealthy: str = ""
    """What its checks found."""
    next: NextReport | None = None
    own: str | None = None
    """What is assigned to the node itself."""
    assigned: str | None = None
    """The digest that it would boot now."""
    runs: str | None = None
    """NAME@DIGEST of what it runs, where that is in the store."""
    refusal: str = ""
    """Why it cannot be given the capsule: disabled, not approved, another method …"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A node in a rollout."""

    state: str = WAITING
    since: float = 0.0
    """When it came into *state*."""
    batch: int = 0
    """The number of its batch; 0: yet to come."""
    reason: str = ""
    boot_id: str | None = None
    """The boot that it was in when its batch began, or since it went through its firmware."""
    was_starting: bool = False
    """Whether it was on its way to what it was assigned before, when its batch began."""
    was_unhealthy: bool = False
    was_assigned: bool = False
    """Whether its own assignment was changed; to go back to *before*."""
    before: str | None = None
    ran: str | None = None
    """NAME@DIGEST of what it ran before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """Nodes that go over to a capsule, and how far that is."""

    id: int
    capsule: str
    """Its name."""
    digest: str
    reference: str
    """As an administrator typed it."""
    batch: str
    """How many at a time: ``10%`` or ``5``."""
    when: str
    created: float
    state: str = RUNNING
    reason: str = ""
    """Why it stopped."""
    ended: float | None = None
    number: int = 0
    """Of the present batch."""
    go_since: float | None = None
    """When all of the present batch had the capsule, and were told to go over; None: not yet."""
    members: Mapping[str, Member] = field(default_factory=dict)
    """By node id, in the order in which they have their turn."""

    @property
    def target(self) -> str:
        """What nodes are assigned: the capsule and no other."""
        return f"{self.capsule}@{self.digest}"

    @property
    def attempt(self) -> str:
        """What tells the tries of a node apart."""
        return f"{self.id}.{self.number}"

    def count(self, *states: str) -> int:
        """Return how many nodes are in one of *states*."""
        return sum(member.state in states for member in self.members.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A rollout as it is now, and what else is to be done at the same time."""

    rollout: Rollout
    assign: Mapping[str, str | None] = field(default_factory=dict)
    """Node id → what is assigned to the node itself from now on; None: nothing any more."""
    told: tuple[tuple[str, str], ...] = ()
    """(kind, text) of events."""


def advance(rollout: Rollout, seen: Mapping[str, Seen], *, now: float, patience: Patience) -> Step:
    """Return *rollout* as what is *seen* of its nodes makes it; one that is not there is gone."""
    looked, assign, failed = _look_at_all(rollout, seen, now=now, patience=patience)
    for node_id in failed:
        found = looked.members[node_id]
        assign[node_id] = _put_back(looked, found, seen[node_id], after_failure=True)
    if failed and rollout.state == RUNNING:
        stopped = stop(looked, seen, reason=_failure(looked, failed, seen), now=now)
        return replace(stopped, assign=_changes({**stopped.assign, **assign}, seen))
    if rollout.state != RUNNING:
        why = f"{_shown(looked)}: {_failure(looked, failed, seen)}" if failed else ""
        told = (("rollout.stopped", why),) if failed else ()
        return Step(rollout=looked, assign=_changes(assign, seen), told=told)
    if looked.count(*UNDER_WAY):
        return Step(rollout=_let_go(looked, seen, now=now), assign=assign)
    begun = _begin_batch(looked, seen, now=now)
    return replace(begun, assign={**assign, **begun.assign})


def stop(rollout: Rollout, seen: Mapping[str, Seen], *, reason: str, now: float) -> Step:
    """Return *rollout* stopped for *reason*: who has not left what it runs keeps it."""
    members = dict(rollout.members)
    assign: dict[str, str | None] = {}
    for node_id, member in rollout.members.items():
        if member.state == ACTIVE:
            if node_id in seen:
                assign[node_id] = _put_back(rollout, member, seen[node_id], after_failure=False)
            members[node_id] = Member(state=WAITING, since=now)
    stopped = replace(rollout, state=STOPPED, reason=reason, go_since=None, members=members)
    told = (("rollout.stopped", f"{_shown(rollout)}: {reason}"),)
    return Step(rollout=stopped, assign=_changes(assign, seen), told=told)


def resume(rollout: Rollout, *, retry: bool, now: float) -> Step:
    """Return the stopped *rollout* running; with *retry* those that failed have a new turn."""
    members = {
        node_id: Member(since=now) if retry and member.state == FAILED else member
        for node_id, member in rollout.members.items()
    }
    resumed = replace(rollout, state=RUNNING, reason="", ended=None, go_since=None, members=members)
    return Step(rollout=resumed, told=(("rollout.resumed", _shown(rollout)),))


def may_go(rollout: Rollout, node_id: str) -> bool | None:
    """Tell whether a node may leave what it runs; None: it has nothing to do with the capsule."""
    member = rollout.members.get(node_id)
    if rollout.state != RUNNING or member is None or member.state != ACTIVE:
        return None
    return rollout.go_since is not None


def _look_at_all(
    rollout: Rollout, seen: Mapping[str, Seen], *, now: float, patience: Patience
) -> tuple[Rollout, dict[str, str | None], list[str]]:
    """Return *rollout* as it is *seen*, what who waits again is assigned, and who failed."""
    members = dict(rollout.members)
    assign: dict[str, str | None] = {}
    failed = []
    for node_id, member in rollout.members.items():
        if member.state not in (WAITING, *UNDER_WAY):
            continue
        if node_id not in seen:
            members[node_id] = replace(member, state=GONE, since=now, reason="the node was deleted")
        if member.state == WAITING or node_id not in seen:
            continue
        members[node_id] = found = _look(rollout, member, seen[node_id], now=now, patience=patience)
        if found.state == FAILED:
            failed.append(node_id)
        elif found.state == WAITING:
            assign[node_id] = _put_back(rollout, member, seen[node_id], after_failure=False)
    return replace(rollout, members=members), assign, failed


def _look(
    rollout: Rollout, member: Member, seen: Seen, *, now: float, patience: Patience
) -> Member:
    """Return *member*, which is under way, as what is *seen* of it makes it."""
    if seen.state == "ready" and seen.capsule == rollout.digest:
        if seen.unhealthy and not member.was_unhealthy:
            return replace(member, state=FAILED, since=now, reason=f"unhealthy: {seen.unhealthy}")
        return replace(member, state=READY, since=now, reason="")
    if member.was_starting and seen.state == "ready" and seen.boot_id == member.boot_id:
        # It had asked before it was assigned the capsule: so it goes over as the others do.
        if rollout.state != RUNNING:
            return Member(since=now)
        return replace(member, state=ACTIVE, since=now, ran=seen.runs, was_starting=False)
    judge = _judge_active if member.state == ACTIVE else _judge_booting
    failure = judge(rollout, member, seen, now=now, patience=patience)
    if failure:
        return replace(member, state=FAILED, since=now, reason=failure)
    if member.state == ACTIVE and seen.boot_id != member.boot_id:
        # It was started anew, by whomever: what it is assigned, it boots.
        return replace(member, state=BOOTING, since=now, boot_id=seen.boot_id)
    if member.state == ACTIVE and seen.state == "booting":
        return replace(member, state=BOOTING, since=now)
    return member


def _judge_active(
    rollout: Rollout, member: Member, seen: Seen, *, now: float, patience: Patience
) -> str:
    """Return why a node failed that still runs what it ran; empty: it did not."""
    report = _find_report(rollout, seen)
    if report is not None and report.state == "failed":
        return report.detail or "the node did not say why"
    if seen.silent:
        return "the node fell silent"
    if seen.refusal:
        return seen.refusal
    if seen.state == "failed" and seen.boot_id == member.boot_id:
        return seen.detail
    if seen.state == "halted" and patience.waited(seen.heard, now=now) > patience.boot_seconds:
        return "was shut down"
    has_it = report is not None and report.state in HAS_IT
    fetches = rollout.go_since is None or member.since > rollout.go_since
    if not has_it and fetches and patience.waited(member.since, now=now) > patience.fetch_seconds:
        said = report.detail or report.state if report else "no word of it; an older agent?"
        return f"has not got the capsule after {patience.fetch_seconds:.0f} s: {said}"
    if rollout.when == "now" and rollout.go_since is not None and (has_it or not fetches):
        since = max(rollout.go_since, member.since)
        if patience.waited(since, now=now) > patience.leave_seconds:
            return f"has not left what it runs after {patience.leave_seconds:.0f} s"
    return ""


def _judge_booting(
    rollout: Rollout, member: Member, seen: Seen, *, now: float, patience: Patience
) -> str:
    """Return why a node failed that has left what it ran; empty: it did not."""
    if seen.silent:
        return "the node fell silent"
    if seen.state == "failed":
        return seen.detail or "the node did not say why"
    if seen.state == "ready":
        return f"is ready with {seen.runs or seen.capsule}, not with the capsule"
    if seen.state == "halted":
        return "was shut down"
    if seen.boot_id != member.boot_id:
        return "did not come up with the capsule, and came back through its firmware"
    if patience.waited(member.since, now=now) > patience.boot_seconds:
        said = f"{seen.state} {seen.detail}".strip()
        return f"is not ready after {patience.boot_seconds:.0f} s: {said}"
    return ""


def _find_report(rollout: Rollout, seen: Seen) -> NextReport | None:
    """Return what a node said in this try, if it said something."""
    return seen.next if seen.next and seen.next.attempt == rollout.attempt else None


def _let_go(rollout: Rollout, seen: Mapping[str, Seen], *, now: float) -> Rollout:
    """Return *rollout* with its batch told to go over, once all of it have the capsule."""
    if rollout.go_since is not None:
        return rollout
    for node_id, member in rollout.members.items():
        if member.state != ACTIVE:
            continue
        report = _find_report(rollout, seen[node_id])
        if report is None or report.state not in HAS_IT:
            return rollout
    return replace(rollout, go_since=now)


def _begin_batch(rollout: Rollout, seen: Mapping[str, Seen], *, now: float) -> Step:
    """Return *rollout* with the next batch begun, or done."""
    size, number = batch_size(rollout.batch, len(rollout.members)), rollout.number + 1
    members = dict(rollout.members)
    assign: dict[str, str | None] = {}
    names: list[str] = []
    for node_id, member in rollout.members.items():
        if member.state != WAITING:
            continue
        if len(names) >= size:
            break
        item = seen[node_id]
        begun = _begin(rollout, item, number=number, now=now)
        members[node_id] = begun
        if begun.was_assigned:
            assign[node_id] = rollout.target
        if begun.state in UNDER_WAY:
            names.append(item.name)
    begun_rollout = replace(rollout, members=members, number=number, go_since=None)
    if names:
        told = ("rollout.batch", f"{_shown(rollout)}: batch {number}: {_join(names)}")
        return Step(rollout=begun_rollout, assign=assign, told=(told,))
    done = replace(begun_rollout, number=rollout.number, state=DONE, ended=now)
    return Step(
        rollout=done, assign=assign, told=(("rollout.done", f"{_shown(done)}: {summary(done)}"),)
    )


def _begin(rollout: Rollout, seen: Seen, *, number: int, now: float) -> Member:
    """Return a node as its turn finds it."""
    member = Member(
        state=ACTIVE, since=now, batch=number, boot_id=seen.boot_id,
        was_assigned=seen.assigned != rollout.digest, before=seen.own, ran=seen.runs,
        was_unhealthy=bool(seen.unhealthy),
    )  # fmt: skip
    if seen.state == "ready" and seen.capsule == rollout.digest:
        # That it boots the same again is as much what was asked for.
        return replace(member, state=READY)
    if seen.refusal:
        return replace(member, state=LATER, reason=seen.refusal, was_assigned=False)
    if seen.silent or seen.state in (None, "halted", "failed"):
        what = "is silent" if seen.silent else seen.state or "never checked in"
        return replace(member, state=LATER, reason=f"{what}: boots it when it starts")
    if seen.state in STARTING:
        return replace(member, state=BOOTING, was_starting=True)
    return member


def _put_back(rollout: Rollout, member: Member, seen: Seen, *, after_failure: bool) -> str | None:
    """Return what is to be assigned to the node itself, now that it does not get the capsule.

    What was assigned before; but where that means the same capsule, with which the node has failed,
    what it ran.
    """
    if member.was_assigned and seen.own == rollout.target:
        return member.before
    if after_failure and seen.assigned == rollout.digest and member.ran is not None:
        return member.ran
    return seen.own


def _changes(
    assign: Mapping[str, str | None], seen: Mapping[str, Seen]
) -> Mapping[str, str | None]:
    return {key: value for key, value in assign.items() if value != seen[key].own}


def _failure(rollout: Rollout, failed: list[str], seen: Mapping[str, Seen]) -> str:
    """Return who failed, and why the first of them did."""
    names = [seen[node_id].name for node_id in failed]
    return f"{names[0]}: {rollout.members[failed[0]].reason}" + (
        f" (and {len(names) - 1} more: {_join(names[1:])})" if names[1:] else ""
    )


def summary(rollout: Rollout) -> str:
    """Return how many nodes are in which state, in words."""
    counts = ((state, rollout.count(state)) for state in MEMBER_STATES)
    return ", ".join(f"{count} {state}" for state, count in counts if count) or "no nodes"


def _shown(rollout: Rollout) -> str:
    return f"rollout {rollout.id} to {rollout.capsule}@{rollout.digest[7:19]}"


def _join(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + more
