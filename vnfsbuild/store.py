"""The store: a directory of capsules, an OCI image layout.

Blobs are found by digest and never change; ``index.json`` says which capsules there are and is
replaced as a whole, last. So a reader needs no lock and sees the store before a change or after
it, and a change that dies half-way leaves at most blobs that nothing names. Writers take turns.

Functions block; a daemon calls them from a thread. No method keeps a file open, but
:meth:`Store.open_blob`.
"""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from vnfsbuild.attachment import (
    attachment_entry,
    make_attachment,
    render_attachment,
)
from vnfsbuild.blobs import Incoming, open_incoming
from vnfsbuild.capsule import (
    LAYOUT,
    LAYOUT_NAME,
    Advance,
    Head,
    load_capsule,
    make_head,
    make_referrers,
    payloads_after,
    read_chunks,
    render_head,
    verify_head,
    verify_payload,
    write_capsule,
)
from vnfsbuild.digest import Digest, digest_of, digest_of_stream
from vnfsbuild.dsse import KeyId
from vnfsbuild.errors import InputError, VerificationError, VnfsbuildError
from vnfsbuild.files import locked, open_atomic, write_atomic
from vnfsbuild.manifest import (
    Descriptor,
    parse_manifest,
)
from vnfsbuild.reference import Reference, parse_reference
from vnfsbuild.storeindex import (
    StoredCapsule,
    StoreIndex,
    merge_signatures,
    render_store_index,
    signer_of,
)
from vnfsbuild.storereader import StoreReader
from vnfsbuild.trust import Trust
from vnfsbuild.verify import VerifiedCapsule

logger = logging.getLogger(__name__)


