"""The agent in the booted capsule: says when the system is ready, and that it still is.

It keeps the node's overlay as the server has it.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

from provisiond.agent import machine
from provisiond.agent.client import Client, NetworkError
from provisiond.agent.console import Tell, tell_journal
from provisiond.agent.curve import verify_in_python
from provisiond.agent.node import Node, load_node
from provisiond.agent.readyscripts import Outcome, run_scripts
from provisiond.agent.refresh import Applied, apply_overlay
from provisiond.agent.site import load_site
from provisiond.agent.standing import Standing
from provisiond.protocol import (
    MAX_DETAIL_CHARACTERS,
    Answer,
    Checkin,
    PlannedOverlay,
    clean,
    plan_digest,
)
from vnfsbuild.digest import Digest, verify_stream
from vnfsbuild.errors import VnfsbuildError

RUN = Path("/run/vnfs")
ROOT = Path("/")
SCRIPTS = Path("/etc/vnfs/ready.d")
HALT_SCRIPTS = "etc/vnfs/halt.d"
HALT_SCRIPT_SECONDS = 60.0
"""All of it must fit into what systemd gives a service to stop, 90 s."""
COMMAND_SECONDS = 120.0
SCRIPT_SECONDS = 600.0
HALT_SECONDS = 2.0
RETRY_SECONDS = 5.0
SPREAD_SECONDS = 2.0
"""Nodes check in at the same full minute, so that a parallel job is disturbed once; but spread
over so long, for the server's sake."""


def system_state(*, wait: bool = False) -> str:
    """Return what systemd says of the system: ``running``, ``degraded``, ``stopping`` …

    With *wait* it returns when the system has finished starting. Empty without systemd.
    """
    argv = ["systemctl", "is-system-running", *(["--wait"] if wait else [])]
    return _systemctl(argv).strip()


def failed_units() -> List[str]:
    """Return the names of the units that failed."""
    lines = _systemctl(["systemctl", "list-units", "--failed", "--plain", "--no-legend", "--full"])
    return [line.split()[0] for line in lines.splitlines() if line.split()][:64]


def next_checkin(now: float, *, every_seconds: int, spread: float) -> float:
    """Return how long to sleep: until the next multiple of *every_seconds*, and *spread*."""
    return every_seconds - now % every_seconds + spread


