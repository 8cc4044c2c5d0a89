"""The store: a directory of capsules, an OCI image layout.

Blobs are found by digest and never change; ``index.json`` says which capsules there are and is
replaced as a whole, last. So a reader needs no lock and sees the store before a change or after
it, and a change that dies half-way leaves at most blobs that nothing names. Writers take turns.

Functions block; a daemon calls them from a thread. No method keeps a file open, but
:meth:`Store.open_blob`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

from vnfsbuild.capsule import (
    Advance,
    Head,
    load_capsule,
    make_head,
    payloads_after,
    read_chunks,
    render_head,
    verify_attestations,
    verify_head,
    verify_payload,
    write_capsule,
)
from vnfsbuild.digest import Digest, digest_of, digest_of_stream
from vnfsbuild.dsse import KeyId
from vnfsbuild.errors import InputError, VerificationError, VnfsbuildError
from vnfsbuild.files import open_atomic
from vnfsbuild.manifest import Descriptor
from vnfsbuild.reference import Reference
from vnfsbuild.referrers.attachment import (
    CARRIED,
    Attachment,
    attachment_entry,
    make_attachment,
    render_attachment,
)
from vnfsbuild.store.blobs import Incoming, open_incoming
from vnfsbuild.store.index import (
    StoredCapsule,
    StoreIndex,
    make_store_referrers,
    merge_signatures,
    signer_of,
)
from vnfsbuild.store.keeper import StoreKeeper
from vnfsbuild.store.writer import world_hint
from vnfsbuild.trust import Trust
from vnfsbuild.verify import VerifiedCapsule

logger = logging.getLogger(__name__)

Believed = tuple[set[KeyId], set[KeyId]]
"""Keys whose signatures, and keys whose attestations, are known to hold."""

Bring = Callable[[Incoming, Callable[[Head], None]], Head]
"""Brings a capsule: see :meth:`Store.import_from`."""


class Store(StoreKeeper):
    """The store in the directory *path*, which the first write makes."""

    def add_blob(self, source: Path | BinaryIO | bytes, *, media_type: str) -> Descriptor:
        """Add a blob that a capsule will name, and return its descriptor.

        It stays for as long as this object lives, even if no capsule ever names it.

        Raises:
            VnfsbuildError: it cannot be written: no space is left, say.
        """
        if isinstance(source, Path):
            with source.open("rb") as file:
                digest, size_bytes = digest_of_stream(file)
                found = Descriptor(media_type, digest, size_bytes)
                if self.keep(found):
                    return found
                file.seek(0)
                return self.add_blob(file, media_type=media_type)
        with self.told(), open_incoming(self, lock=self.writing()) as incoming:
            if isinstance(source, bytes):
                incoming.put(source)
                added = Descriptor(media_type, digest_of(source), len(source))
            else:
                added = Descriptor(media_type, *incoming.copy(source))
            with self.writing():
                self.rely_on(added.digest)
                incoming.move_to_store()
        return added

    def keep(self, blob: Descriptor) -> bool:
        """Keep *blob* for the capsule that will name it, when the store has it undamaged."""
        with self.told(), self.writing():
            self.rely_on(blob.digest)
        # From here on nobody removes it: it may be read without the lock.
        if self.holds(blob):
            return True
        with self.told(), self.writing():
            self.rely_no_more([blob.digest])
        return False

    def add_capsule(
        self,
        manifest_bytes: bytes,
        config_bytes: bytes,
        envelopes: Iterable[bytes] = (),
        attestations: Iterable[bytes] = (),
        *,
        current: bool = True,
    ) -> Digest:
        """Add the capsule whose payloads were added before, under the tag of its serial.

        Signatures and attestations are added to those that the store has. *current* moves the tag
        that a bare name means. A capsule that had the tag before stays, known by its digest.

        Raises:
            VerificationError: manifest, config and signatures do not belong together.
            VnfsbuildError: a payload is not in the store, or something cannot be written.
        """
        head = make_head(manifest_bytes, config_bytes, envelopes, attestations)
        with self.told(), open_incoming(self, lock=self.writing()) as incoming:
            self._commit(incoming, head, believed=_believe_all(head), current=current)
        return head.capsule.digest

    def add_envelopes(
        self,
        reference: Reference,
        envelopes: Iterable[bytes] = (),
        attestations: Iterable[bytes] = (),
    ) -> Digest:
        """Add signatures and attestations to a capsule; each takes the place of its key's older.

        The caller has made or verified them. No tag moves.

        Raises:
            InputError: the store has no such capsule.
            VerificationError: one of them is not about this capsule.
            VnfsbuildError: something cannot be written.
        """
        with self.told(), open_incoming(self, lock=self.writing()) as incoming, self.writing():
            index = self.load_index()
            held = self.load(index, self.resolve(index, reference))
            added = make_head(held.manifest_bytes, held.config_bytes, envelopes, attestations)
            head = _merge(held.head, added, _believe_all(added))
            self._replace_referrers(incoming, index, head, held.attachments)
        return held.digest

    def import_file(
        self,
        path: Path,
        *,
        trust: Trust,
        now: int,
        current: bool = True,
        advance: Advance | None = None,
    ) -> StoredCapsule:
        """Add the capsule in the ``.vnfs`` file *path*, when *trust* says that it may run.

        The store is as it was until all of the file has been verified. *now* is in seconds since
        1970.

        Raises:
            InputError: the file cannot be read.
            VerificationError: the file is damaged, or not signed as it must be.
            VnfsbuildError: it cannot be written: no space is left, say.
        """

        def bring(incoming: Incoming, admit: Callable[[Head], None]) -> Head:
            return load_capsule(
                path, admit=admit, take=lambda blob, chunks: incoming.take(blob, chunks, advance)
            )

        return self.import_from(bring, trust=trust, now=now, current=current)

    def import_from(
        self, bring: Bring, *, trust: Trust, now: int, current: bool = True
    ) -> StoredCapsule:
        """Add the capsule that *bring* brings, when *trust* says that it may run.

        *bring* gives all payloads to the incoming blobs and returns the head. It hands that to the
        function it is given before it takes any payload, which raises unless it may run. The
        store is as it was until *bring* has returned.

        Raises:
            VerificationError: it is not signed as it must be.
            VnfsbuildError: it cannot be written: no space is left, say.
        """
        believed: list[Believed] = []

        def admit(head: Head) -> None:
            verdict = verify_head(head, trust=trust, now=now)
            attesters = verify_attestations(head, trust=trust)
            believed.append((set(verdict.signers), set(attesters)))

        with self.told(), open_incoming(self, lock=self.writing()) as incoming:
            head = bring(incoming, admit)
            if not believed:
                admit(head)
            self._commit(incoming, head, believed=believed[-1], current=current)
        return self.get(Reference(head.name, digest=head.capsule.digest))

    def export(
        self, reference: Reference, path: Path, *, advance: Advance | None = None
    ) -> StoredCapsule:
        """Write the ``.vnfs`` file of a capsule; *path* is as it was until the file is whole.

        Raises:
            InputError: the store has no such capsule.
            VerificationError: a blob of it was damaged.
            VnfsbuildError: the file cannot be written.
        """
        capsule = self.get(reference)
        try:
            write_capsule(path, capsule.head, self.open_blob, advance=advance)
        except OSError as error:
            raise VnfsbuildError(
                f"{path}: {error.strerror}", hint=world_hint(error, path)
            ) from error
        return capsule

    def export_attachment(self, capsule: StoredCapsule, artifact_type: str, path: Path) -> None:
        """Write what is attached to *capsule* to a file; *path* is as it was until it is whole.

        Raises:
            InputError: nothing of this type is attached to it.
            VerificationError: it was damaged.
            VnfsbuildError: the file cannot be written.
        """
        blob = capsule.attached(artifact_type)
        if blob is None:
            raise InputError(f"{capsule.name}: nothing of type {artifact_type} is attached to it")
        try:
            with open_atomic(path) as file, self.open_blob(blob.digest) as source:
                file.writelines(verify_payload(read_chunks(source), blob, where=capsule.name))
        except OSError as error:
            raise VnfsbuildError(
                f"{path}: {error.strerror}", hint=world_hint(error, path)
            ) from error

    def verify(
        self, reference: Reference, *, trust: Trust, now: int, advance: Advance | None = None
    ) -> VerifiedCapsule:
        """Verify signatures, attestations and every blob of a capsule in the store.

        Raises:
            InputError: the store has no such capsule.
            VerificationError: it is damaged, or *trust* says that it may not run.
        """
        capsule = self.get(reference)
        verdict = verify_head(capsule.head, trust=trust, now=now)
        verify_attestations(capsule.head, trust=trust)
        for payload in payloads_after(capsule.head):
            with self.open_blob(payload.digest) as blob:
                for chunk in verify_payload(read_chunks(blob), payload, where=capsule.name):
                    if advance:
                        advance(len(chunk))
        return verdict

    def attach(self, reference: Reference, blob: Descriptor, *, artifact_type: str) -> None:
        """Let *blob*, which was added before, refer to a capsule, in the place of an older one.

        Signatures and attestations are for :meth:`add_envelopes`: there is one of each key.

        Raises:
            InputError: the store has no such capsule.
            VnfsbuildError: *blob* is not in the store, or something cannot be written.
        """
        if artifact_type in CARRIED:
            raise InputError(f"{artifact_type}: expected the type of what is not signed")
        with self.told(), open_incoming(self, lock=self.writing()) as incoming, self.writing():
            index = self.load_index()
            capsule = self.load(index, self.resolve(index, reference))
            if not self.blob_path(blob.digest).exists():
                raise self.missing(blob.digest)
            added = make_attachment(capsule.manifest_bytes, blob, artifact_type=artifact_type)
            others = [item for item in capsule.attachments if item.artifact_type != artifact_type]
            self._replace_referrers(incoming, index, capsule.head, [*others, added])
            self.rely_no_more([blob.digest])

    def _replace_referrers(
        self, incoming: Incoming, index: StoreIndex, head: Head, others: Iterable[Attachment]
    ) -> None:
        """Let what *head* carries, and *others*, be all that refers to a capsule; the lock is held.

        What a reader of the index before might be about to read stays until the next gc.
        """
        others = list(others)
        entries = [attachment_entry(item) for item in others]
        for item in others:
            incoming.put(render_attachment(item))
        for _, data in render_head(head)[2:]:
            incoming.put(data)
        incoming.put(b"{}")
        incoming.put(make_store_referrers(head, entries))
        incoming.move_to_store()
        self.save_index(index.with_referrers(head, entries))

    def _commit(self, incoming: Incoming, head: Head, *, believed: Believed, current: bool) -> None:
        """Make *head* and what came in part of the store: blobs first, the index last."""
        with self.writing():
            index = self.load_index()
            digest = head.capsule.digest
            held = self._held(index, digest)
            others = [attachment_entry(item) for item in (held.attachments if held else ())]
            head = _merge(held.head, head, believed) if held else head
            for payload in payloads_after(head):
                if not (incoming.has(payload) or self.blob_path(payload.digest).exists()):
                    raise self.missing(payload.digest)
            for _, data in render_head(head)[2:]:
                incoming.put(data)
            if others:
                incoming.put(make_store_referrers(head, others))
            incoming.move_to_store()
            added = index.with_capsule(head, current=current, others=others)
            self.save_index(added)
            self.rely_no_more(blob.digest for blob in head.capsule.manifest.blobs)
            before = index.referrers.get(digest)
            if before is not None and before != added.referrers.get(digest):
                self.blob_path(before.digest).unlink(missing_ok=True)

    def _held(self, index: StoreIndex, digest: Digest) -> StoredCapsule | None:
        """Return the capsule as the store has it, None where it was damaged: what comes in now
        takes its place.
        """
        if digest not in index.capsules:
            return None
        try:
            return self.load(index, digest)
        except (VerificationError, FileNotFoundError) as error:
            logger.warning("%s: written anew, since it was damaged: %s", digest, error)
            return None


def _believe_all(head: Head) -> Believed:
    return (
        {signer_of(envelope) for envelope in head.envelopes},
        {signer_of(envelope) for envelope in head.attestations},
    )


def _merge(held: Head, added: Head, believed: Believed) -> Head:
    """Return the capsule with what both carry."""
    signers, attesters = believed
    return make_head(
        held.manifest_bytes,
        held.config_bytes,
        merge_signatures(held.envelopes, added.envelopes, signers),
        merge_signatures(held.attestations, added.attestations, attesters),
    )
