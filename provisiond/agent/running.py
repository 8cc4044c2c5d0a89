"""The agent in the booted capsule: says when the system is ready, and that it still is."""

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
from provisiond.agent.node import Node, load_node
from provisiond.agent.readyscripts import Outcome, run_scripts
from provisiond.agent.site import load_site
from provisiond.protocol import MAX_DETAIL_CHARACTERS, Answer, Checkin, clean, plan_digest
from vnfsbuild.digest import Digest

RUN = Path("/run/vnfs")
SCRIPTS = Path("/etc/vnfs/ready.d")
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
        scripts: Path = SCRIPTS,
        script_seconds: float = SCRIPT_SECONDS,
        system: Optional[System] = None,
        tell: Tell = tell_journal,
        set_clock: Callable[[int], Optional[str]] = machine.set_clock,
    ) -> None:
        self._node = node
        self._client = client
        self._run = run
        self._scripts = scripts
        self._script_seconds = script_seconds
        self._system = system or System()
        self._tell = tell
        self._set_clock = set_clock
        self._every_seconds = node.checkin_seconds
        self._plan: Optional[Digest] = None
        self._clock_is_set = False

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
        report: Dict[str, Any] = {**machine.make_report(), "failedUnits": []}
        if state != "halted":
            report["failedUnits"] = self._system.failed_units()
        if outcome.output:
            report["ready.d"] = outcome.output
        return Checkin(
            hwaddrs=self._node.hwaddrs,
            boot_id=self._node.boot_id,
            state=state or ("failed" if outcome.failure else "ready"),
            uuid=self._node.uuid,
            detail=clean(outcome.failure, limit=MAX_DETAIL_CHARACTERS),
            node_key=self._node.node_key,
            plan=self._plan,
            capsule=self._node.capsule,
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
        self._plan = plan_digest(answer.plan)
        self._every_seconds = answer.plan.checkin_seconds
        # Once: a clock that runs under jobs is the time service's, not ours.
        if not self._clock_is_set:
            self._clock_is_set = True
            told = self._set_clock(answer.time)
            if told:
                self._tell(told)

    def live(self, stop: threading.Event) -> None:
        """Become ready, say so, and say so again at intervals until *stop*; then say goodbye."""
        outcome = self.become_ready()
        self._tell(outcome.failure or f"{self._node.name}: ready")
        while not stop.is_set():
            heard = self.say(outcome)
            spread = random.uniform(0, SPREAD_SECONDS)
            pause = next_checkin(time.time(), every_seconds=self._every_seconds, spread=spread)
            stop.wait(pause if heard else min(pause, RETRY_SECONDS + spread))
        if self._system.state() == "stopping":
            self.say(outcome, state="halted", seconds=HALT_SECONDS)


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
