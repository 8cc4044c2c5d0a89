"""The capsules and bootstraps that the node server hands out, and whose signatures it believes."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

from provisiond.protocol import PlannedCapsule
from vnfsbuild.digest import Digest
from vnfsbuild.errors import InputError, VerificationError
from vnfsbuild.files import read_bounded, write_atomic
from vnfsbuild.keys import verify_ed25519
from vnfsbuild.manifest import BOOTSTRAP, CAPSULE, INITRD, KERNEL, MAX_METADATA_BYTES
from vnfsbuild.reference import Reference
from vnfsbuild.store import Store
from vnfsbuild.storeindex import StoredCapsule
from vnfsbuild.trust import Trust, verify_trust

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class BootstrapFiles:
    """The files of a bootstrap, as firmware fetches them."""

    kernel: Path
    initrd: Path


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

    @property
    def capsules(self) -> tuple[StoredCapsule, ...]:
        """All capsules and bootstraps, by name, the highest serial first."""
        return self._capsules

    @property
    def trust_bytes(self) -> bytes | None:
        """The text of trust.json, for site.cpio; none when the site has none yet."""
        return self._trust_bytes

    def refresh(self) -> None:
        """Read the store anew, and take over a newer trust.json."""
        self._capsules = self._store.list_capsules()
        try:
            self.load_trust()
        except (InputError, VerificationError) as error:
            logger.warning("%s", error)

    def find_capsule(self, reference: Reference) -> PlannedCapsule | None:
        """Return the capsule that *reference* means, as a plan names it."""
        found = self._find(reference, CAPSULE)
        if found is None:
            return None
        return PlannedCapsule(
            name=found.name, digest=found.digest, signatures=found.signature_digests
        )

    def find_bootstrap(self, reference: Reference) -> BootstrapFiles | None:
        """Return the files of the bootstrap that *reference* means."""
        found = self._find(reference, BOOTSTRAP)
        if found is None:
            return None
        return BootstrapFiles(
            kernel=self._store.blob_path(found.manifest.payload(KERNEL).digest),
            initrd=self._store.blob_path(found.manifest.payload(INITRD).digest),
        )

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
        return stored

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
        trust, data = self._take_newer(pinned, data, now=now)
        self._trust_bytes = data
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

    def _find(self, reference: Reference, artifact_type: str) -> StoredCapsule | None:
        for capsule in self._capsules:
            if capsule.name != reference.name or capsule.manifest.artifact_type != artifact_type:
                continue
            if reference.digest is not None:
                if capsule.digest == reference.digest:
                    return capsule
            elif reference.tag in capsule.tags:
                return capsule
        return None
