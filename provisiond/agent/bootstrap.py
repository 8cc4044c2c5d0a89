"""The bootstrap's life: check in, wait or fetch, verify, jump. It never gives up.

Every failure is told on the consoles and to the server, and then tried again, slower each time.
"""

from __future__ import annotations

import json
import random
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional

from provisiond.agent import boot, console, machine
from provisiond.agent.backoff import delays
from provisiond.agent.client import Client, NetworkError, OverlayGone
from provisiond.agent.ed25519 import verify_ed25519
from provisiond.agent.fetch import Fetcher, Patience
from provisiond.agent.heldtrust import HeldTrust
from provisiond.agent.node import Node, render_node
from provisiond.agent.obtain import (
    MODE_PUBLIC,
    MODE_SECRET,
    Overlay,
    SmallFile,
    hold_overlay,
    judge_planned,
    obtain_papers,
    payload_bytes,
    told_name,
    write_capsule_directory,
    write_combined_initrd,
    write_kernel,
)
from provisiond.agent.papers import FILE as PAPERS
from provisiond.agent.papers import Papers, render_papers
from provisiond.agent.site import FILES, Site, load_site
from provisiond.protocol import PROTOCOL, Answer, Checkin, Plan, PlannedCapsule, plan_digest
from vnfsbuild.digest import Digest
from vnfsbuild.errors import VerificationError, VnfsbuildError
from vnfsbuild.manifest import KERNEL
from vnfsbuild.verify import VerifiedCapsule

SITE = Path("/vnfs/site")
DESCRIPTION = Path("/etc/vnfs/bootstrap.json")
RUN = Path("/run/vnfs")


@dataclass(frozen=True)
class Pace:
    """How long to wait for what."""

    poll_seconds: int = 240
    """A long poll: the server answers when the plan changes, or after so long."""
    least_delay_seconds: float = 2.0
    most_delay_seconds: float = 60.0
    progress_seconds: float = 15.0
    """How often the server hears how far a download is."""
    patience: Patience = field(default_factory=Patience)


@dataclass(frozen=True)
class Jump:
    """The last step, which a test takes elsewhere."""

    load: Callable[[Path, Path, str], None] = boot.load_kernel
    start: Callable[[], None] = boot.start_kernel


