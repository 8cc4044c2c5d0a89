"""The capsules and bootstraps that the node server hands out, and whose signatures it believes."""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import Sequence
from pathlib import Path

from provisiond.bootfiles import BootFiles
from provisiond.protocol import PlannedCapsule
from vnfsbuild.capsule import verify_head
from vnfsbuild.digest import Digest
from vnfsbuild.errors import InputError, VerificationError, VnfsbuildError
from vnfsbuild.files import read_bounded, write_atomic
from vnfsbuild.manifest import (
    BOOTSTRAP,
    CAPSULE,
    MAX_METADATA_BYTES,
)
from vnfsbuild.reference import Reference
from vnfsbuild.signing.keys import verify_ed25519
from vnfsbuild.store.index import StoredCapsule
from vnfsbuild.store.keeper import Promotion, Removed
from vnfsbuild.store.pins import Reasons
from vnfsbuild.store.store import Store
from vnfsbuild.transfer.chunkindex import attach_chunk_index
from vnfsbuild.transfer.chunks import MEDIA_TYPE
from vnfsbuild.trust import Trust, verify_trust

logger = logging.getLogger(__name__)

BRING_BOOTSTRAP = "vnfsbuild bootstrap build; provisionctl vnfs import bootstrap"
"""What brings a bootstrap."""


