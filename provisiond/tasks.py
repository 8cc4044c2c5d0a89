"""What a running node is told to do, and tells of it: tasks, and the knock for one.

Part of the check-in protocol (docs/checkin-protocol.md), carried by agents: standard library and
vnfsbuild's floor 0 only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Dict, Optional

from provisiond.wire import MAX_DETAIL_CHARACTERS, Fields, clean
from vnfsbuild.errors import InputError

TASK_KINDS = ("poweroff", "reboot", "run")
TASK_STATES = ("running", "done", "failed")

_WORD = re.compile(r"[0-9a-f]{32}\Z")
_PHASE = re.compile(r"[a-z][a-z0-9-]{0,31}\Z")


@dataclass(frozen=True)
class Knock:
    """How a running node is told to check in at once: a datagram with a word that is used once."""

    port: int
    word: str
    """32 hexadecimal digits."""


@dataclass(frozen=True)
class TaskReport:
    """How far a node is with a task that it was given."""

    task_id: str
    state: str
    detail: str = ""
    """The last lines of what it ran, or why it failed."""


@dataclass(frozen=True)
class PlannedTask:
    """What a running node is to do once."""

    task_id: str
    """32 hexadecimal digits."""
    kind: str
    phase: str = ""
    """Of the kind run: the scripts of ``/etc/vnfs/PHASE.d`` are run."""
    timeout_seconds: int = 600
    """Of the kind run: how long each of them may take."""


def render_task(task: PlannedTask) -> Dict[str, Any]:
    """Return *task* as a JSON object."""
    value: Dict[str, Any] = {"id": task.task_id, "kind": task.kind}
    if task.kind == "run":
        value.update(phase=task.phase, timeoutSeconds=task.timeout_seconds)
    return value


def parse_task(value: Any) -> Optional[PlannedTask]:
    """Return the task of a plan; none also when it is of a kind that is not known here.

    Raises:
        InputError: it is malformed.
    """
    if value is None:
        return None
    fields = Fields(value, "plan: task")
    if fields.required("kind") not in TASK_KINDS:
        return None
    task = PlannedTask(
        task_id=fields.required("id", pattern=_WORD),
        kind=fields.choice("kind", TASK_KINDS),
        phase=fields.text("phase", pattern=_PHASE) or "",
        timeout_seconds=fields.integer("timeoutSeconds", least=1, most=86400, default=600),
    )
    if task.kind == "run" and not task.phase:
        raise InputError("plan: task: says run and names no phase")
    return task


def is_phase(text: str) -> bool:
    """Tell whether *text* can name a phase: there may be scripts in ``/etc/vnfs/TEXT.d``."""
    return _PHASE.match(text) is not None


def render_task_report(task: Optional[TaskReport]) -> Optional[Dict[str, str]]:
    """Return *task* as a JSON object; none, when there is none."""
    if task is None:
        return None
    return {"id": task.task_id, "state": task.state, "detail": task.detail}


def parse_task_report(value: Any) -> Optional[TaskReport]:
    """Return what a check-in says of a task; none, when it says nothing.

    Raises:
        InputError: it is malformed.
    """
    if value is None:
        return None
    fields = Fields(value, "check-in: task")
    return TaskReport(
        task_id=fields.required("id", pattern=_WORD),
        state=fields.choice("state", TASK_STATES),
        detail=clean(fields.text("detail") or "", limit=MAX_DETAIL_CHARACTERS),
    )


def render_knock(knock: Optional[Knock]) -> Optional[Dict[str, Any]]:
    """Return *knock* as a JSON object; none, when there is none."""
    return None if knock is None else {"port": knock.port, "word": knock.word}


def parse_knock(value: Any) -> Optional[Knock]:
    """Return how the node can be told to check in at once; none, when it cannot.

    Raises:
        InputError: it is malformed.
    """
    if value is None:
        return None
    fields = Fields(value, "check-in: knock")
    return Knock(
        port=fields.integer("port", least=1, most=65535),
        word=fields.required("word", pattern=_WORD),
    )
