"""Rollouts as they go on: the pure machine of :mod:`.rollout`, fed with what nodes say.

What is decided is durable before a node hears of it: assignments of a batch and its beginning are
one transaction. A daemon that was killed goes on where the database says it was.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from provisiond.catalogue import Catalogue
from provisiond.events.events import EventLog
from provisiond.nodes.batches import parse_batch
from provisiond.nodes.choose import choose_capsule
from provisiond.nodes.database import RolloutChange
from provisiond.nodes.model import Node, Session
from provisiond.nodes.registry import Registry
from provisiond.nodes.rollout import (
    ACTIVE,
    DONE,
    FAILED,
    RUNNING,
    STOPPED,
    UNDER_WAY,
    WAITING,
    Member,
    Patience,
    Rollout,
    Seen,
    Step,
    advance,
    may_go,
    resume,
    stop,
    summary,
)
from provisiond.nodes.states import Timeouts, find_silence, shown_state
from provisiond.planned import WHENS, PlannedNext
from provisiond.protocol import WITHOUT_CAPSULE, Plan
from vnfsbuild.errors import InputError, VnfsbuildError
from vnfsbuild.manifest import CAPSULE
from vnfsbuild.reference import parse_reference

logger = logging.getLogger(__name__)

KEPT = 50
"""So many rollouts are known of; the oldest that have ended are forgotten."""
MOST_INDEXED = 16
"""Of so many capsules that nodes run the chunk index is made."""
BY_ADMINISTRATOR = "stopped by an administrator"


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What rollouts work with."""

    registry: Registry
    catalogue: Catalogue
    events: EventLog
    clock: Callable[[], float]
    timeouts: Timeouts
    plan_boot: Callable[[Node], Plan]
    """What a node would be given if it booted now."""
    knock: Callable[[Iterable[str]], None]
    """Let the nodes of these ids ask soon."""
    patience: Patience


