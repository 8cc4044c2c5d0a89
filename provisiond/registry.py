"""The nodes and their sessions in memory, in step with the database.

What must not be lost is written before anybody sees it: a change is durable, then visible. Writes
of many nodes at once share a transaction.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from provisiond.model import Node, Session
from provisiond.nodedb import NodeDatabase
from vnfsbuild.errors import VnfsbuildError


class Registry:
    """All that is known of nodes. All of it belongs to one event loop."""

    def __init__(self, database: NodeDatabase) -> None:
        """Read *database*, which nobody else may write to from now on."""
        self._database = database
        self._nodes, sessions = database.load()
        self._sessions = {key: value for key, value in sessions.items() if key in self._nodes}
        self._by_hwaddr: dict[str, str] = {}
        self._by_name: dict[str, str] = {}
        for node in self._nodes.values():
            self._index(node)
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="nodedb")
        self._unwritten: dict[str, Session] = {}
        self._batch: dict[str, Session] = {}
        self._batch_done: asyncio.Future[None] | None = None
        self._batch_tasks: set[asyncio.Task[None]] = set()
        self._batch_lock = asyncio.Lock()
        self._watching: dict[str, set[asyncio.Event]] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
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
    def sessions(self) -> Mapping[str, Session]:
        """The last boot of each node that ever checked in, by node id."""
        return self._sessions

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

    async def save_nodes(self, nodes: tuple[Node, ...], *, deleted: tuple[str, ...] = ()) -> None:
        """Make *nodes* what is known, durably, and forget those whose ids are *deleted*.

        Raises:
            DatabaseError: nothing has changed.
        """
        await self._write(lambda: self._database.save_nodes(nodes, deleted=deleted))
        for node_id in deleted:
            self._forget(node_id)
        for node in nodes:
            old = self._nodes.get(node.node_id)
            if old is not None:
                self._unindex(old)
            self._nodes[node.node_id] = node
            self._index(node)
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
        await asyncio.shield(self._batch_done)
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
        unwritten, self._unwritten = self._unwritten, {}
        known = {node_id: item for node_id, item in unwritten.items() if node_id in self._nodes}
        try:
            await self._write(lambda: self._database.save_sessions(known))
        except VnfsbuildError:
            self._unwritten = {**known, **self._unwritten}
            raise

    def wake(self, hwaddr: str) -> None:
        """Tell those who watch the machine *hwaddr* that something changed."""
        for changed in self._watching.get(hwaddr, ()):
            changed.set()

    def wake_all(self) -> None:
        """Tell all who watch a machine that something changed."""
        for hwaddr in self._watching:
            self.wake(hwaddr)

    @contextlib.contextmanager
    def watching(self, hwaddr: str) -> Iterator[asyncio.Event]:
        """Give the block what is set by each change for the machine that booted from *hwaddr*."""
        changed = asyncio.Event()
        self._watching.setdefault(hwaddr, set()).add(changed)
        try:
            yield changed
        finally:
            self._watching[hwaddr].discard(changed)
            if not self._watching[hwaddr]:
                del self._watching[hwaddr]

    async def close(self) -> None:
        """Write what was only touched, and close the database."""
        try:
            await self.flush()
        finally:
            self._writer.shutdown()
            self._database.close()

    async def _write_batch(self) -> None:
        """Write what has come together while the batch before was on its way to the disk."""
        async with self._batch_lock:
            batch, done = self._batch, self._batch_done
            assert done is not None
            self._batch, self._batch_done = {}, None
            try:
                await self._write(lambda: self._database.save_sessions(batch))
                done.set_result(None)
            except VnfsbuildError as error:
                done.set_exception(error)

    async def _write(self, write: Callable[[], None]) -> None:
        """One write after the other: the connection has one transaction."""
        await asyncio.get_running_loop().run_in_executor(self._writer, write)

    def _index(self, node: Node) -> None:
        self._by_name[node.name] = node.node_id
        for hwaddr in node.hwaddrs:
            self._by_hwaddr[hwaddr] = node.node_id

    def _unindex(self, node: Node) -> None:
        self._by_name.pop(node.name, None)
        for hwaddr in node.hwaddrs:
            self._by_hwaddr.pop(hwaddr, None)

    def _forget(self, node_id: str) -> None:
        node = self._nodes.pop(node_id)
        self._unindex(node)
        self._sessions.pop(node_id, None)
        self._unwritten.pop(node_id, None)
        self._locks.pop(node_id, None)
        for hwaddr in node.hwaddrs:
            self.wake(hwaddr)
