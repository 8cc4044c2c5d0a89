"""One try to get into a capsule: fetch, verify, and by kexec or pivot into it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence

from provisiond.agent import boot, console, machine
from provisiond.agent.client import Client
from provisiond.agent.conversation import Conversation, Pace
from provisiond.agent.distrust import Distrust
from provisiond.agent.ed25519 import verify_ed25519
from provisiond.agent.fetch import Fetcher, Source
from provisiond.agent.heldtrust import HeldTrust
from provisiond.agent.keeping import keep_kernel
from provisiond.agent.memory import add_arguments, choose_method, read_figures
from provisiond.agent.meter import Meter
from provisiond.agent.methods import Resolved, resolve_method
from provisiond.agent.node import Node, render_node
from provisiond.agent.obtain import (
    MODE_PUBLIC,
    MODE_SECRET,
    Overlay,
    SmallFile,
    hold_overlay,
    judge_planned,
    load_of,
    obtain_papers,
    payload_bytes,
    told_name,
    write_capsule_directory,
    write_combined_initrd,
    write_kernel,
)
from provisiond.agent.papers import FILE as PAPERS
from provisiond.agent.papers import Papers, render_papers
from provisiond.agent.site import FILES, Site
from provisiond.agent.supply import open_sources
from provisiond.agent.trace import Log
from provisiond.protocol import Plan, PlannedCapsule
from vnfsbuild.errors import VerificationError, VnfsbuildError
from vnfsbuild.manifest import INITRD, KERNEL
from vnfsbuild.verify import VerifiedCapsule

WORDS = "words"
"""The kernel arguments of a capsule that is entered by pivot; its init reads them there."""

BOOTSTRAP_LOG = "bootstrap.log"
LOG_BYTES = 64 * 1024


@dataclass(frozen=True)
class Jump:
    """The last steps, which a test takes elsewhere."""

    load: Callable[[Path, Path, str], None]
    start: Callable[[], None]
    reboot: Callable[[], None]


@dataclass(frozen=True)
class Boot:
    """What one try to boot a capsule has in hand, once the capsule was judged."""

    plan: Plan
    planned: PlannedCapsule
    capsule: VerifiedCapsule
    papers: Papers
    overlay: Optional[Overlay]
    sources: Sequence[Source]


@dataclass(frozen=True)
class Means:
    """What all tries of a boot share."""

    machine: machine.Machine
    site: Site
    client: Client
    talk: Conversation
    trust: HeldTrust
    distrust: Distrust
    log: Log
    run: Path
    pace: Pace
    jump: Jump
    description: Dict[str, Any]
    """Of the bootstrap that runs."""
    command_line: str
    """Of the kernel that runs."""


class Entry:
    """Into capsules, as plans say."""

    def __init__(self, means: Means) -> None:
        self._means = means

    def boot(self, plan: Plan) -> None:
        planned = plan.capsule
        if planned is None:
            raise VnfsbuildError(f"the plan says {plan.method} and names no capsule")
        self._means.talk.require_trust()
        overlay = self.fetch_overlay(plan)
        self._means.log.tell(f"{plan.name}: fetching {told_name(planned)}")
        self._means.talk.report("fetching", planned)
        with open_sources(plan, run=self._means.run, patience=self._means.pace.patience) as sources:
            self._means.log.trace(f"sources: {', '.join(source.base for source in sources)}")
            papers = obtain_papers(planned, self._fetcher(sources, planned))
            capsule = self._judge(planned, papers)
            signers = ", ".join(keyid[:12] for keyid in capsule.signers)
            self._means.log.tell(f"{told_name(planned)}: signed by {signers}")
            this = Boot(plan, planned, capsule, papers, overlay, sources)
            if self._choose_method(this) == "pivot":
                self._pivot(this)
            else:
                self._kexec(this)

    def refuse_other_node(self, plan: Plan) -> None:
        """Return when *plan* is for this node.

        Raises:
            VerificationError: it is not.
        """
        if plan.node_id not in self._means.machine.hwaddrs:
            raise VerificationError(f"the plan is for node {plan.node_id}, this node is another")

    def _choose_method(self, this: Boot) -> str:
        """Return kexec or pivot: what the plan says or leaves to us, and what memory allows."""
        wanted = (*this.capsule.config.kernel.arguments, *this.plan.kernel_arguments)
        resolved: Resolved = resolve_method(
            this.plan.method,
            kernel=this.capsule.manifest.payload(KERNEL).digest,
            running=self._means.description.get("kernelDigest"),
            wanted=wanted,
            command_line=self._means.command_line,
        )
        memory = read_figures(machine.read_memory())
        self._means.log.trace(f"method {this.plan.method} is {resolved}; {memory}")
        fit = choose_method(
            load_of(this.capsule, this.overlay),
            memory,
            method=resolved.method,
            can_pivot=resolved.can_pivot,
            name=told_name(this.planned),
        )
        if fit.note:
            self._means.log.tell(fit.note)
        elif resolved.why:
            self._means.log.tell(f"{told_name(this.planned)}: {fit.method}: {resolved.why}")
        return fit.method

    def _kexec(self, this: Boot) -> None:
        means, planned, capsule = self._means, this.planned, this.capsule
        words = add_arguments(
            load_of(capsule, this.overlay),
            read_figures(machine.read_memory()),
            (*capsule.config.kernel.arguments, *this.plan.kernel_arguments),
        )
        line = boot.make_command_line(words, ())
        directory = self.clear("kexec")
        kernel, initrd = directory / "kernel", directory / "initrd"
        with Meter() as meter:
            fetcher = self._payloads(this, payload_bytes(capsule, with_kernel=True))
            write_kernel(kernel, capsule, fetcher)
            log = means.log.read().encode()[-LOG_BYTES:]
            files = [*self._files(this), SmallFile(BOOTSTRAP_LOG, MODE_SECRET, log)]
            write_combined_initrd(initrd, capsule, fetcher, overlay=this.overlay, files=files)
            keep_kernel(
                initrd, kernel, initrd_bytes=capsule.manifest.payload(INITRD).size_bytes,
                memory=read_figures(machine.read_memory()),
            )  # fmt: skip
            self._finish(this)
            means.log.tell(f"{told_name(planned)}: loading the kernel: {line}")
            means.jump.load(kernel, initrd, line)
        means.log.tell(meter.line())
        means.log.tell(f"{told_name(planned)}: starting the kernel {capsule.config.kernel.version}")
        boot.stop_network(means.run)
        means.jump.start()

    def _pivot(self, this: Boot) -> None:
        means, planned, capsule = self._means, this.planned, this.capsule
        wanted = (*capsule.config.kernel.arguments, *this.plan.kernel_arguments)
        words = boot.make_command_line(wanted, ())
        directory = self.clear("pivot")
        with Meter() as meter:
            fetcher = self._payloads(this, payload_bytes(capsule, with_kernel=False))
            files = [*self._files(this), SmallFile(WORDS, MODE_PUBLIC, f"{words}\n".encode())]
            write_capsule_directory(directory, capsule, fetcher, overlay=this.overlay, files=files)
            self._finish(this)
        means.log.tell(meter.line())
        boot.stop_network(means.run)
        means.log.tell(f"{told_name(planned)}: changing root, the kernel stays")
        # Process 1 alone can change the root: it finds this when we end.
        (means.run / "pivot.ready").write_text(f"{directory}\n", encoding="utf-8")

    def _finish(self, this: Boot) -> None:
        """Say that all is here, and ask a last time whether it may run.

        An answer since the first time may have brought a trust.json that says no.
        """
        for source in this.sources:
            source.close()
        self._means.talk.report("booting", this.planned)
        self._judge(this.planned, this.papers)

    def _judge(self, planned: PlannedCapsule, papers: Papers) -> VerifiedCapsule:
        """Return *planned* when the trust.json that is held now says that it may run.

        Raises:
            VerificationError: it may not.
        """
        trust = self._means.talk.require_trust()
        return judge_planned(
            planned, papers, trust=trust, now=self._means.talk.now, verify_ed25519=verify_ed25519
        )

    def _fetcher(
        self,
        sources: Sequence[Source],
        planned: PlannedCapsule,
        advance: Callable[[int], None] = lambda count: None,
    ) -> Fetcher:
        means = self._means
        return Fetcher(
            sources,
            tell=means.log.tell,
            patience=means.pace.patience,
            distrust=means.distrust,
            chunks=planned.chunks,
            advance=advance,
        )

    def _payloads(self, this: Boot, total_bytes: int) -> Fetcher:
        planned = this.planned
        shown = console.Progress(told_name(planned), total_bytes, self._means.log.tell)
        last = time.monotonic()

        def advance(count: int) -> None:
            nonlocal last
            shown.advance(count)
            if time.monotonic() - last >= self._means.pace.progress_seconds:
                self._means.talk.report("fetching", planned, detail=shown.line())
                last = time.monotonic()

        return self._fetcher(this.sources, planned, advance)

    def fetch_overlay(self, plan: Plan) -> Optional[Overlay]:
        """Return the overlay of *plan* before all else: it may change with every other node."""
        if plan.overlay is None:
            return None
        chunks: Iterator[bytes] = self._means.client.overlay(
            plan.overlay,
            node_id=plan.node_id,
            boot_id=self._means.talk.boot_id,
            node_key=self._means.talk.node_key,
        )
        return hold_overlay(plan.overlay, chunks)

    def _files(self, this: Boot) -> List[SmallFile]:
        means, plan = self._means, this.plan
        node = Node(
            node_id=plan.node_id,
            name=plan.name,
            boot_id=means.talk.boot_id,
            node_key=means.talk.node_key,
            hwaddrs=means.machine.hwaddrs,
            uuid=means.machine.uuid,
            capsule=this.planned.digest,
            checkin_seconds=plan.checkin_seconds,
            overlay=plan.overlay.digest if plan.overlay else None,
        )
        directory = means.site.ca_file.parent
        site = {name: (directory / name).read_bytes() for name in FILES}
        site["trust.json"] = means.trust.data
        site[PAPERS] = render_papers(this.papers)
        return [
            SmallFile("node.json", MODE_SECRET, render_node(node)),
            *(SmallFile(f"site/{name}", MODE_PUBLIC, data) for name, data in site.items()),
        ]

    def clear(self, name: str) -> Path:
        """Return the directory *name* below /run, empty: what another try left is gone."""
        directory = self._means.run / name
        for path in sorted(directory.rglob("*"), reverse=True):
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink()
        directory.mkdir(parents=True, exist_ok=True)
        return directory