@dataclass(frozen=True)
class System:
    """What is asked of the system, and what a test answers."""

    state: Callable[..., str] = system_state
    failed_units: Callable[[], List[str]] = failed_units


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
        script_seconds: float = SCRIPT_SECONDS,
        system: Optional[System] = None,
        tell: Tell = tell_journal,
        set_clock: Callable[[int], Optional[str]] = machine.set_clock,
    ) -> None:
        self._node = node
        self._client = client
        self._run = run
        self._root = root
        self._scripts = scripts
        self._script_seconds = script_seconds
        self._system = system or System()
        self._tell = tell
        self._set_clock = set_clock
        self._every_seconds = node.checkin_seconds
        self._standing = Standing(
            run / "site", node.capsule, tell=tell, verify_ed25519=verify_in_python
        )
        self._plan: Optional[Digest] = None
        self._clock_is_set = False
        self._overlay = node.overlay
        self._planned: Optional[PlannedOverlay] = None
        self._overlay_fault = ""
        self._overlay_output = ""

    def become_ready(self) -> Outcome:
        """Wait until the system has started, then run the site's scripts, once per boot."""
        self._system.state(wait=True)
        note = self._run / "ready.json"
        try:
            known: Dict[str, Any] = json.loads(note.read_bytes())
            return Outcome(known["failure"], known["output"])
        except (OSError, ValueError, KeyError):
            outcome = run_scripts(self._scripts, timeout_seconds=self._script_seconds)
        found = {"failure": outcome.failure, "output": outcome.output}
        note.write_text(json.dumps(found), encoding="utf-8")
        return outcome

    def checkin(self, outcome: Outcome, *, state: str = "") -> Checkin:
        """Return what is to be said now."""
        standing = self._standing.report(now=int(time.time()))
        report: Dict[str, Any] = {**machine.make_report(), **standing, "failedUnits": []}
        if state != "halted":
            report["failedUnits"] = self._system.failed_units()
        if outcome.output:
            report["ready.d"] = outcome.output
        if self._overlay is not None:
            report["overlay"] = self._overlay
        report["overlayFault"] = self._overlay_fault
        if self._overlay_output:
            report["change.d"] = self._overlay_output
        return Checkin(
            hwaddrs=self._node.hwaddrs,
            boot_id=self._node.boot_id,
            state=state or ("failed" if outcome.failure else "ready"),
            uuid=self._node.uuid,
            detail=clean(outcome.failure or self._overlay_fault, limit=MAX_DETAIL_CHARACTERS),
            node_key=self._node.node_key,
            plan=self._plan,
            capsule=self._node.capsule,
            trust_version=self._standing.version,
            report=report,
        )

    def say(self, outcome: Outcome, *, state: str = "", seconds: Optional[float] = None) -> bool:
        """Check in once; return whether a server heard."""
        try:
            answer = self._client.checkin(
                self.checkin(outcome, state=state), timeout_seconds=seconds
            )
        except NetworkError as error:
            self._tell(f"no server answers: {error}")
            return False
        self._take(answer)
        return True

    def _take(self, answer: Answer) -> None:
        if answer.trust:
            self._standing.take(answer.trust, now=answer.time)
        self._plan = plan_digest(answer.plan)
        self._planned = answer.plan.overlay
        self._every_seconds = answer.plan.checkin_seconds
        # Once: a clock that runs under jobs is the time service's, not ours.
        if not self._clock_is_set:
            self._clock_is_set = True
            told = self._set_clock(answer.time)
            if told:
                self._tell(told)

    def refresh(self) -> bool:
        """Lay over the overlay of the plan, unless it is there; tell whether that brought news."""
        planned = self._planned
        if planned is None or planned.digest == self._overlay:
            return False
        before = (self._overlay, self._overlay_fault)
        try:
            applied = apply_overlay(
                self._fetch(planned), root=self._root, timeout_seconds=COMMAND_SECONDS
            )
            self._note(planned, applied)
        except (VnfsbuildError, OSError) as error:
            # Tried again at the next check-in: a newer one may be there by then.
            self._overlay_fault = str(error)
        if self._overlay_fault:
            self._tell(self._overlay_fault)
        return (self._overlay, self._overlay_fault) != before

    def _note(self, planned: PlannedOverlay, applied: Applied) -> None:
        if applied.changed:
            self._tell(f"overlay: changed {' '.join(applied.changed)}")
            self._overlay_output = applied.outcome.output
        self._overlay_fault = applied.failure
        if not applied.faults:
            self._overlay = planned.digest

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

    def halt(self, outcome: Outcome) -> None:
        """Run the site's scripts for it, and say goodbye."""
        done = run_scripts(self._root / HALT_SCRIPTS, timeout_seconds=HALT_SCRIPT_SECONDS)
        failure = done.failure or outcome.failure
        self.say(Outcome(failure, outcome.output), state="halted", seconds=HALT_SECONDS)

    def live(self, stop: threading.Event) -> None:
        """Become ready, say so, and say so again at intervals until *stop*; then say goodbye."""
        outcome = self.become_ready()
        self._tell(outcome.failure or f"{self._node.name}: ready")
        while not stop.is_set():
            held = self._standing.version
            heard = self.say(outcome)
            if self._standing.version != held and not stop.is_set():
                # What a newer trust.json says of this capsule is not to wait for a minute.
                heard = self.say(outcome)
            if heard and self.refresh() and not stop.is_set():
                heard = self.say(outcome)
            spread = random.uniform(0, SPREAD_SECONDS)
            pause = next_checkin(time.time(), every_seconds=self._every_seconds, spread=spread)
            stop.wait(pause if heard else min(pause, RETRY_SECONDS + spread))
        if self._system.state() == "stopping":
            self.halt(outcome)


def run() -> None:
    """Run the agent on this node until it is told to stop.

    Raises:
        VnfsbuildError: this system was not started by a bootstrap.
    """
    node = load_node(RUN / "node.json")
    client = Client(load_site(RUN / "site"))
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    Running(node, client).live(stop)


def _systemctl(argv: List[str]) -> str:
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except OSError:
        return ""
    return done.stdout.decode("utf-8", "replace")
