"""What the server gives a running node to do: run scripts of a phase, reboot, power off.

Each is done once. Its record is written before it is begun, so that neither an agent that was
killed nor an answer that comes twice does it again; what became of it is told until the server
has heard it. Records are of this boot: the server gives nothing of an earlier one.
"""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Sequence

from provisiond.agent.notes import ask_checkin, is_worked, read_note, write_note
from provisiond.agent.readyscripts import find_scripts, run_scripts, tail
from provisiond.tasks import PlannedTask, TaskReport
from provisiond.wire import MAX_DETAIL_CHARACTERS, clean

DIRECTORY = "tasks"
PHASES = Path("/etc/vnfs")
LEAVE_SECONDS = 900.0
"""A node that still runs so long after it was to go down does not go down."""
RUNNING, LEAVING, DONE, FAILED = "running", "leaving", "done", "failed"
LEAVES = {"reboot": "reboots", "poweroff": "powers off"}
INTERRUPTED = "interrupted: what ran it was killed; whether it did its work is not known"


@dataclass(frozen=True)
class Record:
    """How far a task is."""

    task_id: str
    kind: str
    state: str
    detail: str = ""
    at: float = 0.0
    """When it came into this state, in seconds since the boot."""
    told: bool = False
    """Whether the server has heard its end."""


def load_record(run: Path, task_id: str) -> Optional[Record]:
    """Return what is known of the task; None when it was not begun."""
    return _parse(read_note(run / DIRECTORY / f"{task_id}.json"))


def load_records(run: Path) -> List[Record]:
    """Return what is known of all tasks of this boot."""
    found = [_parse(read_note(path)) for path in sorted((run / DIRECTORY).glob("[!.]*.json"))]
    return [record for record in found if record is not None]


def save_record(run: Path, record: Record) -> None:
    """Keep *record*; only then what it tells of may be done."""
    (run / DIRECTORY).mkdir(mode=0o700, exist_ok=True)
    write_note(run / DIRECTORY / f"{record.task_id}.json", vars(record))


def is_to_do(run: Path, task: PlannedTask) -> bool:
    """Tell whether *task* is to be begun; a reboot that was begun and did not come is, again."""
    record = load_record(run, task.task_id)
    return record is None or (record.state == RUNNING and record.kind in LEAVES)


def find_report(run: Path, task: Optional[PlannedTask], *, now: float) -> Optional[TaskReport]:
    """Return what there is to tell of a task: of *task*, of the plan, or of one untold."""
    records = load_records(run)
    named = [record for record in records if task and record.task_id == task.task_id]
    untold = sorted((record for record in records if not record.told), key=lambda item: item.at)
    for record in named or untold:
        shown = _settle(run, record, now=now)
        state = RUNNING if shown.state == LEAVING else shown.state
        return TaskReport(shown.task_id, state, clean(shown.detail, limit=MAX_DETAIL_CHARACTERS))
    return None


def note_told(run: Path, report: Optional[TaskReport]) -> None:
    """Keep that the server heard *report*."""
    record = load_record(run, report.task_id) if report else None
    if record is not None and report is not None and report.state in (DONE, FAILED):
        save_record(run, Record(**{**vars(record), "told": True}))


def find_goodbye(run: Path, *, now: float) -> Optional[TaskReport]:
    """Return the task that this node goes down for, done by that; None when it is none."""
    for record in load_records(run):
        if record.state == LEAVING or (record.state == RUNNING and record.kind in LEAVES):
            save_record(run, _make(record.task_id, record.kind, DONE, record.detail, now))
            return TaskReport(record.task_id, DONE, LEAVES[record.kind])
    return None


def do_task(run: Path, task: PlannedTask, *, phases: Path = PHASES) -> None:
    """Do *task*, unless it was done or begun before."""
    if not is_to_do(run, task):
        return
    save_record(run, _make(task.task_id, task.kind, RUNNING, "", uptime()))
    if task.kind == "run":
        ask_checkin()
        state, detail = run_phase(task, phases)
    else:
        state, detail = leave(task.kind)
    save_record(run, _make(task.task_id, task.kind, state, detail, uptime()))
    ask_checkin()


def run_phase(task: PlannedTask, phases: Path) -> "tuple[str, str]":
    """Run the scripts of a phase; return the state that the task is in then, and its last lines."""
    directory = phases / f"{task.phase}.d"
    if not find_scripts(directory):
        return FAILED, f"{directory}: there is nothing to run"
    outcome = run_scripts(directory, timeout_seconds=float(task.timeout_seconds))
    if outcome.failure:
        return FAILED, tail(outcome.failure)
    return DONE, outcome.output


def leave(kind: str) -> "tuple[str, str]":
    """Let the system go down; return the state that the task is in then, and why it failed."""
    argv = ["systemctl", "--no-wall", kind]
    told = _run(argv)
    return (FAILED, f"{' '.join(argv)}: {told}") if told else (LEAVING, LEAVES[kind])


def uptime() -> float:
    """Return seconds since the boot: no clock that is set."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _settle(run: Path, record: Record, *, now: float) -> Record:
    """Return *record*, at its end when it will not come to one by itself."""
    told = ""
    if record.state == RUNNING and record.kind not in LEAVES and not is_worked(run):
        # It may have come to its end between the two looks.
        fresh = load_record(run, record.task_id)
        if fresh is not None and fresh.state != RUNNING:
            return fresh
        told = INTERRUPTED
    if record.state == LEAVING and now - record.at > LEAVE_SECONDS:
        told = f"systemctl {record.kind} did not fail, but the node runs {LEAVE_SECONDS:.0f} s on"
    if not told:
        return record
    ended = _make(record.task_id, record.kind, FAILED, told, now)
    save_record(run, ended)
    return ended


def _run(argv: Sequence[str]) -> str:
    """Run *argv*; return how it failed, empty when it did not."""
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            check=False,
        )  # fmt: skip
    except OSError as error:
        return str(error.strerror)
    if done.returncode == 0:
        return ""
    return tail(done.stdout.decode("utf-8", "replace").strip()) or f"status {done.returncode}"


def _make(task_id: str, kind: str, state: str, detail: str, at: float) -> Record:
    return Record(task_id, kind, state, detail, at)


def _parse(value: object) -> Optional[Record]:
    try:
        return Record(**value) if isinstance(value, dict) else None
    except TypeError:
        return None
