"""What nodes say and are answered, told as events; nothing twice running, and not too much."""

from __future__ import annotations

from provisiond.events.events import EventLog
from provisiond.nodes.model import Node, Session
from provisiond.nodes.states import Timeouts, changed_conditions
from provisiond.nodes.supply import find_wrong_mirrors
from provisiond.nodes.tasks import Task
from provisiond.protocol import Plan
from vnfsbuild.digest import short

MOST_EVENTS = 60
"""Of a kind, about a node or about strangers, in a minute."""


class Chronicle:
    """Adds to a log of events."""

    def __init__(self, events: EventLog, *, timeouts: Timeouts, most_subjects: int) -> None:
        """Of so many subjects it is remembered what was told last."""
        self._events = events
        self._timeouts = timeouts
        self._most_subjects = most_subjects
        self._told: dict[str, str] = {}

    def tell_session(self, node: Node, old: Session | None, new: Session) -> None:
        """Tell a new boot, a new state, progress, and what the node found out about itself."""
        now = new.last_contact
        detail = f": {new.detail}" if new.detail else ""
        if old is None or (old.boot_id, old.state) != (new.boot_id, new.state):
            self._add("node.state", f"{new.state}{detail}", now, node, state=new.state)
        elif old.detail != new.detail:
            self._add("node.progress", f"{new.state}: {new.detail}", now, node, state=new.state)
        for mirror in find_wrong_mirrors(old, new):
            self._add("mirror.wrong", mirror, now, node)
        if old is None:
            return
        for condition, ended in changed_conditions(old, new, now=now, timeouts=self._timeouts):
            why = "" if ended else new.report.get(condition, "")
            told = " is over" if ended else f": {why}" if why else ""
            self._add("node.condition", condition + told, now, node,
                      condition=condition, ended=ended)  # fmt: skip
        if new.task is not None and old.task is not None and new.task != old.task:
            self.tell_task(node, new.task, now=now)

    def tell_task(self, node: Node, task: Task, *, now: float) -> None:
        """Tell how far *node* is with *task*."""
        told = f"{task.told()}: {task.state}" + (f": {task.detail}" if task.detail else "")
        self._add("node.task", told, now, node)

    def tell_plan(self, node: Node, plan: Plan, *, now: float) -> None:
        """Tell what *node* is to do, when that is something else than before."""
        if plan.capsule:
            told = f"boot {plan.capsule.name}@{short(plan.capsule.digest)} by {plan.method}"
        else:
            told = f"{plan.action}: {plan.reason}" if plan.reason else plan.action
        self.tell(node.node_id, "node.plan", told, now=now, node=node.name)

    def tell(
        self, subject: str, kind: str, text: str, *, now: float, node: str | None = None
    ) -> None:
        """Tell an event, but not the same one of *subject* twice running."""
        if self._told.get(subject) != text:
            if len(self._told) > self._most_subjects:
                self._told.clear()
            self._told[subject] = text
            self._events.add(kind, text, now=now, node=node, most_a_minute=MOST_EVENTS)

    def _add(
        self,
        kind: str,
        text: str,
        now: float,
        node: Node,
        *,
        state: str | None = None,
        condition: str | None = None,
        ended: bool = False,
    ) -> None:
        self._events.add(
            kind, text, now=now, node=node.name, state=state, condition=condition, ended=ended,
            most_a_minute=MOST_EVENTS,
        )  # fmt: skip