class Rollouts:
    """All rollouts; those that have ended are shown for a while."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._around = surroundings
        self._registry = surroundings.registry
        self._catalogue = surroundings.catalogue
        self._refused: dict[str, str] = {}

    @property
    def rollouts(self) -> Mapping[int, Rollout]:
        """By id, the oldest first."""
        return self._registry.rollouts

    def next_for(self, node: Node, session: Session) -> PlannedNext | None:
        """Return what *node*, which runs, is to go over to; None: nothing."""
        for rollout in self.rollouts.values():
            go = may_go(rollout, node.node_id)
            if go is None:
                continue
            boot = self._around.plan_boot(node)
            if boot.capsule is None or boot.capsule.digest != rollout.digest:
                # The next look at the rollout tells it.
                self._refused[node.node_id] = boot.reason or "it is assigned another capsule"
                return None
            self._refused.pop(node.node_id, None)
            return PlannedNext(
                capsule=boot.capsule,
                kernel_arguments=boot.kernel_arguments,
                overlay=boot.overlay,
                blobs=boot.blobs,
                near=boot.near,
                transfer=boot.transfer,
                nfs=boot.nfs,
                running_chunks=self._catalogue.find_chunks(session.capsule),
                go=go,
                attempt=rollout.attempt,
                when=rollout.when,
            )
        return None

    async def start(
        self, names: Sequence[str], *, reference: str, batch: str, when: str
    ) -> Rollout:
        """Let the nodes *names* go over to the capsule that *reference* means now.

        Raises:
            InputError: no such capsule, no nodes, or one is in a rollout that runs.
            VerificationError: the capsule may not run.
        """
        if when not in WHENS:
            raise InputError(f"when: found {when!r:.40}, expected {' or '.join(WHENS)}")
        if not names:
            raise InputError("node upgrade: no nodes are named")
        parse_batch(batch)
        planned = self._catalogue.find_capsule(parse_reference(reference))
        if planned is None:
            raise InputError(
                f"the capsule {reference} is not in the store",
                hint="provisionctl vnfs list; provisionctl vnfs import FILE",
            )
        ids = [self._registry.names[name] for name in names]
        self._verify_free(ids)
        await self._make_indexes(planned.digest, ids)
        async with self._registry.administration:
            ids = [node_id for node_id in ids if node_id in self._registry.nodes]
            self._verify_free(ids)
            now = self._around.clock()
            rollout = Rollout(
                id=max(self.rollouts, default=0) + 1, capsule=planned.name, digest=planned.digest,
                reference=reference, batch=batch, when=when, created=now,
                members={node_id: Member(since=now) for node_id in ids},
            )  # fmt: skip
            told = f"rollout {rollout.id}: {len(ids)} nodes to {rollout.target}, {batch} at a time"
            await self._take(Step(rollout=rollout, told=(("rollout.started", told),)), before=None)
        await self._advance(rollout.id)
        return self.rollouts[rollout.id]

    async def stop(self, number: int | None) -> Rollout:
        """Stop a rollout: no node leaves what it runs any more. Without *number* the one that runs.

        Raises:
            InputError: there is none that runs.
        """
        async with self._registry.administration:
            rollout = self._one(number, RUNNING)
            step = stop(
                rollout, self._look(rollout), reason=BY_ADMINISTRATOR, now=self._around.clock()
            )
            await self._take(step, before=rollout)
        return self.rollouts[rollout.id]

    async def resume(self, number: int | None, *, retry: bool) -> Rollout:
        """Let a stopped rollout go on; with *retry* also with the nodes that failed.

        Raises:
            InputError: there is none that is stopped, or nothing is left to do.
        """
        async with self._registry.administration:
            rollout = self._one(number, STOPPED)
            turns = (WAITING, FAILED) if retry else (WAITING,)
            ids = [key for key, member in rollout.members.items() if member.state in turns]
            if not ids:
                raise InputError(
                    f"rollout {rollout.id}: {summary(rollout)}: no node is left to have its turn",
                    hint=f"provisionctl rollout resume --retry {rollout.id}"
                    if rollout.count(FAILED)
                    else None,
                )
            self._verify_free(ids)
            now = self._around.clock()
            await self._take(resume(rollout, retry=retry, now=now), before=rollout)
            if retry:
                await self._forget_failures(ids, rollout.digest)
        await self._advance(rollout.id)
        return self.rollouts[rollout.id]

    async def tick(self) -> None:
        """Look at all that go on; what cannot be written is tried again the next time."""
        for rollout in list(self.rollouts.values()):
            if rollout.state != RUNNING and not rollout.count(*UNDER_WAY):
                continue
            try:
                await self._advance(rollout.id)
            except VnfsbuildError as error:
                logger.error("rollout %d: %s", rollout.id, error)

    async def _advance(self, number: int) -> None:
        async with self._registry.administration:
            rollout = self.rollouts[number]
            step = advance(
                rollout, self._look(rollout), now=self._around.clock(),
                patience=self._around.patience,
            )  # fmt: skip
            if not _is_same(step.rollout, rollout):
                await self._take(step, before=rollout)

    async def _take(self, step: Step, *, before: Rollout | None) -> None:
        """Make *step* what is known, durably, then tell it."""
        nodes = tuple(
            _assign(self._registry.nodes[node_id], value)
            for node_id, value in step.assign.items()
            if node_id in self._registry.nodes
        )
        change = RolloutChange(
            rollout=step.rollout, before=before, forgotten=self._find_forgotten(step.rollout)
        )
        await self._registry.save_nodes(nodes, rollout=change)
        # Not before: a database that is away for a while would have the same told every time.
        now = self._around.clock()
        for kind, text in step.told:
            self._around.events.add(kind, text, now=now)
        for node in nodes:
            told = f"vnfs = {node.attributes.get('vnfs', '')}, by rollout {step.rollout.id}"
            self._around.events.add("node.changed", told, now=now, node=node.name)
        concerned = _find_concerned(step.rollout, before, self._registry.nodes)
        for node_id in concerned:
            self._refused.pop(node_id, None)
            for hwaddr in self._registry.nodes[node_id].hwaddrs:
                self._registry.wake(hwaddr)
        self._around.knock(concerned)

    def _find_forgotten(self, rollout: Rollout) -> tuple[int, ...]:
        known = self.rollouts.values()
        ended = [item.id for item in known if item.state == DONE]
        # Those that nobody ever resumed, too: each may name all nodes.
        ended += [item.id for item in known if item.state == STOPPED and not item.count(*UNDER_WAY)]
        others = [number for number in ended if number != rollout.id]
        return tuple(others[: max(0, len(self.rollouts) - KEPT)])

    async def _forget_failures(self, ids: Iterable[str], digest: str) -> None:
        for node_id in ids:
            async with self._registry.session_lock(node_id):
                session = self._registry.sessions.get(node_id)
                if session is not None and digest in session.failures:
                    failures = {key: n for key, n in session.failures.items() if key != digest}
                    await self._registry.save_session(node_id, replace(session, failures=failures))

    async def _make_indexes(self, wanted: str, ids: Iterable[str]) -> None:
        """Make the chunk indexes that save most of the way; without one, more is sent."""
        sessions = (self._registry.sessions.get(node_id) for node_id in ids)
        running = {session.capsule: None for session in sessions if session and session.capsule}
        for digest in [wanted, *list(running)[:MOST_INDEXED]]:
            try:
                await asyncio.to_thread(self._catalogue.ensure_chunks, digest)
            except VnfsbuildError as error:
                logger.warning("chunk index: %s", error)

    def _verify_free(self, ids: Iterable[str]) -> None:
        wanted = set(ids)
        for rollout in self.rollouts.values():
            if rollout.state == RUNNING and wanted & set(rollout.members):
                node_id = min(wanted & set(rollout.members))
                node = self._registry.nodes.get(node_id)
                raise InputError(
                    f"{node.name if node else node_id} is in rollout {rollout.id}, which runs",
                    hint=f"provisionctl rollout stop {rollout.id}",
                )

    def _one(self, number: int | None, state: str) -> Rollout:
        """Return the rollout that is meant, which must be in *state*."""
        if number is None:
            found = [item for item in self.rollouts.values() if item.state == state]
            if len(found) != 1:
                raise InputError(
                    f"rollout: {len(found) or 'none'} {'are' if found else 'is'} {state}, "
                    "expected the number of one",
                    hint="provisionctl rollout list",
                )
            return found[0]
        if number not in self.rollouts:
            raise InputError(f"rollout: there is no {number}", hint="provisionctl rollout list")
        if self.rollouts[number].state != state:
            raise InputError(
                f"rollout {number} is {self.rollouts[number].state}, not {state}",
                hint=f"provisionctl rollout status {number}",
            )
        return self.rollouts[number]

    def _look(self, rollout: Rollout) -> Mapping[str, Seen]:
        return _Looks(self._registry.nodes, lambda node_id: self._see(rollout, node_id))

    def _see(self, rollout: Rollout, node_id: str) -> Seen:
        node = self._registry.nodes[node_id]
        session = self._registry.sessions.get(node_id)
        effective = self._registry.effective(node)
        assigned = effective["vnfs"].value
        stored = (
            self._catalogue.find_stored(parse_reference(assigned), CAPSULE) if assigned else None
        )
        now, timeouts = self._around.clock(), self._around.timeouts
        state, detail = shown_state(session, now=now, timeouts=timeouts)
        silent = session is not None and find_silence(session, now=now, timeouts=timeouts) == "dead"
        running = self._catalogue.find_digest(session.capsule or "") if session else None
        return Seen(
            name=node.name,
            state=state,
            detail=detail,
            capsule=session.capsule if session else None,
            boot_id=session.boot_id if session else None,
            silent=silent,
            heard=session.last_contact if session else 0.0,
            unhealthy=str(session.report.get("unhealthy", "")) if session else "",
            next=session.next if session else None,
            own=node.attributes.get("vnfs"),
            assigned=stored.digest if stored else None,
            runs=f"{running.name}@{running.digest}" if running else None,
            refusal=self._find_refusal(rollout, node, session),
        )

    def _find_refusal(self, rollout: Rollout, node: Node, session: Session | None) -> str:
        """Return why *node* cannot be given the capsule; empty: nothing is known against it."""
        effective = self._registry.effective(node)
        if not node.approved:
            return f"{node.name} is not approved; provisionctl node approve {node.name}"
        if not effective["enabled"].value:
            return f"{node.name} is disabled; provisionctl node enable {node.name}"
        method = effective["method"].value
        if method in WITHOUT_CAPSULE:
            return f"the method of {node.name} is {method}, which boots no capsule"
        if rollout.members[node.node_id].state != ACTIVE:
            return ""
        planned, reason = choose_capsule(node, effective, self._catalogue.find_capsule, session)
        if planned is None or planned.digest != rollout.digest:
            return reason or f"{node.name} is assigned another capsule by now"
        return self._refused.get(node.node_id, "")


class _Looks(Mapping[str, Seen]):
    """What is seen of nodes, looked at when it is asked for: of most it is not."""

    def __init__(self, nodes: Mapping[str, Node], see: Callable[[str], Seen]) -> None:
        self._nodes = nodes
        self._see = see
        self._seen: dict[str, Seen] = {}

    def __getitem__(self, node_id: str) -> Seen:
        if node_id not in self._seen:
            if node_id not in self._nodes:
                raise KeyError(node_id)
            self._seen[node_id] = self._see(node_id)
        return self._seen[node_id]

    def __contains__(self, node_id: object) -> bool:
        return node_id in self._nodes

    def __iter__(self) -> Iterator[str]:
        return iter(self._nodes)

    def __len__(self) -> int:
        return len(self._nodes)


def _assign(node: Node, value: str | None) -> Node:
    attributes = {key: item for key, item in node.attributes.items() if key != "vnfs"}
    return replace(node, attributes=attributes if value is None else {**attributes, "vnfs": value})


def _is_same(rollout: Rollout, before: Rollout) -> bool:
    return replace(rollout, members={}) == replace(before, members={}) and all(
        member is before.members[node_id] for node_id, member in rollout.members.items()
    )


def _find_concerned(
    rollout: Rollout, before: Rollout | None, nodes: Mapping[str, Node]
) -> list[str]:
    """Return those of *nodes* whose plan is another one now."""
    if before is None:
        return []
    return [
        node_id
        for node_id in rollout.members
        if node_id in nodes and may_go(rollout, node_id) != may_go(before, node_id)
    ]
