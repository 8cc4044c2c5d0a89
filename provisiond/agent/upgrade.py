"""A node that runs goes over to another capsule: fetch, verify, drain, kexec.

:func:`upgrade` is called after each check-in for as long as the plan names such a capsule, and once
more when it does no longer. It does what can be done now and returns; how far it is stands in
``/run/vnfs/next.json``, and goes to the server with each check-in. Until the last step the node is
as it was: whatever fails, it stays so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence

from provisiond.agent import boot, drain, machine, memory
from provisiond.agent.client import Client, NetworkError
from provisiond.agent.console import Tell, describe
from provisiond.agent.curve import verify_in_python
from provisiond.agent.fetch import Fetcher, Patience
from provisiond.agent.held import Held, find_devices
from provisiond.agent.heldtrust import HeldTrust
from provisiond.agent.keeping import DIRECTORY as KEPT
from provisiond.agent.keeping import keep_kernel
from provisiond.agent.nextinitrd import append_own_files
from provisiond.agent.nextnote import load_note, remove_note, save_note
from provisiond.agent.node import Node
from provisiond.agent.notes import LEAVING, ask_checkin, load_plan, write_note
from provisiond.agent.obtain import (
    Overlay,
    hold_overlay,
    judge_planned,
    load_of,
    obtain_papers,
    told_name,
    write_combined_initrd,
    write_kernel,
)
from provisiond.agent.papers import FILE as PAPERS
from provisiond.agent.papers import Papers, load_papers, render_papers
from provisiond.agent.site import load_site
from provisiond.agent.sparing import Sparing
from provisiond.agent.supply import open_sources
from provisiond.planned import NextReport, PlannedNext
from provisiond.protocol import Plan
from vnfsbuild.digest import Digest
from vnfsbuild.errors import VerificationError, VnfsbuildError
from vnfsbuild.manifest import INITRD, KERNEL, LAYER_TYPES, Descriptor, parse_manifest
from vnfsbuild.verify import VerifiedCapsule

DIRECTORY = "next"
DRAINED = "drained"
LOADED = "loaded"
"""There once a kernel may be loaded: it is unloaded when the node stays."""
NICE = 15
LEAVE_SECONDS = 900.0
"""Services have so long to stop."""
INDEX_SHARE = 64
"""A chunk index is smaller than this part of its blobs: 48 bytes for at least 4096."""


class Withdrawn(Exception):
    """The plan does not name this capsule any more."""


def start_kernel() -> None:
    """Let systemd stop the system and start the kernel that is loaded.

    Raises:
        VnfsbuildError: it does not, or has not after a long time.
    """
    done = subprocess.run(
        ["systemctl", "kexec"], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if done.returncode:
        said = " ".join(done.stderr.decode("utf-8", "replace").split())
        raise VnfsbuildError(f"systemctl kexec: exit status {done.returncode}: {said:.400}")
    time.sleep(LEAVE_SECONDS)
    raise VnfsbuildError(f"the system has not stopped after {LEAVE_SECONDS:.0f} s")


@dataclass(frozen=True)
class Ground:
    """What is touched of the machine, and what a test takes elsewhere."""

    devices: Callable[[], List[Path]] = find_devices
    read_memory: Callable[[], Dict[str, int]] = machine.read_memory
    load_kernel: Callable[[Path, Path, str], None] = boot.load_kernel
    start_kernel: Callable[[], None] = start_kernel
    unload_kernel: Callable[[], None] = boot.unload_kernel
    drain_scripts: Path = drain.DIRECTORY
    ask_checkin: Callable[[], None] = ask_checkin
    patience: Patience = field(default_factory=Patience)


def upgrade(node: Node, plan: Plan, run: Path, tell: Tell) -> None:
    """Do what can be done now for *node* to go over to the capsule that *plan* names as its next.

    Raises:
        VnfsbuildError: it cannot even be said how far it is.
    """
    # What runs here comes first.
    os.setpriority(os.PRIO_PROCESS, 0, NICE)
    Upgrade(node, run, tell).go_on(plan)


class Upgrade:
    """The way of one node to its next capsule."""

    def __init__(
        self,
        node: Node,
        run: Path,
        tell: Tell,
        *,
        ground: Optional[Ground] = None,
        client: Optional[Client] = None,
    ) -> None:
        self._node = node
        self._run = run
        self._tell = tell
        self._ground = ground or Ground()
        self._client = client
        self._directory = run / DIRECTORY

    def go_on(self, plan: Plan) -> None:
        """Do what can be done now."""
        planned, report = plan.next, load_note(self._run)
        if planned is None or (
            report is not None
            and (report.capsule, report.attempt) != (planned.capsule.digest, planned.attempt)
        ):
            self._stay(report)
            if report is not None:
                self._ground.ask_checkin()
            report = None
        if planned is None or (report is not None and report.state == "failed"):
            return
        try:
            self._advance(plan, planned, report)
        except Withdrawn:
            self._tell(f"{told_name(planned.capsule)}: withdrawn by the server")
            self._ground.ask_checkin()
        except (VnfsbuildError, OSError) as error:
            hint = error.hint if isinstance(error, VnfsbuildError) else None
            word = "refused: " if isinstance(error, VerificationError) else ""
            detail = f"{word}{describe(error, hint)}"
            self._tell(f"{told_name(planned.capsule)}: {detail}; this node stays as it is")
            self._undo(planned)
            self._say(planned, "failed", detail)

    def _advance(self, plan: Plan, planned: PlannedNext, report: Optional[NextReport]) -> None:
        if report is None or report.state == "fetching":
            self._say(planned, "fetching")
            detail = self._fetch(plan, planned)
            self._say(planned, "fetched", detail)
            self._tell(f"{told_name(planned.capsule)}: fetched and verified: {detail}")
            # With the next check-in it is known whether all others have it, too.
            return
        if not planned.go:
            return
        if planned.when == "idle" and not self._drain(planned):
            return
        self._leave(plan, planned)

    def _fetch(self, plan: Plan, planned: PlannedNext) -> str:
        """Fetch and verify all that is started later; return what came, in words."""
        self._clear()
        boot_plan = replace(
            plan, blobs=planned.blobs, near=planned.near, transfer=planned.transfer, nfs=planned.nfs
        )
        ground = self._ground
        with open_sources(boot_plan, run=self._run, patience=ground.patience) as sources:
            fetcher = Fetcher(
                sources, tell=self._tell, patience=ground.patience,
                advance=self._watch(planned), chunks=planned.capsule.chunks,
            )  # fmt: skip
            papers = obtain_papers(planned.capsule, fetcher)
            capsule = self._judge(planned, papers)
            self._refuse_too_little_memory(planned, capsule)
            held = self._hold(planned, fetcher)
            try:
                index = self._fetch_index(
                    fetcher, planned.capsule.chunks, capsule.manifest.payloads
                )
                sparing = Sparing(
                    fetcher, held, index, tell=self._tell, advance=self._watch(planned)
                )
                write_kernel(self._directory / "kernel", capsule, sparing)
                write_combined_initrd(
                    self._directory / "initrd", capsule, sparing, overlay=None, files=[]
                )
            finally:
                held.close()
        (self._directory / PAPERS).write_bytes(render_papers(papers))
        tally = sparing.tally
        return f"{tally.fetched_bytes} bytes came, {tally.held_bytes} were here"

    def _hold(self, planned: PlannedNext, fetcher: Fetcher) -> Held:
        """Return what this node has of the capsule that it runs."""
        try:
            papers = load_papers(self._run / "site" / PAPERS)
            if papers is None:
                return Held((), None, ())
            manifest = parse_manifest(papers.manifest)
        except VnfsbuildError as error:
            self._tell(str(error))
            return Held((), None, ())
        blobs = [
            blob for blob in manifest.payloads if blob.media_type in (KERNEL, INITRD, *LAYER_TYPES)
        ]
        index = self._fetch_index(fetcher, planned.running_chunks, blobs)
        kept = sorted((self._run / KEPT).glob("*"))
        return Held(blobs, index, [*kept, *self._ground.devices()])

    def _fetch_index(
        self, fetcher: Fetcher, digest: Optional[Digest], blobs: Sequence[Descriptor]
    ) -> Optional[bytes]:
        """Return a chunk index; none, when there is none: then more is fetched."""
        if digest is None:
            return None
        limit_bytes = 65536 + sum(blob.size_bytes for blob in blobs) // INDEX_SHARE
        try:
            return fetcher.fetch_small(digest, limit_bytes=limit_bytes, where="chunk index")
        except VnfsbuildError as error:
            self._tell(f"{error}; more is fetched")
            return None

    def _drain(self, planned: PlannedNext) -> bool:
        """Ask the site's scripts; tell whether nothing runs here any more."""
        name = told_name(planned.capsule)
        (self._directory / DRAINED).touch()
        verdict = drain.drain(self._ground.drain_scripts, capsule=name)
        if verdict.failure:
            raise VnfsbuildError(verdict.failure)
        if not verdict.is_idle:
            self._say(planned, "draining", verdict.detail)
        return verdict.is_idle

    def _leave(self, plan: Plan, planned: PlannedNext) -> None:
        """Start the capsule. Does not return when all goes well."""
        directory, name = self._directory, told_name(planned.capsule)
        # Between two looks at the scripts the server may have changed its mind.
        self._watch(planned)(0)
        papers = load_papers(directory / PAPERS)
        if papers is None:
            raise VnfsbuildError(f"{directory / PAPERS}: is gone")
        capsule = self._judge(planned, papers)
        try:
            overlay = self._fetch_overlay(planned)
        except NetworkError as error:
            # Nothing has begun. After the next check-in it is known which overlay it is by then.
            self._say(planned, "draining", str(error))
            return
        node = replace(
            self._node,
            capsule=planned.capsule.digest,
            checkin_seconds=plan.checkin_seconds,
            name=plan.name,
            overlay=planned.overlay.digest if planned.overlay else None,
        )
        append_own_files(
            directory / "initrd", node, papers=papers, site=self._run / "site", overlay=overlay
        )
        load = load_of(capsule, overlay)
        figures = memory.read_figures(self._ground.read_memory())
        keep_kernel(
            directory / "initrd", directory / "kernel", initrd_bytes=load.initrd_bytes,
            memory=figures,
        )  # fmt: skip
        words = memory.add_arguments(load, figures, planned.kernel_arguments)
        line = boot.make_command_line(capsule.config.kernel.arguments, words)
        self._tell(f"{name}: loading the kernel: {line}")
        (directory / LOADED).touch()
        self._ground.load_kernel(directory / "kernel", directory / "initrd", line)
        self._say(planned, "leaving", quiet=True)
        leaving = self._run / LEAVING
        write_note(
            leaving,
            {"state": "booting", "detail": f"{name}, from {self._node.capsule[7:19]} by kexec",
             "capsule": planned.capsule.digest},
        )  # fmt: skip
        self._ground.ask_checkin()
        try:
            self._ground.start_kernel()
        except BaseException:
            leaving.unlink(missing_ok=True)
            raise

    def _fetch_overlay(self, planned: PlannedNext) -> Optional[Overlay]:
        if planned.overlay is None:
            return None
        node = self._node
        client = self._client or Client(load_site(self._run / "site"), node_id=node.node_id)
        chunks = client.overlay(
            planned.overlay, node_id=node.node_id, boot_id=node.boot_id, node_key=node.node_key
        )
        return hold_overlay(planned.overlay, chunks)

    def _judge(self, planned: PlannedNext, papers: Papers) -> VerifiedCapsule:
        """Return the capsule when the trust.json that is held now says that it may run.

        Raises:
            VerificationError: it may not.
        """
        path = self._run / "site" / "trust.json"
        held = HeldTrust(path.read_bytes(), where=str(path), verify_ed25519=verify_in_python)
        return judge_planned(
            planned.capsule, papers, trust=held.get(), now=int(time.time()),
            verify_ed25519=verify_in_python,
        )  # fmt: skip

    def _refuse_too_little_memory(self, planned: PlannedNext, capsule: VerifiedCapsule) -> None:
        memory.refuse_too_little(
            load_of(capsule, None),
            memory.read_figures(self._ground.read_memory()),
            method="kexec",
            name=told_name(planned.capsule),
        )

    def _watch(self, planned: PlannedNext) -> Callable[[int], None]:
        """Return what is called while bytes come: it raises once the server wants no more."""
        looked = 0.0

        def advance(_count: int) -> None:
            nonlocal looked
            if time.monotonic() - looked < 1.0:
                return
            looked = time.monotonic()
            plan = load_plan(self._run)
            now = plan.next if plan else None
            if now is None or (now.capsule.digest, now.attempt) != (
                planned.capsule.digest, planned.attempt
            ):  # fmt: skip
                raise Withdrawn

        return advance

    def _say(
        self, planned: PlannedNext, state: str, detail: str = "", *, quiet: bool = False
    ) -> None:
        report = NextReport(planned.capsule.digest, state, detail, planned.attempt)
        if report != load_note(self._run):
            save_note(self._run, report)
            if not quiet:
                self._ground.ask_checkin()

    def _stay(self, report: Optional[NextReport]) -> None:
        """Give back what was fetched, and let jobs come again."""
        if (self._directory / DRAINED).exists():
            name = report.capsule if report else ""
            fault = drain.resume(self._ground.drain_scripts, capsule=name)
            if fault:
                self._tell(fault)
        if (self._directory / LOADED).exists():
            # Else "systemctl reboot" would start it: systemd takes what is loaded.
            try:
                self._ground.unload_kernel()
            except VnfsbuildError as error:
                self._tell(str(error))
        self._clear()
        (self._run / LEAVING).unlink(missing_ok=True)
        remove_note(self._run)

    def _undo(self, planned: PlannedNext) -> None:
        self._stay(NextReport(planned.capsule.digest, "failed"))

    def _clear(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir(mode=0o700, parents=True)
