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

from vnfsbuild.attachment import Attachment, parse_attachment
from vnfsbuild.blobs import Blobs
from vnfsbuild.capsule import make_head
from vnfsbuild.digest import Digest
from vnfsbuild.errors import InputError, VerificationError
from vnfsbuild.manifest import (
    SIGNATURE,
    Descriptor,
    parse_index,
    parse_manifest,
    parse_signature_manifest,
)
from vnfsbuild.reference import Reference
from vnfsbuild.storeindex import StoredCapsule, StoreIndex, parse_store_index

logger = logging.getLogger(__name__)

T = TypeVar("T")

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
        manifest_bytes = self.read_metadata(index.capsules[digest][0])
        config_bytes = self.read_metadata(parse_manifest(manifest_bytes).config)
        head = make_head(manifest_bytes, config_bytes, self._envelopes(index, digest))
        return StoredCapsule(
            head=head,
            tags=index.tags_of(digest),
            attachments=tuple(item for _, item in self.attachments(index, digest)),
        )

    def _peek(self, index: StoreIndex, digest: Digest) -> StoredCapsule | None:
        try:
            return self.load(index, digest)
        except VerificationError as error:
            logger.warning("%s: left out of the list: %s", self.path, error)
            return None

    def _envelopes(self, index: StoreIndex, digest: Digest) -> list[bytes]:
        return [self.read_metadata(envelope) for _, envelope in self.signatures(index, digest)]

    def signatures(
        self, index: StoreIndex, digest: Digest
    ) -> Iterator[tuple[Descriptor, Descriptor]]:
        """Return the signatures of a capsule: manifest and envelope of each."""
        for manifest, artifact_type in self._referrers(index, digest):
            if artifact_type == SIGNATURE:
                data = self.read_metadata(manifest)
                parsed = parse_signature_manifest(data, where=f"{self.path}: signature")
                yield manifest, parsed.envelope

    def attachments(
        self, index: StoreIndex, digest: Digest
    ) -> Iterator[tuple[Descriptor, Attachment]]:
        """Return what else refers to a capsule: the manifest of each, and what it says."""
        for manifest, artifact_type in self._referrers(index, digest):
            if artifact_type != SIGNATURE:
                data = self.read_metadata(manifest)
                yield manifest, parse_attachment(data, where=f"{self.path}: {artifact_type}")

    def _referrers(self, index: StoreIndex, digest: Digest) -> list[tuple[Descriptor, str | None]]:
        if digest not in index.referrers:
            return []
        listed = self.read_metadata(index.referrers[digest])
        found = parse_index(listed, where=f"{self.path}: referrers")
        return [(manifest, artifact_type) for manifest, artifact_type, _ in found]

    def load_index(self) -> StoreIndex:
        """Return what the store holds; nothing, where there is none."""
        path = self.path / "index.json"
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return StoreIndex()
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from error
        return parse_store_index(data, where=os.fspath(path))
