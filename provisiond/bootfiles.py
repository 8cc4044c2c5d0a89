"""What firmware is given of a bootstrap. It verifies nothing, so the node server does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from provisiond.intact import IntactFiles
from provisiond.protocol import PlannedCapsule
from vnfsbuild.digest import Digest, short
from vnfsbuild.errors import VerificationError
from vnfsbuild.manifest import DRIVERS, INITRD, KERNEL, Descriptor
from vnfsbuild.reference import Reference
from vnfsbuild.store.index import StoredCapsule

_BOOT_FILES = {"kernel": KERNEL, "initrd": INITRD}
_DRIVERS = {"drivers": DRIVERS}


@dataclass(frozen=True, kw_only=True, slots=True)
class BootstrapFiles:
    """The files of a bootstrap, as firmware fetches them."""

    kernel: Path
    initrd: Path


class BootFiles:
    """The files of bootstraps in a store."""

    def __init__(
        self,
        *,
        find: Callable[[Reference], StoredCapsule | None],
        vouch: Callable[[StoredCapsule], None],
        blob_path: Callable[[Digest], Path],
    ) -> None:
        """*find* returns the bootstrap that a reference means, *vouch* raises for one that may not
        run, *blob_path* tells where a blob is.
        """
        self._find = find
        self._vouch = vouch
        self._blob_path = blob_path
        self._files = IntactFiles()

    def find_bootstrap(self, reference: Reference) -> BootstrapFiles | None:
        """Return the files of the bootstrap that *reference* means, as trustworthy as a capsule's.

        This reads files that were touched, and so is nothing for the event loop.

        Raises:
            VerificationError: it is here, and may not run; or its files are not what was signed.
        """
        found = self._find(reference)
        if found is None:
            return None
        paths = self._find_intact(found, _BOOT_FILES)
        return BootstrapFiles(kernel=paths["kernel"], initrd=paths["initrd"])

    def find_drivers(self, reference: Reference) -> Path | None:
        """Return drivers.cpio of the bootstrap that *reference* means; as :meth:`find_bootstrap`.

        None when that bootstrap, if there is one, has all its drivers in its initrd.

        Raises:
            VerificationError: as there.
        """
        found = self._find(reference)
        if found is None or found.manifest.drivers is None:
            return None
        return self._find_intact(found, _DRIVERS)["drivers"]

    def plan_drivers(self, reference: Reference) -> PlannedCapsule | None:
        """Return the bootstrap that *reference* means, as a plan names it, when a node can fetch
        drivers.cpio of it. The disk is left alone: the node verifies.
        """
        found = self._find(reference)
        if found is None or found.manifest.drivers is None:
            return None
        try:
            self._vouch(found)
        except VerificationError:
            return None
        return PlannedCapsule(
            name=found.name, digest=found.digest, signatures=found.signature_digests
        )

    def find_refusal(self, reference: Reference, *, with_drivers: bool) -> str:
        """Return why the bootstrap that *reference* means is handed to nobody, with what to type;
        or to nobody *with_drivers*.

        Empty when nothing speaks against it, as far as is known without a look at the disk, or
        when there is none.
        """
        found = self._find(reference)
        if found is None:
            return ""
        try:
            self._vouch(found)
            kinds = {**_BOOT_FILES, **(_DRIVERS if with_drivers else {})}
            for what, path, blob in self._boot_files(found, kinds):
                damage = self._files.last_damage(path, blob)
                if damage:
                    raise _damaged(found, what, damage)
        except VerificationError as error:
            return f"{error}; {error.hint}"
        return ""

    def _find_intact(self, found: StoredCapsule, kinds: Mapping[str, str]) -> dict[str, Path]:
        """Return the files of *found*, by name.

        Raises:
            VerificationError: it may not run, or one of them is not what was signed.
        """
        self._vouch(found)
        paths = {}
        for what, path, blob in self._boot_files(found, kinds):
            damage = self._files.find_damage(path, blob)
            if damage:
                raise _damaged(found, what, damage)
            paths[what] = path
        return paths

    def _boot_files(
        self, found: StoredCapsule, kinds: Mapping[str, str]
    ) -> Iterator[tuple[str, Path, Descriptor]]:
        for what, kind in kinds.items():
            for blob in found.manifest.payloads:
                if blob.media_type == kind:
                    yield what, self._blob_path(blob.digest), blob


def _damaged(found: StoredCapsule, what: str, damage: str) -> VerificationError:
    return VerificationError(
        f"{found.name}:{found.config.serial}@{short(found.digest)}: its {what} in the store is "
        f"not what was signed: {damage}",
        hint="provisionctl vnfs import FILE brings it anew; look after the disk",
    )
