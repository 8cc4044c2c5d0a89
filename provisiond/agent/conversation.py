"""The bootstrap's side of the talk with the node server: check-ins, and what answers bring.

Boot id and node key outlive the agent, should it be killed: the boot goes on as the same one.
"""

from __future__ import annotations

import json
import random
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Mapping, Optional, Tuple

from provisiond.agent import machine
from provisiond.agent.backoff import delays
from provisiond.agent.client import Client, NetworkError
from provisiond.agent.fetch import Patience
from provisiond.agent.heldtrust import HeldTrust
from provisiond.agent.notes import write_note
from provisiond.agent.trace import Log
from provisiond.protocol import PROTOCOL, Answer, Checkin, PlannedCapsule, plan_digest, plan_value
from vnfsbuild.digest import Digest, render_json, short
from vnfsbuild.errors import VerificationError, VnfsbuildError
from vnfsbuild.trust import Trust

IDENTITY = "boot.json"
"""Which boot this is, below /run/vnfs of the bootstrap; mode 0600."""


@dataclass(frozen=True)
class Pace:
    """How long to wait for what."""

    poll_seconds: int = 240
    """A long poll: the server answers when the plan changes, or after so long."""
    least_delay_seconds: float = 2.0
    most_delay_seconds: float = 60.0
    progress_seconds: float = 15.0
    """How often the server hears how far a download is."""
    unheard_seconds: float = 300.0
    """When no server answers for so long, another interface may be the right one."""
    patience: Patience = field(default_factory=Patience)

    def waits(self) -> Iterator[float]:
        """Return pauses that grow."""
        return delays(
            least_seconds=self.least_delay_seconds,
            most_seconds=self.most_delay_seconds,
            random_source=random.SystemRandom(),
        )


class Unheard(VnfsbuildError):
    """No server answers, and none has for a while: init looks for another network."""

    exit_status = 5


class Conversation:
    """All that is said and heard in one boot."""

    def __init__(
        self,
        this: machine.Machine,
        client: Client,
        trust: HeldTrust,
        *,
        run: Path,
        log: Log,
        pace: Pace,
        set_clock: Callable[[int], Optional[str]] = machine.set_clock,
        figures: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        """*figures*: what else is reported."""
        self._machine = this
        self._client = client
        self._trust = trust
        self._run = run
        self._log = log
        self._pace = pace
        self._set_clock = set_clock
        self._figures = figures
        self._plan: Optional[Digest] = None
        self._trust_fault: Optional[VerificationError] = None
        self._told = ""
        self.now = 0
        """The server's clock, when it answered last."""
        self.boot_id, self.node_key = load_identity(run)

    def ask(
        self,
        state: str,
        *,
        detail: str = "",
        wait_seconds: int = 0,
        capsule: Optional[PlannedCapsule] = None,
    ) -> Answer:
        """Check in until a server answers.

        Raises:
            Unheard: none did for a long while, and no connection came about.
        """
        checkin = self._checkin(state, detail=detail, wait_seconds=wait_seconds, capsule=capsule)
        waits = self._pace.waits()
        begun = time.monotonic()
        while True:
            started = time.monotonic()
            try:
                answer = self._client.checkin(checkin)
            except NetworkError as error:
                if error.is_answered:
                    begun = time.monotonic()
                elif time.monotonic() - begun >= self._pace.unheard_seconds:
                    raise Unheard(
                        f"no server answers for {time.monotonic() - begun:.0f} s: {error}",
                        hint="the network is set up anew",
                    ) from error
                wait = max(next(waits), error.retry_after_seconds or 0)
                self._told = ""
                self._log.tell(f"no server answers: {error}; again in {wait:.0f} s")
                time.sleep(wait)
                continue
            self._log.trace(f"{state} was heard after {time.monotonic() - started:.1f} s")
            self._take(answer)
            # A server that does not hold the request must not be asked without a pause.
            elapsed = time.monotonic() - started
            if wait_seconds and self._plan == checkin.plan:
                least = min(wait_seconds, next(waits))
                time.sleep(max(0.0, least - elapsed))
            return answer

    def report(
        self, state: str, capsule: Optional[PlannedCapsule] = None, *, detail: str = ""
    ) -> None:
        """Check in once; a server that does not answer does not hold up the boot."""
        try:
            self._take(self._client.checkin(self._checkin(state, detail=detail, capsule=capsule)))
        except NetworkError as error:
            self._log.tell(f"{state}: could not be told to the server: {error}")

    def require_trust(self) -> Trust:
        """Return the trust.json that counts.

        A server that brings one which does not follow on it is not to be believed in what it says
        besides.

        Raises:
            VerificationError: that of the last answer was refused, or the one held does not hold.
        """
        if self._trust_fault:
            raise self._trust_fault
        return self._trust.get()

    def tell_once(self, line: str) -> None:
        """Tell *line* unless it was the last one told so."""
        if line != self._told:
            self._log.tell(line)
        self._told = line

    def forget_told(self) -> None:
        """Let the next line be told, whatever it is."""
        self._told = ""

    def _checkin(
        self,
        state: str,
        *,
        detail: str = "",
        wait_seconds: int = 0,
        capsule: Optional[PlannedCapsule] = None,
    ) -> Checkin:
        report: Dict[str, Any] = {
            **machine.make_report(),
            "bootstrapProtocol": PROTOCOL,
            # An empty text takes back what was reported before.
            "trace": self._log.tail() if self._log.debug else "",
            **self._figures(),
        }
        return Checkin(
            hwaddrs=self._machine.hwaddrs,
            boot_id=self.boot_id,
            state=state,
            uuid=self._machine.uuid,
            detail=detail,
            node_key=self.node_key,
            plan=self._plan,
            wait_seconds=wait_seconds if self._plan else 0,
            capsule=capsule.digest if capsule else None,
            trust_version=self._trust.version,
            report=report,
        )

    def _take(self, answer: Answer) -> None:
        set_to = self._set_clock(answer.time)
        if set_to:
            self._log.tell(set_to)
        plan = answer.digest or plan_digest(answer.plan)
        self._log.debug = answer.plan.debug
        if plan != self._plan:
            text = render_json(plan_value(answer.plan)).decode()
            self._log.trace(f"plan {short(plan)}: {text}")
        self._plan = plan
        self.now = answer.time
        if answer.node_key and answer.node_key != self.node_key:
            self.node_key = answer.node_key
            save_identity(self._run, self.boot_id, self.node_key)
        self._take_trust(answer)

    def _take_trust(self, answer: Answer) -> None:
        self._trust_fault = None
        if not answer.trust:
            return
        try:
            if self._trust.take(answer.trust, now=answer.time):
                self._log.tell(f"trust.json: version {self._trust.version}, from the server")
        except VerificationError as error:
            self._trust_fault = error


def load_identity(run: Path) -> Tuple[str, Optional[str]]:
    """Return boot id and node key of this boot; a new boot id when there is none yet."""
    try:
        value = json.loads((run / IDENTITY).read_bytes())
        return str(value["bootId"]), value["nodeKey"]
    except (OSError, ValueError, KeyError, TypeError):
        boot_id = secrets.token_hex(16)
        save_identity(run, boot_id, None)
        return boot_id, None


def save_identity(run: Path, boot_id: str, node_key: Optional[str]) -> None:
    """Keep who this boot is, for an agent that is started again."""
    try:
        write_note(run / IDENTITY, {"bootId": boot_id, "nodeKey": node_key})
    except OSError:
        # Then the next agent is a boot of its own.
        return
