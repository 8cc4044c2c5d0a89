"""The nodes and their sessions in memory, in step with the database.

What must not be lost is written before anybody sees it: a change is durable, then visible. Writes
of many nodes at once share a transaction.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from provisiond.events.events import EventLog, parse_event
from provisiond.nodes.attributes import CAPSULE, DEFAULTS, GROUP
from provisiond.nodes.database import Change, NodeDatabase, RolloutChange
from provisiond.nodes.model import Node, Session
from provisiond.nodes.rollout import Rollout
from provisiond.nodes.scopes import (
    Attributes,
    Effective,
    Scopes,
    find_capsule_name,
    resolve_own,
    resolve_shared,
)
from provisiond.nodes.watchers import Watch, Watchers
from vnfsbuild.errors import VnfsbuildError

GATHER_SECONDS = 0.004
"""How long a batch of sessions waits for more of them: less than the disk takes."""


class Registry:
    """All that is known of nodes. All of it belongs to one event loop."""

    def __init__(self, database: NodeDatabase) -> None:
        """Read *database*, which nobody else may write to from now on."""
        self._database = database
        stored = database.load()
        self._nodes = stored.nodes
        self._sessions = {key: value for key, value in stored.sessions.items()
                          if key in self._nodes}  # fmt: skip
        self._scopes = stored.scopes
        self._rollouts = stored.rollouts
        self._effective: dict[str, tuple[Node, Attributes]] = {}
        self._shared: dict[tuple[tuple[str, ...], str | None], dict[str, Effective]] = {}
        self._by_hwaddr: dict[str, str] = {}
        self._by_name: dict[str, str] = {}
        self._by_address: dict[str, str] = {}
        self._names_freed = 0
        for node in self._nodes.values():
            self._index(node)
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="nodedb")
        self._unwritten: dict[str, Session] = {}
        self._saving: set[str] = set()
        self._batch: dict[str, Session] = {}
        self._batch_done: asyncio.Future[None] | None = None
        self._batch_tasks: set[asyncio.Task[None]] = set()
        self._batch_lock = asyncio.Lock()
        self._watchers = Watchers()
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.version = 0
        """Grows with each change of nodes or settings."""
        self._log: EventLog | None = None
        self.administration = asyncio.Lock()
        """Held by who changes nodes, from reading what is there until it is saved."""

    @property
    def nodes(self) -> Mapping[str, Node]:
        """The nodes by node id."""
        return self._nodes

    @property
    def names(self) -> Mapping[str, str]:
        """Node ids by name."""
        return self._by_name

    @property
    def names_freed(self) -> int:
        """A number that is another once a name may be free that was not."""
        return self._names_freed

    @property
    def addresses(self) -> Mapping[str, str]:
        """Node ids by the address that was allotted to them."""
        return self._by_address

    @property
    def sessions(self) -> Mapping[str, Session]:
        """The last boot of each node that ever checked in, by node id."""
        return self._sessions

    @property
    def scopes(self) -> Scopes:
        """What is set for groups, with capsules' names, and in the defaults."""
        return self._scopes

    @property
    def rollouts(self) -> Mapping[int, Rollout]:
        """The rollouts by id, the oldest first."""
        return self._rollouts

    def effective(self, node: Node) -> Attributes:
        """Return every attribute of *node*: what counts, and where it was set.

        It is worked out once after each change.
        """
        held = self._effective.get(node.node_id)
        if held is not None and held[0] is node:
            return held[1]
        capsule = find_capsule_name(node.attributes, node.groups, self._scopes)
        key = (node.groups, capsule)
        if key not in self._shared:
            self._shared[key] = resolve_shared(node.groups, capsule, self._scopes)
        found = resolve_own(node.attributes, self._shared[key])
        if self._nodes.get(node.node_id) is node:
            self._effective[node.node_id] = (node, found)
        return found

    def find(self, hwaddrs: Iterable[str]) -> Node | None:
        """Return the node that has one of *hwaddrs*; of several the one of the first address."""
        for hwaddr in hwaddrs:
            if hwaddr in self._by_hwaddr:
                return self._nodes[self._by_hwaddr[hwaddr]]
        return None

    def named(self, name: str) -> Node:
        """Return the node called *name*, which there must be."""
        return self._nodes[self._by_name[name]]

    def session_lock(self, node_id: str) -> asyncio.Lock:
        """Return what is held from reading a session of this node until it is saved."""
        return self._locks[node_id]

    async def save_nodes(
        self,
        nodes: tuple[Node, ...],
        *,
        deleted: tuple[str, ...] = (),
        settings: Change | None = None,
        rollout: RolloutChange | None = None,
    ) -> None:
        """Make *nodes*, *settings* and *rollout* what is known, and forget the nodes *deleted*.

        All of it is one change, durable. Who watches a node that it may concern is woken.

        Raises:
            DatabaseError: nothing has changed.
        """
        await self._write(
            lambda: self._database.save_nodes(
                nodes, deleted=deleted, settings=settings, rollout=rollout
            )
        )
        self.version += 1
        for node_id in deleted:
            self._forget(node_id)
        for node in nodes:
            old = self._nodes.get(node.node_id)
            if old is not None:
                self._unindex(old)
        for node in nodes:
            self._nodes[node.node_id] = node
            self._index(node)
        if rollout is not None:
            self._rollouts[rollout.rollout.id] = rollout.rollout
            for number in rollout.forgotten:
                self._rollouts.pop(number, None)
        if settings:
            self._scopes = _changed(self._scopes, settings)
            self._shared.clear()
            self._effective.clear()
            self.wake_all()
        for node in nodes:
            for hwaddr in node.hwaddrs:
                self.wake(hwaddr)

    async def save_session(self, node_id: str, session: Session) -> None:
        """Make *session* what is known of this node, durably.

        Raises:
            DatabaseError: nothing has changed.
        """
        self._batch[node_id] = session
        if self._batch_done is None:
            self._batch_done = asyncio.get_running_loop().create_future()
            task = asyncio.create_task(self._write_batch())
            self._batch_tasks.add(task)
            task.add_done_callback(self._batch_tasks.discard)
        self._saving.add(node_id)
        try:
            await asyncio.shield(self._batch_done)
        finally:
            self._saving.discard(node_id)
        if node_id in self._nodes:
            self._sessions[node_id] = session
            self._unwritten.pop(node_id, None)

    def touch_session(self, node_id: str, session: Session) -> None:
        """Make *session* what is known of this node; the next :meth:`flush` writes it."""
        if node_id in self._nodes:
            self._sessions[node_id] = session
            self._unwritten[node_id] = session

    async def flush(self) -> None:
        """Write what was only touched.

        Raises:
            DatabaseError: it stays unwritten, until the next time.
        """
        # Not those that a newer one is on its way of: the older would be written after it.
        known = {
            node_id: item
            for node_id, item in self._unwritten.items()
            if node_id in self._nodes and node_id not in self._saving
        }
        self._unwritten = {key: self._unwritten[key] for key in self._saving & {*self._unwritten}}
        try:
            await self._write(lambda: self._database.save_sessions(known))
        except VnfsbuildError:
            # Nor those that were saved meanwhile.
            left = {key: item for key, item in known.items() if self._sessions.get(key) is item}
            self._unwritten = {**left, **self._unwritten}
            raise

    def keep_events(self, log: EventLog) -> None:
        """Begin *log* with the events that the database has, and keep what comes there.

        Raises:
            DatabaseError: they cannot be read.
        """
        log.restore(parse_event(value) for value in self._database.load_events())
        self._log = log

    async def save_events(self) -> None:
        """Write the events that the database has not yet, and forget there what is too old.

        Raises:
            DatabaseError: they stay unwritten, until the next time.
        """
        log = self._log
        if log is not None:
            await self._write_sessions({})
            await self._write(lambda: self._database.forget_events(log.first))

    def load_note(self, key: str) -> Any:
        """Return what :meth:`save_note` last kept as *key*; None when it never did. When starting.

        Raises:
            DatabaseError: it cannot be read.
        """
        return self._database.load_note(key)

    async def save_note(self, key: str, value: Any) -> None:
        """Keep the JSON *value* under *key*, durably.

        Raises:
            DatabaseError: nothing has changed.
        """
        await self._write(lambda: self._database.save_note(key, value))

    def wake(self, hwaddr: str) -> None:
        """Tell those who watch the machine *hwaddr* that something changed."""
        self._watchers.wake(hwaddr)

    def wake_all(self) -> None:
        """Tell all who watch a machine that something changed."""
        self._watchers.wake_all()

    def watching(self, hwaddr: str) -> Watch:
        """Give the block what is set by each change for the machine that booted from *hwaddr*."""
        return self._watchers.watch(hwaddr)

    async def close(self) -> None:
        """Write what was only touched, and close the database."""
        try:
            await self.flush()
            await self.save_events()
        finally:
            self._writer.shutdown()
            self._database.close()

    async def _write_batch(self) -> None:
        """Write what has come together while the batch before was on its way to the disk."""
        async with self._batch_lock:
            # A transaction costs as much as twenty sessions in it: others may come along.
            await asyncio.sleep(GATHER_SECONDS)
            batch, done = self._batch, self._batch_done
            assert done is not None
            self._batch, self._batch_done = {}, None
            try:
                await self._write_sessions(batch)
                done.set_result(None)
            except VnfsbuildError as error:
                done.set_exception(error)
            except BaseException as error:
                # A bug of ours: who waits for this holds the lock of a node.
                done.set_exception(error)
                raise

    async def _write_sessions(self, sessions: Mapping[str, Session]) -> None:
        """Write *sessions*, and in the same transaction the events that tell of them."""
        events = self._log.take_unkept() if self._log is not None else ()
        values = {event.id: event.value() for event in events}
        try:
            await self._write(lambda: self._database.save_sessions(sessions, events=values))
        except BaseException:
            if self._log is not None:
                self._log.put_back(events)
            raise
        if self._log is not None:
            self._log.keep(events)

    async def _write(self, write: Callable[[], None]) -> None:
        """One write after the other: the connection has one transaction."""
        await asyncio.get_running_loop().run_in_executor(self._writer, write)

    def _index(self, node: Node) -> None:
        self._by_name[node.name] = node.node_id
        if node.address is not None:
            self._by_address[node.address] = node.node_id
        for hwaddr in node.hwaddrs:
            self._by_hwaddr[hwaddr] = node.node_id

    def _unindex(self, node: Node) -> None:
        self._by_name.pop(node.name, None)
        self._names_freed += 1
        if node.address is not None and self._by_address.get(node.address) == node.node_id:
            del self._by_address[node.address]
        for hwaddr in node.hwaddrs:
            self._by_hwaddr.pop(hwaddr, None)

    def _forget(self, node_id: str) -> None:
        node = self._nodes.pop(node_id)
        self._unindex(node)
        self._sessions.pop(node_id, None)
        self._unwritten.pop(node_id, None)
        self._effective.pop(node_id, None)
        self._locks.pop(node_id, None)
        for hwaddr in node.hwaddrs:
            self.wake(hwaddr)


def _changed(scopes: Scopes, settings: Change) -> Scopes:
    """Return *scopes* with *settings* in place of what was there."""
    defaults, capsules, groups = scopes.defaults, dict(scopes.capsules), dict(scopes.groups)
    for (scope, subject), values in settings.items():
        if scope == DEFAULTS:
            defaults = values or {}
            continue
        held = groups if scope == GROUP else capsules
        if values is None or (scope == CAPSULE and not values):
            held.pop(subject, None)
        else:
            held[subject] = values
    return Scopes(defaults=defaults, capsules=capsules, groups=groups)