class Store(StoreReader):
    """The store in the directory *path*, which the first write makes."""

    def add_blob(self, source: Path | BinaryIO | bytes, *, media_type: str) -> Descriptor:
        """Add a blob that a capsule will name, and return its descriptor.

        Raises:
            VnfsbuildError: it cannot be written: no space is left, say.
        """
        if isinstance(source, Path):
            with source.open("rb") as file:
                digest, size_bytes = digest_of_stream(file)
                found = Descriptor(media_type, digest, size_bytes)
                if self.holds(found):
                    return found
                file.seek(0)
                return self.add_blob(file, media_type=media_type)
        with self._told(), open_incoming(self, lock=self._writing()) as incoming:
            if isinstance(source, bytes):
                incoming.put(source)
                added = Descriptor(media_type, digest_of(source), len(source))
            else:
                added = Descriptor(media_type, *incoming.copy(source))
            incoming.move_to_store()
        return added

    def add_capsule(
        self,
        manifest_bytes: bytes,
        config_bytes: bytes,
        envelopes: Iterable[bytes] = (),
        *,
        current: bool = True,
    ) -> Digest:
        """Add the capsule whose payloads were added before, under the tag of its serial.

        Signatures are added to those that the store has. *current* moves the tag that a bare name
        means. A capsule that had the tag before stays, known by its digest.

        Raises:
            VerificationError: manifest, config and signatures do not belong together.
            VnfsbuildError: a payload is not in the store, or something cannot be written.
        """
        head = make_head(manifest_bytes, config_bytes, envelopes)
        signers = {signer_of(envelope) for envelope in head.envelopes}
        with self._told(), open_incoming(self, lock=self._writing()) as incoming:
            self._commit(incoming, head, believed=signers, current=current)
        return head.capsule.digest

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
        verdict: list[VerifiedCapsule] = []

        def admit(head: Head) -> None:
            verdict.append(verify_head(head, trust=trust, now=now))

        with self._told(), open_incoming(self, lock=self._writing()) as incoming:
            head = load_capsule(
                path, admit=admit, take=lambda blob, chunks: incoming.take(blob, chunks, advance)
            )
            self._commit(incoming, head, believed=set(verdict[0].signers), current=current)
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
                f"{path}: {error.strerror}", hint=_space_hint(error, path)
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
                f"{path}: {error.strerror}", hint=_space_hint(error, path)
            ) from error

    def verify(
        self, reference: Reference, *, trust: Trust, now: int, advance: Advance | None = None
    ) -> VerifiedCapsule:
        """Verify signatures and every blob of a capsule in the store.

        Raises:
            InputError: the store has no such capsule.
            VerificationError: it is damaged, or *trust* says that it may not run.
        """
        capsule = self.get(reference)
        verdict = verify_head(capsule.head, trust=trust, now=now)
        for payload in payloads_after(capsule.head):
            with self.open_blob(payload.digest) as blob:
                for chunk in verify_payload(read_chunks(blob), payload, where=capsule.name):
                    if advance:
                        advance(len(chunk))
        return verdict

    def attach(self, reference: Reference, blob: Descriptor, *, artifact_type: str) -> None:
        """Let *blob*, which was added before, refer to a capsule, in the place of an older one.

        Raises:
            InputError: the store has no such capsule.
            VnfsbuildError: *blob* is not in the store, or something cannot be written.
        """
        with self._told(), open_incoming(self, lock=self._writing()) as incoming, self._writing():
            index = self.load_index()
            capsule = self.load(index, self.resolve(index, reference))
            if not self.blob_path(blob.digest).exists():
                raise self.missing(blob.digest)
            added = make_attachment(capsule.manifest_bytes, blob, artifact_type=artifact_type)
            others = [item for item in capsule.attachments if item.artifact_type != artifact_type]
            entries = [attachment_entry(item) for item in (*others, added)]
            index = index.with_referrers(capsule.head, entries)
            incoming.put(b"{}")
            incoming.put(render_attachment(added))
            incoming.put(make_referrers(capsule.manifest_bytes, capsule.envelopes, entries).index)
            incoming.move_to_store()
            self._save_index(index)

    def tag(self, reference: Reference, tag: str) -> None:
        """Let ``NAME:TAG`` mean the capsule of *reference* from now on.

        Raises:
            InputError: there is no such capsule, or *tag* cannot be one: numbers are serials.
        """
        parse_reference(f"{reference.name}:{tag}")
        if tag.isdigit():
            raise InputError(f"tag {tag!r}: numbers are serials, which are given by building")
        with self._told(), self._writing():
            index = self.load_index()
            capsule = self.load(index, self.resolve(index, reference))
            self._save_index(index.with_tag(capsule.name, tag, capsule.digest))

    def delete(self, reference: Reference) -> tuple[Digest, ...]:
        """Delete a capsule with its tags; return the blobs that went since nothing names them.

        Raises:
            InputError: the store has no such capsule.
            VerificationError: what describes another capsule was damaged, so that it is not known
                which blobs it needs.
        """
        with self._told(), self._writing():
            index = self.load_index()
            digest = self.resolve(index, reference)
            rest = index.without_capsule(digest)
            kept: set[Digest] = set()
            for other in rest.capsules:
                kept |= self._blobs_of(rest, other)
            gone = tuple(sorted(self._blobs_of_perhaps_damaged(index, digest) - kept))
            self._save_index(rest)
            for blob in gone:
                self.blob_path(blob).unlink(missing_ok=True)
        return gone

    def _blobs_of(self, index: StoreIndex, digest: Digest) -> set[Digest]:
        """Return all blobs that a capsule needs."""
        manifest = parse_manifest(self.read_metadata(index.capsules[digest][0]))
        blobs = {digest, *(blob.digest for blob in manifest.blobs)}
        if digest in index.referrers:
            blobs |= {digest_of(b"{}"), index.referrers[digest].digest}
            for pair in self.signatures(index, digest):
                blobs |= {descriptor.digest for descriptor in pair}
            for manifest_of, item in self.attachments(index, digest):
                blobs |= {manifest_of.digest, item.blob.digest}
        return blobs

    def _blobs_of_perhaps_damaged(self, index: StoreIndex, digest: Digest) -> set[Digest]:
        try:
            return self._blobs_of(index, digest)
        except (VerificationError, FileNotFoundError):
            return {digest}

    def _commit(
        self, incoming: Incoming, head: Head, *, believed: set[KeyId], current: bool
    ) -> None:
        """Make *head* and what came in part of the store: blobs first, the index last."""
        with self._writing():
            index = self.load_index()
            digest = head.capsule.digest
            held = self._held(index, digest)
            envelopes = merge_signatures(held.envelopes if held else (), head.envelopes, believed)
            others = [attachment_entry(item) for item in (held.attachments if held else ())]
            head = make_head(head.manifest_bytes, head.config_bytes, envelopes)
            for payload in payloads_after(head):
                if not (incoming.has(payload) or self.blob_path(payload.digest).exists()):
                    raise self.missing(payload.digest)
            for _, data in render_head(head)[2:]:
                incoming.put(data)
            if others:
                incoming.put(make_referrers(head.manifest_bytes, envelopes, others).index)
            incoming.move_to_store()
            added = index.with_capsule(head, current=current, others=others)
            self._save_index(added)
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

    def _save_index(self, index: StoreIndex) -> None:
        write_atomic(self.path / "index.json", render_store_index(index))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the store's lock, in a store that is there."""
        (self.path / "blobs/sha256").mkdir(parents=True, exist_ok=True)
        with locked(self.path / ".lock"):
            layout = self.path / LAYOUT_NAME
            if not layout.exists():
                write_atomic(layout, LAYOUT)
                self._save_index(self.load_index())
            elif layout.read_bytes() != LAYOUT:
                raise InputError(f"{layout}: found another layout than ours, expected a store")
            yield

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Tell what the system refused as what happened to this store."""
        try:
            yield
        except OSError as error:
            raise VnfsbuildError(
                f"store {self.path}: {error.strerror}; it is as it was before",
                hint=_space_hint(error, self.path),
            ) from error


def _space_hint(error: OSError, path: Path) -> str | None:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return f"make space: df -h {path} shows how much there is" if full else None
