"""The bootstrap's life: check in, wait or fetch, verify, jump.

Every failure is told on the consoles and to the server, and then tried again, slower each time, for
ever unless the site wants something else after so many.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any, Callable, Dict, Optional

from provisiond.agent import boot, console, machine
from provisiond.agent.client import Client, OverlayGone
from provisiond.agent.conversation import Conversation, Pace
from provisiond.agent.distrust import Distrust
from provisiond.agent.drivers import Drivers
from provisiond.agent.ed25519 import verify_ed25519
from provisiond.agent.entry import Entry, Jump, Means
from provisiond.agent.heldtrust import HeldTrust
from provisiond.agent.obtain import told_name
from provisiond.agent.rescue import Rescue, SshFiles, find_ssh_files, own_address
from provisiond.agent.site import Site, load_site
from provisiond.agent.trace import NAME as LOG
from provisiond.agent.trace import Log
from provisiond.protocol import Answer, Plan
from vnfsbuild.errors import VerificationError, VnfsbuildError

SITE = Path("/vnfs/site")
DESCRIPTION = Path("/etc/vnfs/bootstrap.json")
RUN = Path("/run/vnfs")

LOADER_ASKS = "vnfs.loader=asks"
"""On the command line: what started this bootstrap asks the server each time where to boot from."""

_NO_NETWORK = re.compile(r"^\S+ (no network yet.*)$", re.MULTILINE)


class Bootstrap:
    """One boot of one node."""

    def __init__(
        self,
        this: machine.Machine,
        site: Site,
        client: Client,
        *,
        description: Dict[str, Any],
        command_line: str,
        run: Path,
        tell: console.Tell,
        set_clock: Callable[[int], Optional[str]],
        jump: Jump,
        rescue: Rescue,
        drivers: Drivers,
        pace: Optional[Pace] = None,
    ) -> None:
        """All that touches the machine itself is passed in: nothing here does it by accident."""
        self._site = site
        self._run = run
        self._pace = pace or Pace()
        self._jump = jump
        self._log = Log(run / LOG, tell=tell)
        self._tell = self._log.tell
        self._rescue = rescue
        self._line = command_line
        self._distrust = Distrust()
        self._drivers = drivers
        trust = HeldTrust(
            site.trust, where="trust.json of site.cpio", verify_ed25519=verify_ed25519
        )
        self._talk = Conversation(
            this, client, trust, run=run, log=self._log, pace=self._pace,
            set_clock=set_clock, figures=self._figures,
        )  # fmt: skip
        self._entry = Entry(
            Means(
                machine=this, site=site, client=client, talk=self._talk, trust=trust,
                distrust=self._distrust, log=self._log, run=run, pace=self._pace,
                jump=self._jump, description=description, command_line=self._line,
            )
        )  # fmt: skip
        self._waits = self._pace.waits()
        self._failures = 0

    def run(self) -> None:
        """Do what plans say until there is a capsule to boot; return only for a pivot.

        Raises:
            Unheard: there has been no server for a while: the network is to be set up anew.
        """
        answer: Optional[Answer] = self._talk.ask("init", detail=self._find_delay())
        while answer is not None:
            answer = self._act(answer.plan)

    def _act(self, plan: Plan) -> Optional[Answer]:
        """Do what *plan* says; return the next answer, or None when the rest is for init."""
        try:
            self._entry.refuse_other_node(plan)
            self._obtain_drivers(plan)
            if plan.action != "boot":
                self._rescue.stop()
                self._talk.tell_once(f"{plan.name}: waiting: {plan.reason or 'nothing to do yet'}")
                return self._wait()
            if plan.method == "rescue":
                return self._wait(detail=self._open_rescue(plan))
            self._rescue.stop()
            if plan.method == "local":
                self._leave_for_disk(plan, "its plan says so")
                return None
            self._entry.boot(plan)
            return None
        except OverlayGone:
            # Not a failure: another plan waits for us.
            time.sleep(next(self._waits))
            return self._talk.ask("init")
        except VnfsbuildError as error:
            return self._fail(plan, error)
        except OSError as error:
            # No room for a file, mostly; the server is to hear of it, too.
            return self._fail(plan, VnfsbuildError(f"{error.filename}: {error.strerror}"))

    def _wait(self, *, detail: str = "") -> Answer:
        """Hold a request open until there is another plan, or the time is over."""
        self._start_over()
        return self._talk.ask("init", detail=detail, wait_seconds=self._pace.poll_seconds)

    def _start_over(self) -> None:
        self._waits, self._failures = self._pace.waits(), 0

    def _fail(self, plan: Plan, error: VnfsbuildError) -> Optional[Answer]:
        """Tell what failed, and what comes next: another try, or what the site wants after many."""
        self._failures += 1
        # While it waits it holds no memory.
        self._entry.clear("kexec")
        self._entry.clear("pivot")
        word = "refused" if isinstance(error, VerificationError) else "failed"
        what = told_name(plan.capsule) if plan.capsule else f"method {plan.method}"
        detail = f"{word} {what}: {console.describe(error, error.hint)}"
        tries, then = plan.on_failure.tries, plan.on_failure.then
        self._talk.forget_told()
        if tries and then != "retry" and self._failures >= tries:
            last = self._give_up(plan, detail)
            if last is None:
                return None
            detail = last
        wait = max(1, round(next(self._waits)))
        self._tell(f"{detail}; again in {wait} s")
        return self._talk.ask("failed", detail=detail, wait_seconds=wait, capsule=plan.capsule)

    def _give_up(self, plan: Plan, detail: str) -> Optional[str]:
        """Do what the site wants after many failures; return why not, when that fails too."""
        count = f"{self._failures} failures in a row"
        detail = f"{detail}; {count}, on_failure = {plan.on_failure.then}"
        self._tell(detail)
        self._talk.report("failed", plan.capsule, detail=detail)
        try:
            if plan.on_failure.then == "local":
                self._leave_for_disk(plan, count)
            else:
                self._reboot()
        except VnfsbuildError as error:
            return f"{detail}; {console.describe(error, error.hint)}"
        return None

    def _leave_for_disk(self, plan: Plan, why: str) -> None:
        """Start anew: what loads bootstraps asks the server, which says that the disk is next.

        Raises:
            VnfsbuildError: that was not what started this bootstrap: it would come here again.
        """
        if LOADER_ASKS not in self._line.split():
            raise VnfsbuildError(
                "local disk: what started this bootstrap does not ask the server what to start",
                hint="start it by provisiond's iPXE script, or put the disk first in the firmware",
            )
        self._tell(f"{plan.name}: boots from its own disk: {why}")
        self._talk.report("halted", detail=f"boots from its own disk: {why}")
        self._reboot()

    def _reboot(self) -> None:
        boot.stop_network(self._run)
        self._tell("reboot")
        self._jump.reboot()

    def _open_rescue(self, plan: Plan) -> str:
        """Open shells, and ssh for the keys of the overlay; return what to tell the server."""
        address = own_address(self._site.servers[0])
        where = f"ssh root@{address}" if address else "no address"
        told = f"rescue: a shell is on its consoles; {where}"
        overlay = self._entry.fetch_overlay(plan)
        self._rescue.start(find_ssh_files(overlay.data) if overlay else SshFiles())
        self._talk.tell_once(f"{plan.name}: {told}")
        return told

    def _obtain_drivers(self, plan: Plan) -> None:
        """Fetch the drivers that the plan gives this node; without them it goes on as it can."""
        try:
            trust = self._talk.require_trust()
        except VerificationError:
            return
        self._drivers.obtain(plan, trust=trust, now=self._talk.now, verify_ed25519=verify_ed25519)

    def _figures(self) -> Dict[str, Any]:
        return {**self._distrust.report(), **self._drivers.report()}

    def _find_delay(self) -> str:
        """Return what kept this node from the network, when it was kept."""
        found = _NO_NETWORK.findall(self._log.read())
        return f"it took {len(found) + 1} tries: {found[-1]}" if found else ""


def bootstrap() -> None:
    """Run the bootstrap's life on this machine.

    Raises:
        VnfsbuildError: it has no site, or no network interface.
    """
    site = load_site(SITE)
    this = machine.read_machine()
    if not this.hwaddrs:
        raise VnfsbuildError("no network interface was found: no driver for it here?")
    description = json.loads(DESCRIPTION.read_bytes())
    client = Client(site, node_id=this.hwaddrs[0])
    tell = console.tell_consoles
    Bootstrap(
        this,
        site,
        client,
        description=description,
        command_line=machine.read_command_line(),
        run=RUN,
        tell=tell,
        set_clock=machine.set_clock,
        jump=Jump(load=boot.load_kernel, start=boot.start_kernel, reboot=boot.reboot),
        rescue=Rescue(run=RUN, tell=tell, root=Path("/")),
        drivers=Drivers(tell=tell, run=RUN),
    ).run()
