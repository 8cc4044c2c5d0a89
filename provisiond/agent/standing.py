"""How the capsule that runs stands with trust.json: may it still, or is its verdict lost?

Nothing is done to a running system for that; it is told, and shown at the node server.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Optional, Tuple

from provisiond.agent.console import Tell
from provisiond.agent.heldtrust import HeldTrust, replace_file
from provisiond.agent.papers import FILE, Papers, judge, load_papers
from vnfsbuild.digest import Digest
from vnfsbuild.dsse import VerifyEd25519
from vnfsbuild.errors import VerificationError, VnfsbuildError


class Standing:
    """The verdict on the running capsule, made anew whenever trust.json changes or expires."""

    def __init__(
        self, site: Path, capsule: Digest, *, tell: Tell, verify_ed25519: VerifyEd25519
    ) -> None:
        """Judge *capsule* by what the directory *site* holds."""
        path = site / "trust.json"
        self._capsule = capsule
        self._tell = tell
        self._verify = verify_ed25519
        self._held = HeldTrust(
            path.read_bytes(),
            where=str(path),
            verify_ed25519=verify_ed25519,
            keep=lambda data: replace_file(path, data),
        )
        self._papers: Optional[Papers] = None
        self._broken = ""
        try:
            self._papers = load_papers(site / FILE)
        except VerificationError as error:
            self._broken = str(error)
        self._refused = ""
        self._judged: Tuple[Optional[int], bool] = (None, False)
        self._lost = ""

    @property
    def version(self) -> Optional[int]:
        """The version of trust.json that this node holds."""
        return self._held.version

    def take(self, text: str, *, now: int) -> None:
        """Take over a newer trust.json of an answer; one that is no such is told, and left."""
        try:
            if self._held.take(text, now=now):
                self._tell(f"trust.json: version {self._held.version}")
            self._refused = ""
        except (VnfsbuildError, OSError) as error:
            if str(error) != self._refused:
                self._tell(f"trust.json: not taken: {error}")
            self._refused = str(error)

    def report(self, *, now: int) -> Dict[str, Any]:
        """Return the figures of it; an empty text says that nothing is wrong."""
        return {"untrusted": self._find_lost(now), "trustRefused": self._refused}

    def _find_lost(self, now: int) -> str:
        try:
            trust = self._held.get()
            state = (trust.version, trust.expires <= now)
            if self._papers is None or state == self._judged:
                return self._lost or self._broken
            lost = ""
            try:
                judge(
                    self._papers, self._capsule, trust=trust, now=now, verify_ed25519=self._verify
                )
            except VerificationError as error:
                lost = str(error)
            self._judged = state
        except VnfsbuildError as error:  # no such openssl, or no trust.json that holds
            lost = str(error)
        if lost != self._lost:
            self._tell(f"this capsule may not run: {lost}" if lost else "this capsule may run")
        self._lost = lost
        return lost
