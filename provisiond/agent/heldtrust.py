"""The trust.json that a node goes by: the one it was booted with, until a server brings a newer.

What was held vouches for what comes: an older one is never taken, nor another of its version.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Optional

from vnfsbuild.dsse import VerifyEd25519
from vnfsbuild.errors import VnfsbuildError

if TYPE_CHECKING:
    from vnfsbuild.trust import Trust


class HeldTrust:
    """trust.json, as text and as what it says."""

    def __init__(
        self,
        data: bytes,
        *,
        where: str,
        verify_ed25519: VerifyEd25519,
        keep: Callable[[bytes], None] = lambda data: None,
    ) -> None:
        """Hold *data*, unverified so far; *keep* is given each text that takes its place."""
        self._data = data
        self._where = where
        self._verify = verify_ed25519
        self._keep = keep
        self._trust: Optional[Trust] = None

    @property
    def data(self) -> bytes:
        """The text that is held."""
        return self._data

    @property
    def version(self) -> Optional[int]:
        """The version that is held; none when it does not hold, or nothing here can tell."""
        try:
            return self.get().version
        except VnfsbuildError:
            return None

    def get(self) -> Trust:
        """Return what is held, signed as it must be. Whether it has expired is for the verdict.

        Raises:
            VerificationError: it is not signed by its root keys.
        """
        if self._trust is None:
            # Most check-ins find it verified by one before them, and do without this.
            from vnfsbuild.trust import verify_trust

            # Time is left out: the clock may not be right yet, and one that has expired still
            # says whose signature makes a newer one good.
            self._trust = verify_trust(
                self._data, pinned=None, now=0, verify_ed25519=self._verify, where=self._where
            )
        return self._trust

    def take(self, text: str, *, now: int) -> bool:
        """Hold from now on what an answer brought in base64; tell whether that is a change.

        Raises:
            VerificationError: it is older, expired, of this version with other content, or not
                signed by the root keys of the one held. That one stays.
        """
        from provisiond.agent.obtain import newer_trust

        held = self.get()
        trust, data = newer_trust(text, held, now=now, verify_ed25519=self._verify)
        if trust.version == held.version:
            return False
        self._keep(data)
        self._trust, self._data = trust, data
        return True


def replace_file(path: Path, data: bytes) -> None:
    """Put *data* at *path*; a reader sees the old file or the new one."""
    # Only we write there. What a crash left of an earlier try is written over.
    new = path.with_name(f".{path.name}.new")
    try:
        with new.open("wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), 0o644)
        new.replace(path)
    except BaseException:
        if new.exists():
            new.unlink()
        raise
