"""What an administrator lets running nodes do: run scripts of a phase, reboot, power off."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from provisiond.administration.nodes import NodeAdministration, show_selection
from provisiond.nodes.model import Node, Session
from provisiond.nodes.selection import Selection
from provisiond.nodes.states import find_silence, is_ready
from provisiond.nodes.tasks import Task, make_task, withdraw_task
from provisiond.nodes.view import NodeView
from provisiond.parts import Parts
from provisiond.service import Service
from provisiond.tasks import TASK_KINDS, is_phase
from vnfsbuild.errors import InputError

TASK_ID_BYTES = 16
LEAVES = ("poweroff", "reboot")
MOST_TOLD = 5
MOST_SECONDS = 86400


class TaskAdministration:
    """Gives tasks to nodes. All nodes that are asked for get one, or none does."""

    def __init__(
        self, parts: Parts, service: Service, view: NodeView, nodes: NodeAdministration
    ) -> None:
        self._parts = parts
        self._registry = parts.registry
        self._service = service
        self._view = view
        self._nodes = nodes

    async def give(
        self,
        kind: str,
        expressions: Sequence[str],
        *,
        every_node: bool = False,
        phase: str = "",
        timeout_seconds: int = 600,
    ) -> dict[str, Any]:
        """Let nodes do the task *kind* once, from their next check-in on, to which they are called.

        *every_node* says that all nodes are meant: what takes them down is else refused for them.

        Raises:
            InputError: no such node, kind or phase; a node is not ready, or still has a task.
        """
        _verify_task(kind, phase, timeout_seconds)
        async with self._registry.administration:
            selection = self._nodes.select([*expressions, "*"] if every_node else expressions)
            nodes = [self._registry.named(name) for name in selection.found]
            if not every_node:
                self._verify_meant(kind, selection)
            self._verify_free(kind, nodes)
            now = self._parts.clock()
            task_id = secrets.token_hex(TASK_ID_BYTES)
            task = make_task(task_id, kind, phase=phase, timeout_seconds=timeout_seconds, now=now)
            # Together: they share transactions.
            given = await asyncio.gather(*(self._give(node, task) for node in nodes))
        self._service.knocks.knock(node.node_id for node, took in zip(nodes, given, strict=True)
                                   if took)  # fmt: skip
        lost = [node.name for node, took in zip(nodes, given, strict=True) if not took]
        return {**show_selection(selection), "task": task_id, "notReady": lost}

    async def _give(self, node: Node, task: Task) -> bool:
        """Give *task* to *node*, durably; False when it is not ready any more."""
        async with self._registry.session_lock(node.node_id):
            session = self._registry.sessions.get(node.node_id)
            if session is None or session.state != "ready":
                return False
            self._service.chronicle.tell_task(node, task, now=task.given_at)
            await self._registry.save_session(node.node_id, replace(session, task=task))
            return True

    def _verify_meant(self, kind: str, selection: Selection) -> None:
        """Make sure that nobody takes the whole cluster down by a pattern that is too wide."""
        count = len(self._registry.nodes)
        named = set(selection.named) >= set(selection.found)
        if kind in LEAVES and not named and len(selection.found) == count > 1:
            raise InputError(
                f"node {kind}: these are all {count} nodes; nothing was done",
                hint=f"provisionctl node {kind} --all, when that is meant",
            )

    def _verify_free(self, kind: str, nodes: Sequence[Node]) -> None:
        unready: list[Node] = []
        busy: list[str] = []
        for node in nodes:
            session = self._registry.sessions.get(node.node_id)
            task = session.task if session else None
            if session is None or not self._is_ready(node, session):
                unready.append(node)
            elif task is not None and task.is_open:
                busy.append(f"{node.name} ({task.told()}: {task.state})")
        if unready:
            shown = [self._show(node) for node in unready[: MOST_TOLD + 1]]
            raise InputError(
                f"node {kind}: not ready: {_shorten(shown, len(unready))}; nothing was done",
                hint="ready=yes behind the nodes takes those that are",
            )
        if busy:
            raise InputError(
                f"node {kind}: still at another task: {_shorten(busy, len(busy))}; "
                "nothing was done",
                hint="provisionctl node show tells how far; a task that is not taken up is "
                "withdrawn after ten minutes",
            )

    def _is_ready(self, node: Node, session: Session) -> bool:
        """Tell whether *node* is ready; what that takes, without a plan for each of thousands."""
        silence = find_silence(session, now=self._parts.clock(), timeouts=self._service.timeouts)
        conditions = [silence] if silence else []
        if self._service.is_in_conflict(node.node_id):
            conditions.append("conflict")
        return is_ready(session.state, conditions)

    def _show(self, node: Node) -> str:
        words = [self._view.state(node), *self._view.conditions(node)]
        return f"{node.name} ({', '.join(words)})"


async def withdraw_tasks(parts: Parts, service: Service) -> None:
    """Take back what nodes did not take up in time.

    Raises:
        VnfsbuildError: the database cannot be written; it is tried again.
    """
    now = parts.clock()
    registry = parts.registry
    late = [
        node_id
        for node_id, session in registry.sessions.items()
        if session.task is not None and withdraw_task(session.task, now=now) is not session.task
    ]
    for node_id in late:
        async with registry.session_lock(node_id):
            node, session = registry.nodes.get(node_id), registry.sessions.get(node_id)
            task = withdraw_task(session.task, now=now) if session else None
            if node and session and task and task is not session.task:
                service.chronicle.tell_task(node, task, now=now)
                await registry.save_session(node_id, replace(session, task=task))


def _verify_task(kind: str, phase: str, timeout_seconds: int) -> None:
    if kind not in TASK_KINDS:
        raise InputError(f"task: found {kind!r:.40}, expected {', '.join(TASK_KINDS)}")
    if not 1 <= timeout_seconds <= MOST_SECONDS:
        raise InputError(f"timeout: found {timeout_seconds}, expected 1 to {MOST_SECONDS} seconds")
    if (kind == "run") != bool(phase):
        raise InputError("task: a phase belongs to run, and only there")
    if phase and not is_phase(phase):
        raise InputError(
            f"phase: found {phase!r:.80}, expected lower-case letters, digits and '-'",
            hint="PHASE runs the scripts of /etc/vnfs/PHASE.d on the nodes",
        )


def _shorten(items: Sequence[str], count: int) -> str:
    more = f" and {count - MOST_TOLD} more" if count > MOST_TOLD else ""
    return ", ".join(items[:MOST_TOLD]) + more