class Catalogue:
    """A store, held in memory as far as plans need it.

    Reading methods look at what :meth:`refresh` found last and never at the disk.
    """

    def __init__(self, store: Path, *, trust: Path, trust_source: Path | None) -> None:
        """Use *store*, and the copy *trust* of what *trust_source* holds."""
        self._store = Store(store)
        self._trust = trust
        self._trust_source = trust_source
        self._capsules: tuple[StoredCapsule, ...] = ()
        self._trust_bytes: bytes | None = None
        self._held: Trust | None = None
        self._refusals: dict[Digest, str] = {}
        self._source_seen: tuple[int, ...] | None = None
        self.boot = BootFiles(
            find=lambda reference: self.find_stored(reference, BOOTSTRAP),
            vouch=self._vouch,
            blob_path=self._store.blob_path,
        )
        """What firmware is given."""

    @property
    def capsules(self) -> tuple[StoredCapsule, ...]:
        """All capsules and bootstraps, by name, the highest serial first."""
        return self._capsules

    @property
    def trust_bytes(self) -> bytes | None:
        """The text of trust.json, for site.cpio; none when the site has none yet."""
        return self._trust_bytes

    @property
    def trust_version(self) -> int | None:
        """The version of trust.json that counts here; none when there is none."""
        return self._held.version if self._held else None

    @property
    def held_trust(self) -> Trust | None:
        """The trust.json that counts here; none when there is none."""
        return self._held

    @property
    def trust_text(self) -> str | None:
        """The text of trust.json in base64, as answers bring it."""
        return base64.b64encode(self._trust_bytes).decode("ascii") if self._trust_bytes else None

    def refresh(self) -> None:
        """Read the store anew, and take over a newer trust.json."""
        self._capsules = self._store.list_capsules()
        self._source_seen = self._look_at_source()
        try:
            self.load_trust()
        except (InputError, VerificationError) as error:
            logger.warning("%s", error)
        self._judge()

    def take_newer_trust(self) -> bool:
        """Take over a newer trust.json when the file that it comes from was touched.

        Returns whether another version counts now.
        """
        seen = self._look_at_source()
        if seen == self._source_seen:
            return False
        before = self.trust_version
        self.refresh()
        return self.trust_version != before

    def _look_at_source(self) -> tuple[int, ...] | None:
        try:
            found = self._trust_source.stat() if self._trust_source else None
        except OSError:
            return None
        return (found.st_ino, found.st_mtime_ns, found.st_size) if found else None

    def _judge(self) -> None:
        """Make the verdict on every capsule anew; time is left out, :meth:`_vouch` adds it.

        Those that were imported before trust.json changed may not be handed out after it.
        """
        trust = self._held
        refusals = {}
        for capsule in self._capsules:
            try:
                if trust is None:
                    raise VerificationError(f"{capsule.name}: no trust.json says that it may run")
                verify_head(capsule.head, trust=trust, now=0)
            except VerificationError as error:
                refusals[capsule.digest] = error.message
        self._refusals = refusals

    def find_capsule(self, reference: Reference) -> PlannedCapsule | None:
        """Return the capsule that *reference* means, as a plan names it.

        Raises:
            VerificationError: it is here, and may not run any more.
        """
        found = self.find_stored(reference, CAPSULE)
        if found is None:
            return None
        self._vouch(found)
        return PlannedCapsule(
            name=found.name, digest=found.digest, signatures=found.signature_digests,
            chunks=_find_chunks(found),
        )  # fmt: skip

    def find_chunks(self, digest: str | None) -> Digest | None:
        """Return the chunk index of the capsule *digest*, where there is one."""
        found = self.find_digest(digest or "")
        return _find_chunks(found) if found else None

    def ensure_chunks(self, digest: str) -> None:
        """Make the chunk index of the capsule *digest*, if that is here and has none.

        Raises:
            VnfsbuildError: it cannot be read or written.
        """
        found = self.find_digest(digest)
        is_capsule = found is not None and found.manifest.artifact_type == CAPSULE
        if found is not None and is_capsule and _find_chunks(found) is None:
            attach_chunk_index(self._store, found)
            self.refresh()

    def _vouch(self, found: StoredCapsule) -> None:
        """Return when trust.json lets the capsule or bootstrap *found* run, now.

        Raises:
            VerificationError: it does not.
        """
        if found.digest in self._refusals:
            raise VerificationError(
                self._refusals[found.digest], hint="vnfsbuild trust show, vnfsbuild sign"
            )
        if self._held is not None and self._held.expires <= time.time():
            raise VerificationError(
                f"{found.name}: trust.json version {self._held.version} has expired",
                hint="vnfsbuild trust renew --days 365",
            )

    def find_digest(self, digest: str) -> StoredCapsule | None:
        """Return the capsule *digest*, if the store has it."""
        return next((item for item in self._capsules if item.digest == digest), None)

    def blob_path(self, digest: Digest) -> Path:
        """Return where the blob *digest* is, or would be."""
        return self._store.blob_path(digest)

    def import_file(self, path: Path, *, promote: bool) -> StoredCapsule:
        """Verify the ``.vnfs`` file *path* and add it; *promote* moves what a bare name means.

        Raises:
            InputError: there is no trust.json to judge it by.
            VerificationError: it is not trusted; the store is as it was.
        """
        trust = self.load_trust()
        stored = self._store.import_file(path, trust=trust, now=int(time.time()), current=promote)
        self.refresh()
        try:
            # Nodes mend wrong ranges by it, and fetch only what is new when they are upgraded.
            self.ensure_chunks(stored.digest)
        except (VnfsbuildError, OSError) as error:
            logger.warning("%s: imported, but without a chunk index: %s", stored.name, error)
        return stored

    def promote(self, reference: Reference) -> Promotion:
        """Let the bare name mean the capsule of *reference*; as :meth:`Store.promote`."""
        moved = self._store.promote(reference)
        self.refresh()
        return moved

    def rollback(self, name: str) -> Promotion:
        """Let the bare *name* mean what it meant before; as :meth:`Store.rollback`."""
        moved = self._store.rollback(name)
        self.refresh()
        return moved

    def tag(self, reference: Reference, tag: str) -> Digest:
        """Let ``NAME:TAG`` mean the capsule of *reference*; as :meth:`Store.tag`."""
        digest = self._store.tag(reference, tag).digest
        self.refresh()
        return digest

    def untag(self, reference: Reference) -> None:
        """Let ``NAME:TAG`` mean nothing; as :meth:`Store.untag`."""
        self._store.untag(reference)
        self.refresh()

    def delete(self, references: Sequence[Reference], *, force: bool) -> Removed:
        """Delete capsules; as :meth:`Store.delete`."""
        removed = self._store.delete(*references, force=force)
        self.refresh()
        return removed

    def set_pins(self, owner: str, reasons: Reasons) -> None:
        """Let *owner* pin exactly what *reasons* say.

        Raises:
            VnfsbuildError: it cannot be written; the pins are as they were.
        """
        self._store.replace_pins(owner, reasons)

    def collect_garbage(self) -> None:
        """Remove what a daemon that was killed has left; what goes wrong is told in the log."""
        try:
            removed = self._store.gc()
        except VnfsbuildError as error:
            logger.warning("%s%s", error, f" (hint: {error.hint})" if error.hint else "")
        else:
            if removed.size_bytes:
                logger.info("store: %d bytes that nothing named were removed", removed.size_bytes)

    def load_trust(self) -> Trust:
        """Return the trust that counts: the copy, or the source when that is newer.

        Raises:
            InputError: there is neither.
            VerificationError: the copy is not what it was; or has expired.
        """
        now = int(time.time())
        pinned, data = None, None
        if self._trust.exists():
            data = read_bounded(self._trust, limit_bytes=MAX_METADATA_BYTES)
            pinned = verify_trust(data, pinned=None, now=0, verify_ed25519=verify_ed25519,
                                  where=str(self._trust))  # fmt: skip
        # What was held counts even when what should follow it is refused.
        self._held, self._trust_bytes = pinned, data
        trust, data = self._take_newer(pinned, data, now=now)
        self._held, self._trust_bytes = trust, data
        if trust.expires <= now:
            raise VerificationError(f"{self._trust}: version {trust.version} has expired")
        return trust

    def _take_newer(
        self, pinned: Trust | None, held: bytes | None, *, now: int
    ) -> tuple[Trust, bytes]:
        source = self._trust_source
        try:
            if source is None:
                raise InputError("trust: none is configured")
            data = read_bounded(source, limit_bytes=MAX_METADATA_BYTES)
        except InputError as error:
            if pinned is not None and held is not None:
                if source is not None:
                    logger.warning("%s; version %d goes on counting", error, pinned.version)
                return pinned, held
            raise InputError(
                f"{error.message}; no trust.json says whose capsules may run",
                hint="vnfsbuild keys new NAME makes one; provisiond.toml: trust names it",
            ) from error
        if data == held and pinned is not None:
            return pinned, data
        trust = verify_trust(
            data, pinned=pinned, now=now, verify_ed25519=verify_ed25519, where=str(source)
        )
        write_atomic(self._trust, data)
        return trust, data

    def find_stored(self, reference: Reference, artifact_type: str) -> StoredCapsule | None:
        """Return the capsule or bootstrap that *reference* means, whatever trust says of it."""
        for capsule in self._capsules:
            if capsule.name != reference.name or capsule.manifest.artifact_type != artifact_type:
                continue
            if reference.digest is not None:
                if capsule.digest == reference.digest:
                    return capsule
            elif reference.tag in capsule.tags:
                return capsule
        return None


def _find_chunks(capsule: StoredCapsule) -> Digest | None:
    attached = capsule.attached(MEDIA_TYPE)
    return attached.digest if attached else None
