"""What a running node is given to do once, and how far it is with it. Pure.

A task belongs to one boot: what a node was told in one is never done in another. It is open until
the node told its end, the boot is over, or it was not taken up in time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from provisiond.protocol import Checkin
from provisiond.tasks import PlannedTask

WAITING, RUNNING, DONE, FAILED = "waiting", "running", "done", "failed"
TAKE_UP_SECONDS = 600
"""A task that no check-in took up by then is withdrawn: nobody expects a reboot an hour later."""
WITHDRAWN = f"withdrawn: the node did not take it up within {TAKE_UP_SECONDS} s"
LEFT = "the node went over to another capsule before it told the end"
BOOTED = {
    "poweroff": (DONE, "the node was started again"),
    "reboot": (DONE, "the node began another boot"),
    "run": (FAILED, "the node began another boot before it told the end"),
}
"""Kind → what the beginning of another boot makes of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A task of a node, in the boot that it was given in."""

    task_id: str
    kind: str
    phase: str = ""
    timeout_seconds: int = 600
    given_at: float
    state: str = WAITING
    detail: str = ""
    since: float
    """When it came into *state*."""

    @property
    def is_open(self) -> bool:
        """Whether its end is still to come."""
        return self.state in (WAITING, RUNNING)

    def told(self) -> str:
        """Return what it is, in words."""
        return f"{self.kind} {self.phase}".strip()


def make_task(task_id: str, kind: str, *, phase: str, timeout_seconds: int, now: float) -> Task:
    """Return a task that no node knows of yet."""
    return Task(
        task_id=task_id, kind=kind, phase=phase, timeout_seconds=timeout_seconds, given_at=now,
        since=now,
    )  # fmt: skip


def plan_task(task: Task | None) -> PlannedTask | None:
    """Return what the node's plan says of it, as long as it is open."""
    if task is None or not task.is_open:
        return None
    return PlannedTask(task.task_id, task.kind, task.phase, task.timeout_seconds)


def advance_task(task: Task | None, checkin: Checkin, *, now: float) -> Task | None:
    """Return what is known of *task* after a check-in of its boot."""
    told = checkin.task
    if task is None:
        return None
    # Also after it was withdrawn: the answer that it was taken up by may have come late.
    listens = task.is_open or task.detail in (WITHDRAWN, LEFT)
    if told is not None and told.task_id == task.task_id and listens:
        task = _with(task, told.state, told.detail, now)
    if task.is_open and checkin.state == "booting":
        # It is the same boot, but nothing there knows what was begun: it would be done again.
        return _with(task, FAILED, LEFT, now)
    if task.is_open and checkin.state == "halted" and task.kind != "run":
        return _with(task, DONE, checkin.detail, now)
    return task


def end_with_boot(task: Task | None, *, now: float) -> Task | None:
    """Return what is known of *task* once another boot has begun."""
    if task is None or not task.is_open:
        return task
    state, detail = BOOTED[task.kind]
    return _with(task, state, detail, now)


def withdraw_task(task: Task | None, *, now: float) -> Task | None:
    """Return *task*, withdrawn when the node had the time to take it up."""
    if task is None or task.state != WAITING or now - task.given_at < TAKE_UP_SECONDS:
        return task
    return _with(task, FAILED, WITHDRAWN, now)


def task_value(task: Task | None) -> dict[str, Any] | None:
    """Return *task* as it is stored."""
    return None if task is None else asdict(task)


def parse_task_value(value: Mapping[str, Any] | None) -> Task | None:
    """Return the task that *value*, of :func:`task_value`, stands for."""
    return None if value is None else Task(**value)


def show_task(task: Task | None) -> dict[str, Any] | None:
    """Return *task* as JSON has it."""
    if task is None:
        return None
    return {
        "id": task.task_id,
        "kind": task.kind,
        "phase": task.phase,
        "state": task.state,
        "detail": task.detail,
        "givenAt": task.given_at,
        "since": task.since,
    }


def _with(task: Task, state: str, detail: str, now: float) -> Task:
    if (task.state, task.detail) == (state, detail):
        return task
    return replace(task, state=state, detail=detail, since=now)
