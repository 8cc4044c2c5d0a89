"""The agent in the booted capsule: one check-in, which says that the system is ready, how it is.

It keeps the node's overlay as the server has it. What is between two check-ins, waits: see
:mod:`.waiter`; what takes longer is done beside them: see :mod:`.work`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Optional

from provisiond.agent import health, machine, tasks
from provisiond.agent.client import Client, NetworkError
from provisiond.agent.console import Tell, tell_journal
from provisiond.agent.curve import verify_in_python
from provisiond.agent.nextnote import load_note
from provisiond.agent.node import Node, load_node
from provisiond.agent.notes import (
    PLAN,
    RUN,
    load_leaving,
    load_plan,
    read_figures,
    read_note,
    write_note,
)
from provisiond.agent.readyscripts import Outcome, run_scripts
from provisiond.agent.site import load_site
from provisiond.agent.standing import Standing
from provisiond.agent.system import System
from provisiond.agent.waiter import KNOCK, KNOCKED
from provisiond.agent.work import has_work
from provisiond.protocol import (
    MAX_DETAIL_CHARACTERS,
    Answer,
    Checkin,
    PlannedOverlay,
    clean,
    plan_digest,
    plan_value,
)
from provisiond.tasks import Knock, TaskReport
from vnfsbuild.digest import Digest, verify_stream
from vnfsbuild.errors import VnfsbuildError

if TYPE_CHECKING:
    from provisiond.agent.refresh import Applied

ROOT = Path("/")
SCRIPTS = Path("/etc/vnfs/ready.d")
HALT_SCRIPTS = "etc/vnfs/halt.d"
HALT_SCRIPT_SECONDS = 60.0
"""All of it must fit into what systemd gives a service to stop, 90 s."""
COMMAND_SECONDS = 120.0
SCRIPT_SECONDS = 600.0
HALT_SECONDS = 2.0
MEMORY = "agent.json"
EX_TEMPFAIL = 75
"""The exit status of a check-in that no server heard."""


@dataclass
class Memory:
    """What a check-in must know of those before it."""

    plan: Optional[str] = None
    """The digest of the plan that it holds."""
    every_seconds: int = 60
    clock_is_set: bool = False
    overlay: Optional[str] = None
    """The digest of the overlay that is laid over."""
    overlay_fault: str = ""
    overlay_output: str = ""


def load_memory(run: Path, node: Node) -> Memory:
    """Return what the check-in before left; of a boot that has none what the bootstrap knew."""
    try:
        return Memory(**read_note(run / MEMORY))
    except TypeError:
        return Memory(every_seconds=node.checkin_seconds, overlay=node.overlay)


class Running:
    """This node, from when its capsule has booted."""

    def __init__(
        self,
        node: Node,
        client: Client,
        *,
        run: Path = RUN,
        root: Path = ROOT,
        scripts: Path = SCRIPTS,
        checks: Path = health.CHECKS,
        script_seconds: float = SCRIPT_SECONDS,
        system: Optional[System] = None,
        tell: Tell = tell_journal,
        set_clock: Callable[[int], Optional[str]] = machine.set_clock,
        knock: Optional[Knock] = None,
    ) -> None:
        self._node = node
        self._client = client
        self._run = run
        self._root = root
        self._scripts = scripts
        self._checks = checks
        self._script_seconds = script_seconds
        self._system = system or System()
        self._tell = tell
        self._set_clock = set_clock
        self._knock = knock
        self._standing = Standing(
            run / "site", node.capsule, tell=tell, verify_ed25519=verify_in_python,
            note=run / "verdict.json",
        )  # fmt: skip
        self.memory = load_memory(run, node)
        self._planned: Optional[PlannedOverlay] = None

    def become_ready(self) -> Outcome:
        """Wait until the system has started, then run the site's scripts, once per boot."""
        note = self._run / "ready.json"
        try:
            known: Dict[str, Any] = json.loads(note.read_bytes())
            return Outcome(known["failure"], known["output"])
        except (OSError, ValueError, KeyError, TypeError):
            self._system.state(wait=True)
            outcome = run_scripts(self._scripts, timeout_seconds=self._script_seconds)
        write_note(note, {"failure": outcome.failure, "output": outcome.output})
        self._tell(outcome.failure or f"{self._node.name}: ready")
        return outcome

    def checkin(
        self, outcome: Outcome, *, state: str = "", task: Optional[TaskReport] = None
    ) -> Checkin:
        """Return what is to be said now."""
        memory = self.memory
        leaving = load_leaving(self._run)
        if leaving is not None and not state:
            # It was said, and is not to be taken back by a late one.
            state = leaving.state
        report: Dict[str, Any] = {
            **machine.make_report(),
            **self._standing.report(now=int(time.time())),
            **health.read_health(self._run),
            **read_figures(self._run),
            "failedUnits": [] if state == "halted" else self._system.failed_units(),
            "overlayFault": memory.overlay_fault,
        }
        if outcome.output:
            report["ready.d"] = outcome.output
        if memory.overlay is not None:
            report["overlay"] = memory.overlay
        if memory.overlay_output:
            report["change.d"] = memory.overlay_output
        return Checkin(
            hwaddrs=self._node.hwaddrs,
            boot_id=self._node.boot_id,
            state=state or ("failed" if outcome.failure else "ready"),
            uuid=self._node.uuid,
            detail=clean(
                outcome.failure or (leaving.detail if leaving else "") or memory.overlay_fault,
                limit=MAX_DETAIL_CHARACTERS,
            ),
            node_key=self._node.node_key,
            plan=None if memory.plan is None else Digest(memory.plan),
            capsule=(leaving.capsule if leaving else None) or self._node.capsule,
            trust_version=self._standing.version,
            report=report,
            task=task,
            knock=self._knock,
            next=load_note(self._run),
        )

    def say(self, outcome: Outcome) -> bool:
        """Check in once; return whether a server heard."""
        plan = load_plan(self._run)
        task = tasks.find_report(self._run, plan.task if plan else None, now=tasks.uptime())
        try:
            answer = self._client.checkin(self.checkin(outcome, task=task))
        except NetworkError as error:
            self._tell(f"no server answers: {error}")
            return False
        named = answer.plan.node_id
        if named not in (self._node.node_id, *self._node.hwaddrs):
            self._tell(
                f"the plan is for node {clean(named)}, this node is another: nothing is done"
            )
            return True
        self._take(answer)
        tasks.note_told(self._run, task)
        return True

    def _take(self, answer: Answer) -> None:
        if answer.trust:
            self._standing.take(answer.trust, now=answer.time)
        memory = self.memory
        digest = answer.digest or plan_digest(answer.plan)
        if digest != memory.plan or load_plan(self._run) is None:
            write_note(self._run / PLAN, plan_value(answer.plan))
        memory.plan = digest
        self._planned = answer.plan.overlay
        memory.every_seconds = answer.plan.checkin_seconds
        # Once: a clock that runs under jobs is the time service's, not ours.
        if not memory.clock_is_set:
            memory.clock_is_set = True
            told = self._set_clock(answer.time)
            if told:
                self._tell(told)

    def refresh(self) -> bool:
        """Lay over the overlay of the plan, unless it is there; tell whether that brought news."""
        planned, memory = self._planned, self.memory
        if planned is None or planned.digest == memory.overlay:
            return False
        before = (memory.overlay, memory.overlay_fault)
        from provisiond.agent.refresh import apply_overlay

        try:
            applied = apply_overlay(
                self._fetch(planned), root=self._root, timeout_seconds=COMMAND_SECONDS
            )
            self._note(planned, applied)
        except (VnfsbuildError, OSError) as error:
            # Tried again at the next check-in: a newer one may be there by then.
            memory.overlay_fault = str(error)
        if memory.overlay_fault:
            self._tell(memory.overlay_fault)
        return (memory.overlay, memory.overlay_fault) != before

    def _note(self, planned: PlannedOverlay, applied: Applied) -> None:
        if applied.changed:
            self._tell(f"overlay: changed {' '.join(applied.changed)}")
            self.memory.overlay_output = applied.outcome.output
        self.memory.overlay_fault = applied.failure
        if not applied.faults:
            self.memory.overlay = planned.digest

    def _fetch(self, planned: PlannedOverlay) -> bytes:
        node = self._node
        chunks = self._client.overlay(
            planned, node_id=node.node_id, boot_id=node.boot_id, node_key=node.node_key
        )
        return b"".join(
            verify_stream(
                chunks, digest=planned.digest, size_bytes=planned.size_bytes, where="overlay"
            )
        )

    def step(self, *, knocked: bool = False) -> bool:
        """Become ready, check in, and again when that brings news; return whether it was heard."""
        outcome = self.become_ready()
        plan = load_plan(self._run)
        # Whoever knocks wants something else, and now.
        if not outcome.failure and not knocked:
            every = plan.health_seconds if plan and plan.health_seconds is not None else None
            health.keep_health(
                self._run, self._checks, time.time(),
                every_seconds=health.EVERY_SECONDS if every is None else every,
            )  # fmt: skip
        held = self._standing.version
        heard = self.say(outcome)
        if self._standing.version != held:
            # What a newer trust.json says of this capsule is not to wait for a minute.
            heard = self.say(outcome)
        self.save()
        if heard and self.refresh():
            self.save()
            heard = self.say(outcome)
        self.save()
        return heard

    def save(self) -> None:
        """Keep what the next check-in must know."""
        write_note(self._run / MEMORY, asdict(self.memory))

    def told(self) -> str:
        """Return the line for the waiter: the interval, and whether there is work."""
        plan = load_plan(self._run)
        works = plan is not None and has_work(self._run, plan)
        return f"{self.memory.every_seconds} {int(works)}"

    def halt(self) -> None:
        """Run the site's scripts for it, and say goodbye: ``halted``, or what was to be said."""
        known = read_note(self._run / "ready.json") or {}
        done = run_scripts(self._root / HALT_SCRIPTS, timeout_seconds=HALT_SCRIPT_SECONDS)
        leaving = load_leaving(self._run)
        failure = done.failure or known.get("failure", "")
        if not failure and leaving is None:
            failure = self._system.way_down()
        checkin = self.checkin(
            Outcome(failure, known.get("output", "")),
            state=leaving.state if leaving else "halted",
            task=tasks.find_goodbye(self._run, now=tasks.uptime()),
        )
        try:
            self._client.checkin(checkin, timeout_seconds=HALT_SECONDS)
        except NetworkError as error:
            self._tell(f"no server answers: {error}")

    def is_stopping(self) -> bool:
        """Tell whether the whole system stops, and not only the agent."""
        return self._system.state() == "stopping"


def run_checkin() -> None:
    """Check in once, and tell the waiter what it must know.

    Raises:
        VnfsbuildError: this system was not started by a bootstrap.
    """
    port, _, word = os.environ.pop(KNOCK, "").partition(" ")
    knocked = bool(os.environ.pop(KNOCKED, ""))
    running = load_running(Knock(int(port), word) if word else None)
    if not running.step(knocked=knocked):
        sys.exit(EX_TEMPFAIL)
    sys.stdout.write(running.told() + "\n")


def run_halt() -> None:
    """Say goodbye, when the system stops.

    Raises:
        VnfsbuildError: this system was not started by a bootstrap.
    """
    running = load_running(None)
    if running.is_stopping():
        running.halt()


def load_running(knock: Optional[Knock]) -> Running:
    """Return this node as its bootstrap left it, and check-ins since.

    Raises:
        VnfsbuildError: this system was not started by a bootstrap.
    """
    return Running(load_node(RUN / "node.json"), Client(load_site(RUN / "site")), knock=knock)