class Bootstrap:
    """One boot of one node."""

    def __init__(
        self,
        this: machine.Machine,
        site: Site,
        client: Client,
        *,
        description: Dict[str, Any],
        run: Path = RUN,
        tell: console.Tell = console.tell_consoles,
        set_clock: Callable[[int], Optional[str]] = machine.set_clock,
        pace: Optional[Pace] = None,
        jump: Optional[Jump] = None,
    ) -> None:
        self._machine = this
        self._site = site
        self._client = client
        self._description = description
        self._run = run
        self._tell = tell
        self._set_clock = set_clock
        self._pace = pace or Pace()
        self._jump = jump or Jump()
        self._boot_id = secrets.token_hex(16)
        self._node_key: Optional[str] = None
        self._plan: Optional[Digest] = None
        self._trust = HeldTrust(
            site.trust, where="trust.json of site.cpio", verify_ed25519=verify_ed25519
        )
        self._trust_fault: Optional[VerificationError] = None
        self._now = 0
        self._told = ""

    def run(self) -> None:
        """Check in until there is a capsule to boot; return only for a pivot."""
        waits = self._waits()
        answer = self._ask("init")
        while True:
            plan = answer.plan
            if plan.action != "boot" or plan.capsule is None:
                self._tell_once(f"{plan.name}: waiting: {plan.reason or 'nothing to do yet'}")
                waits = self._waits()
                answer = self._ask("init", wait_seconds=self._pace.poll_seconds)
                continue
            try:
                self._boot(answer, plan.capsule)
                return
            except OverlayGone:
                # Not a failure: another plan waits for us.
                time.sleep(next(waits))
                answer = self._ask("init")
                continue
            except VnfsbuildError as error:
                word = "refused" if isinstance(error, VerificationError) else "failed"
                detail = f"{word} {told_name(plan.capsule)}: {console.describe(error, error.hint)}"
                # While it waits it holds no memory.
                self._clear("kexec")
                self._clear("pivot")
            wait = max(1, round(next(waits)))
            self._told = ""
            self._tell(f"{detail}; again in {wait} s")
            answer = self._ask("failed", detail=detail, wait_seconds=wait, capsule=plan.capsule)

    def _boot(self, answer: Answer, planned: PlannedCapsule) -> None:
        plan = answer.plan
        if plan.node_id not in self._machine.hwaddrs:
            raise VerificationError(f"the plan is for node {plan.node_id}, this node is another")
        if plan.method not in ("kexec", "pivot"):
            raise VnfsbuildError(f"method {plan.method}: this bootstrap knows kexec and pivot")
        self._require_trust()
        overlay = self._fetch_overlay(plan)
        self._tell(f"{plan.name}: fetching {told_name(planned)}")
        self._report("fetching", planned)
        fetcher = Fetcher(plan.blobs, tell=self._tell, patience=self._pace.patience)
        papers = obtain_papers(planned, fetcher)
        capsule = self._judge(planned, papers)
        signers = ", ".join(keyid[:12] for keyid in capsule.signers)
        self._tell(f"{told_name(planned)}: signed by {signers}")
        if plan.method == "pivot":
            self._pivot(plan, planned, capsule, papers, overlay)
        else:
            self._kexec(plan, planned, capsule, papers, overlay)

    def _kexec(
        self,
        plan: Plan,
        planned: PlannedCapsule,
        capsule: VerifiedCapsule,
        papers: Papers,
        overlay: Optional[Overlay],
    ) -> None:
        total = payload_bytes(capsule, with_kernel=True)
        boot.refuse_too_little_memory(machine.read_memory(), payload_bytes=total)
        line = boot.make_command_line(capsule.config.kernel.arguments, plan.kernel_arguments)
        directory = self._clear("kexec")
        kernel, initrd = directory / "kernel", directory / "initrd"
        fetcher = self._payloads(plan, planned, total)
        write_kernel(kernel, capsule, fetcher)
        write_combined_initrd(
            initrd,
            capsule,
            fetcher,
            overlay=overlay,
            files=self._files(plan, planned, papers),
        )
        self._report("booting", planned)
        # An answer since then may have brought a trust.json that says no.
        self._judge(planned, papers)
        self._tell(f"{told_name(planned)}: loading the kernel: {line}")
        self._jump.load(kernel, initrd, line)
        boot.stop_network(self._run)
        self._tell(f"{told_name(planned)}: starting the kernel {capsule.config.kernel.version}")
        self._jump.start()

    def _pivot(
        self,
        plan: Plan,
        planned: PlannedCapsule,
        capsule: VerifiedCapsule,
        papers: Papers,
        overlay: Optional[Overlay],
    ) -> None:
        kernel = capsule.manifest.payload(KERNEL).digest
        boot.refuse_other_kernel(kernel, self._description.get("kernelDigest"))
        directory = self._clear("pivot")
        fetcher = self._payloads(plan, planned, payload_bytes(capsule, with_kernel=False))
        write_capsule_directory(
            directory,
            capsule,
            fetcher,
            overlay=overlay,
            files=self._files(plan, planned, papers),
        )
        self._report("booting", planned)
        self._judge(planned, papers)
        boot.stop_network(self._run)
        self._tell(f"{told_name(planned)}: changing root, the kernel stays")
        # Process 1 alone can change the root: it finds this when we end.
        (self._run / "pivot.ready").write_text(f"{directory}\n", encoding="utf-8")

    def _require_trust(self) -> None:
        """Raise when the trust.json of the last answer was refused, or the one held does not hold.

        A server that brings such a thing is not to be believed in what it says besides.

        Raises:
            VerificationError: with the reason.
        """
        if self._trust_fault:
            raise self._trust_fault
        self._trust.get()

    def _judge(self, planned: PlannedCapsule, papers: Papers) -> VerifiedCapsule:
        """Return *planned* when the trust.json that is held now says that it may run.

        Raises:
            VerificationError: it may not.
        """
        self._require_trust()
        return judge_planned(
            planned, papers, trust=self._trust.get(), now=self._now, verify_ed25519=verify_ed25519
        )

    def _payloads(self, plan: Plan, planned: PlannedCapsule, total_bytes: int) -> Fetcher:
        shown = console.Progress(told_name(planned), total_bytes, self._tell)
        last = time.monotonic()

        def advance(count: int) -> None:
            nonlocal last
            shown.advance(count)
            if time.monotonic() - last >= self._pace.progress_seconds:
                self._report("fetching", planned, detail=shown.line())
                last = time.monotonic()

        return Fetcher(plan.blobs, tell=self._tell, patience=self._pace.patience, advance=advance)

    def _fetch_overlay(self, plan: Plan) -> Optional[Overlay]:
        """Return the overlay of *plan* before all else: it may change with every other node."""
        if plan.overlay is None:
            return None
        chunks = self._client.overlay(
            plan.overlay, node_id=plan.node_id, boot_id=self._boot_id, node_key=self._node_key
        )
        return hold_overlay(plan.overlay, chunks)

    def _files(self, plan: Plan, planned: PlannedCapsule, papers: Papers) -> List[SmallFile]:
        node = Node(
            node_id=plan.node_id,
            name=plan.name,
            boot_id=self._boot_id,
            node_key=self._node_key,
            hwaddrs=self._machine.hwaddrs,
            uuid=self._machine.uuid,
            capsule=planned.digest,
            checkin_seconds=plan.checkin_seconds,
            overlay=plan.overlay.digest if plan.overlay else None,
        )
        directory = self._site.ca_file.parent
        site = {name: (directory / name).read_bytes() for name in FILES}
        site["trust.json"] = self._trust.data
        site[PAPERS] = render_papers(papers)
        return [
            SmallFile("node.json", MODE_SECRET, render_node(node)),
            *(SmallFile(f"site/{name}", MODE_PUBLIC, data) for name, data in site.items()),
        ]

    def _clear(self, name: str) -> Path:
        """Return the directory *name* below /run, empty: what another try left is gone."""
        directory = self._run / name
        for path in sorted(directory.rglob("*"), reverse=True):
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink()
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def _ask(
        self,
        state: str,
        *,
        detail: str = "",
        wait_seconds: int = 0,
        capsule: Optional[PlannedCapsule] = None,
    ) -> Answer:
        """Check in until a server answers, however long that takes."""
        checkin = self._checkin(state, detail=detail, wait_seconds=wait_seconds, capsule=capsule)
        waits = self._waits()
        while True:
            started = time.monotonic()
            try:
                answer = self._client.checkin(checkin)
            except NetworkError as error:
                wait = max(next(waits), error.retry_after_seconds or 0)
                self._told = ""
                self._tell(f"no server answers: {error}; again in {wait:.0f} s")
                time.sleep(wait)
                continue
            self._take(answer)
            # A server that does not hold the request must not be asked without a pause.
            elapsed = time.monotonic() - started
            if wait_seconds and plan_digest(answer.plan) == checkin.plan:
                least = min(wait_seconds, next(waits))
                time.sleep(max(0.0, least - elapsed))
            return answer

    def _report(self, state: str, capsule: PlannedCapsule, *, detail: str = "") -> None:
        """Check in once; a server that does not answer does not hold up the boot."""
        try:
            self._take(self._client.checkin(self._checkin(state, detail=detail, capsule=capsule)))
        except NetworkError as error:
            self._tell(f"{state}: could not be told to the server: {error}")

    def _checkin(
        self,
        state: str,
        *,
        detail: str = "",
        wait_seconds: int = 0,
        capsule: Optional[PlannedCapsule] = None,
    ) -> Checkin:
        return Checkin(
            hwaddrs=self._machine.hwaddrs,
            boot_id=self._boot_id,
            state=state,
            uuid=self._machine.uuid,
            detail=detail,
            node_key=self._node_key,
            plan=self._plan,
            wait_seconds=wait_seconds if self._plan else 0,
            capsule=capsule.digest if capsule else None,
            trust_version=self._trust.version,
            report={**machine.make_report(), "bootstrapProtocol": PROTOCOL},
        )

    def _take(self, answer: Answer) -> None:
        set_to = self._set_clock(answer.time)
        if set_to:
            self._tell(set_to)
        self._node_key = answer.node_key or self._node_key
        self._plan = plan_digest(answer.plan)
        self._now = answer.time
        self._take_trust(answer)

    def _take_trust(self, answer: Answer) -> None:
        self._trust_fault = None
        if not answer.trust:
            return
        try:
            if self._trust.take(answer.trust, now=answer.time):
                self._tell(f"trust.json: version {self._trust.version}, from the server")
        except VerificationError as error:
            self._trust_fault = error

    def _tell_once(self, line: str) -> None:
        if line != self._told:
            self._tell(line)
        self._told = line

    def _waits(self) -> Iterator[float]:
        return delays(
            least_seconds=self._pace.least_delay_seconds,
            most_seconds=self._pace.most_delay_seconds,
            random_source=random.SystemRandom(),
        )


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
    Bootstrap(this, site, Client(site), description=description).run()
