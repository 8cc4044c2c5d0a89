"""How the capsule that runs stands with trust.json: may it still, or is its verdict lost?

Nothing is done to a running system for that; it is told, and shown at the node server. Signatures
are verified once for each trust.json: what came of it is kept beside it, for the next process.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Dict, Optional

from provisiond.agent.console import Tell
from provisiond.agent.heldtrust import HeldTrust, replace_file
from provisiond.agent.notes import read_note, write_note
from vnfsbuild.digest import Digest
from vnfsbuild.dsse import VerifyEd25519
from vnfsbuild.errors import VerificationError, VnfsbuildError

FILE = "capsule.json"
"""The papers of the capsule, beside trust.json."""


class Standing:
    """The verdict on the running capsule, made anew whenever trust.json changes or expires."""

    def __init__(
        self,
        site: Path,
        capsule: Digest,
        *,
        tell: Tell,
        verify_ed25519: VerifyEd25519,
        note: Optional[Path] = None,
    ) -> None:
        """Judge *capsule* by what the directory *site* holds; *note* keeps what came of it."""
        path = site / "trust.json"
        self._site = site
        self._capsule = capsule
        self._tell = tell
        self._verify = verify_ed25519
        self._note = note
        self._held = HeldTrust(
            path.read_bytes(),
            where=str(path),
            verify_ed25519=verify_ed25519,
            keep=lambda data: replace_file(path, data),
        )
        self._kept: Dict[str, Any] = (read_note(note) if note else None) or {}

    @property
    def version(self) -> Optional[int]:
        """The version of trust.json that this node holds."""
        found = self._look()["version"]
        return None if found is None else int(found)

    def take(self, text: str, *, now: int) -> None:
        """Take over a newer trust.json of an answer; one that is no such is told, and left."""
        refused = ""
        try:
            if self._held.take(text, now=now):
                self._tell(f"trust.json: version {self._held.version}")
        except (VnfsbuildError, OSError) as error:
            refused = str(error)
            if refused != self._kept.get("refused", ""):
                self._tell(f"trust.json: not taken: {refused}")
        self._keep(refused=refused)

    def report(self, *, now: int) -> Dict[str, Any]:
        """Return the figures of it; an empty text says that nothing is wrong."""
        return {"untrusted": self._find_lost(now), "trustRefused": self._kept.get("refused", "")}

    def _find_lost(self, now: int) -> str:
        found = self._look()
        if found["fault"]:
            return self._note_lost(found["fault"])
        expired = found["expires"] <= now
        judged = [found["text"], self._papers_digest(), expired]
        if self._kept.get("judged") == judged:
            return str(self._kept["lost"])
        # When there is something to judge, and not at each check-in.
        from provisiond.agent.papers import judge, load_papers

        lost = ""
        try:
            papers = load_papers(self._site / FILE)
            if papers is not None:
                judge(papers, self._capsule, trust=self._held.get(), now=now,
                      verify_ed25519=self._verify)  # fmt: skip
        except VerificationError as error:
            lost = str(error)
        self._keep(judged=judged)
        return self._note_lost(lost)

    def _note_lost(self, lost: str) -> str:
        before = self._kept.get("lost", "")
        if lost != before:
            self._tell(f"this capsule may not run: {lost}" if lost else "this capsule may run")
        if lost != before or "lost" not in self._kept:
            self._keep(lost=lost)
        return lost

    def _look(self) -> Dict[str, Any]:
        """Return what trust.json says of itself, verified: its version, its end, or its fault."""
        text = hashlib.sha256(self._held.data).hexdigest()
        if self._kept.get("trust", {}).get("text") != text:
            found: Dict[str, Any] = {"text": text, "version": None, "expires": 0, "fault": ""}
            try:
                trust = self._held.get()
                found.update(version=trust.version, expires=trust.expires)
            except VnfsbuildError as error:  # no trust.json that holds
                found["fault"] = str(error)
            self._keep(trust=found)
        known: Dict[str, Any] = self._kept["trust"]
        return known

    def _papers_digest(self) -> str:
        try:
            return hashlib.sha256((self._site / FILE).read_bytes()).hexdigest()
        except OSError:
            return ""

    def _keep(self, **values: Any) -> None:
        if any(self._kept.get(key) != value for key, value in values.items()):
            self._kept = {**self._kept, **values}
            if self._note is not None:
                write_note(self._note, self._kept)
