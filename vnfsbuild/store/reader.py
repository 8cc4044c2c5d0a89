"""Reading a store: a directory of capsules, an OCI image layout.

Blobs are found by digest and never change; ``index.json`` says which capsules there are and is
replaced as a whole. So a reader needs no lock and sees the store before a change or after it.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from vnfsbuild.capsule import INDEX_NAME, LAYOUT, LAYOUT_NAME, make_head
from vnfsbuild.digest import Digest
from vnfsbuild.errors import InputError, VerificationError, VnfsbuildError
from vnfsbuild.files import read_bounded
from vnfsbuild.manifest import (
    EMPTY,
    MAX_METADATA_BYTES,
    SIGNATURE,
    Descriptor,
    IndexEntry,
    parse_index,
    parse_manifest,
    render_index,
)
from vnfsbuild.reference import Reference
from vnfsbuild.referrers.attachment import CARRIED, Attachment, parse_attachment
from vnfsbuild.referrers.attestation import PROVENANCE
from vnfsbuild.store.blobs import Blobs
from vnfsbuild.store.index import (
    StoredCapsule,
    StoreIndex,
    find_untrue_tags,
    parse_store_index,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_INDEX_BYTES = 256 * 1024 * 1024

READ_ATTEMPTS = 5
"""How often a reader begins anew when what the index named was deleted under its eyes."""


class StoreReader(Blobs):
    """The store in the directory *path*, as it is; there need not be one."""

    def get(self, reference: Reference) -> StoredCapsule:
        """Return the capsule that *reference* means.

        Raises:
            InputError: the store has none.
            VerificationError: what describes it was damaged.
        """
        capsule = self._read(lambda index: self.load(index, self.resolve(index, reference)))
        if capsule.name != reference.name:
            raise InputError(
                f"{reference}: the capsule with this digest is called {capsule.name!r}",
                hint=f"{capsule.name}@{capsule.digest}",
            )
        return capsule

    def list_capsules(self) -> tuple[StoredCapsule, ...]:
        """Return all capsules, by name, the highest serial first; damaged ones are left out."""

        def load_all(index: StoreIndex) -> tuple[StoredCapsule, ...]:
            return tuple(found for digest in index.capsules if (found := self._peek(index, digest)))

        found = self._read(load_all)
        return tuple(
            sorted(
                found, key=lambda capsule: (capsule.name, -capsule.config.serial, capsule.digest)
            )
        )

    def resolve(self, index: StoreIndex, reference: Reference) -> Digest:
        """Return the digest of the capsule that *reference* means.

        Raises:
            InputError: the store has none.
        """
        digest = index.resolve(reference)
        if digest is None:
            raise InputError(
                f"{reference}: no such capsule in the store {self.path}",
                hint="vnfsbuild list shows what there is",
            )
        return digest

    def _read(self, read: Callable[[StoreIndex], T]) -> T:
        self._verify_layout()
        for _ in range(READ_ATTEMPTS - 1):
            with contextlib.suppress(FileNotFoundError):
                return read(self.load_index())
        try:
            return read(self.load_index())
        except FileNotFoundError as error:
            raise self.missing(f"sha256:{Path(error.filename).name}") from error

    def load(self, index: StoreIndex, digest: Digest) -> StoredCapsule:
        """Return the capsule *digest*, which *index* has.

        Raises:
            VerificationError: what describes it was damaged.
            FileNotFoundError: it was deleted, perhaps just now.
        """
        capsule = self.load_untagged(index, digest)
        untrue = find_untrue_tags(index, digest, capsule.config)
        if untrue:
            raise VerificationError(
                f"{self.path / INDEX_NAME}: {untrue[0]} means a capsule that calls itself "
                f"{capsule.name}:{capsule.config.serial}",
                hint=self.fsck_hint,
            )
        return capsule

    def load_untagged(self, index: StoreIndex, digest: Digest) -> StoredCapsule:
        """Do as :meth:`load`, but do not look at whether its tags are true."""
        manifest_bytes = self.read_metadata(index.capsules[digest][0])
        config_bytes = self.read_metadata(parse_manifest(manifest_bytes).config)
        referrers = [item for _, item in self.referrers(index, digest)]
        head = make_head(
            manifest_bytes,
            config_bytes,
            self._envelopes(referrers, SIGNATURE),
            self._envelopes(referrers, PROVENANCE),
        )
        listed, found = index.capsules[digest][1], head.capsule.manifest.artifact_type
        if listed != found:
            raise VerificationError(
                f"{self.path / INDEX_NAME}: {digest} is listed as {listed}, and is {found}",
                hint=self.fsck_hint,
            )
        return StoredCapsule(
            head=head,
            tags=index.tags_of(digest),
            attachments=tuple(item for item in referrers if item.artifact_type not in CARRIED),
        )

    def _peek(self, index: StoreIndex, digest: Digest) -> StoredCapsule | None:
        """Return a capsule; none when it is damaged, for one must not hide the others."""
        try:
            return self.load(index, digest)
        except FileNotFoundError as error:
            again = self.load_index()
            if (again.capsules.get(digest), again.referrers.get(digest)) != (
                index.capsules[digest],
                index.referrers.get(digest),
            ):
                raise  # it was deleted or changed just now: look again
            told = str(self.missing(f"sha256:{Path(error.filename).name}"))
        except VnfsbuildError as error:
            told = str(error)
        logger.warning("%s: left out of the list: %s", self.path, told)
        return None

    def _envelopes(self, referrers: list[Attachment], artifact_type: str) -> list[bytes]:
        return [
            self.read_metadata(item.blob)
            for item in referrers
            if item.artifact_type == artifact_type
        ]

    def referrers(
        self, index: StoreIndex, digest: Digest
    ) -> Iterator[tuple[Descriptor, Attachment]]:
        """Return all that refers to a capsule, signatures and attestations too: the manifest of
        each, and what it says.
        """
        if digest not in index.referrers:
            return
        where = f"{self.path}: referrers of {digest}"
        listed = self.read_metadata(index.referrers[digest])
        self.read_metadata(EMPTY)
        entries = parse_index(listed, where=where)
        bare: dict[Digest, IndexEntry] = {entry[0].digest: (*entry[:2], {}) for entry in entries}
        if render_index([bare[key] for key in sorted(bare)]) != listed:
            raise VerificationError(f"{where}: listed in another form than ours")
        for manifest, artifact_type, _ in entries:
            item = parse_attachment(self.read_metadata(manifest), where=where)
            if item.artifact_type != artifact_type or item.subject != index.capsules[digest][0]:
                raise VerificationError(f"{where}: {manifest.digest} is not what it is listed as")
            yield manifest, item

    def load_index(self) -> StoreIndex:
        """Return what the store holds; nothing, where there is none.

        Raises:
            InputError: it cannot be read.
            VerificationError: it is damaged, or missing in a store that has blobs.
        """
        path = self.path / INDEX_NAME
        data = self._read_index()
        if data is None and self._was_made():
            data = self._read_index()  # it may have been made just now
            if data is None:
                raise VerificationError(
                    f"{path}: missing, expected it beside the blobs of a store",
                    hint=self.fsck_hint,
                )
        if data is None:
            return StoreIndex()
        try:
            return parse_store_index(data, where=os.fspath(path))
        except VerificationError as error:
            raise VerificationError(error.message, hint=error.hint or self.fsck_hint) from error

    def _read_index(self) -> bytes | None:
        path = self.path / INDEX_NAME
        try:
            path.lstat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from error
        return read_bounded(path, limit_bytes=MAX_INDEX_BYTES)

    def _verify_layout(self) -> None:
        """Refuse a directory that says that it is something else.

        Raises:
            VerificationError: it does. A store that is just being made has no layout yet.
        """
        path = self.path / LAYOUT_NAME
        if os.path.lexists(path) and read_bounded(path, limit_bytes=MAX_METADATA_BYTES) != LAYOUT:
            raise VerificationError(
                f"{path}: found another layout than ours, expected a store", hint=self.fsck_hint
            )

    @property
    def fsck_hint(self) -> str:
        """Return what to type when this store is damaged."""
        return f"vnfsbuild --store {self.path} fsck tells what is wrong, fsck --repair mends it"

    def _was_made(self) -> bool:
        """Tell whether there is more here than an empty directory: whoever took a store without
        its index for a new one would remove all blobs as garbage.
        """
        blobs = self.path / "blobs/sha256"
        return (self.path / LAYOUT_NAME).exists() or (blobs.is_dir() and any(blobs.iterdir()))
