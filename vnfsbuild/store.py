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
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

from vnfsbuild.blobs import Blobs, Incoming, open_incoming
from vnfsbuild.capsule import (
    LAYOUT,
    LAYOUT_NAME,
    Advance,
    Head,
    load_capsule,
    make_head,
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
from vnfsbuild.files import locked, write_atomic
from vnfsbuild.manifest import (
    Descriptor,
    parse_index,
    parse_manifest,
    parse_signature_manifest,
)
from vnfsbuild.reference import Reference, parse_reference
from vnfsbuild.storeindex import (
    StoredCapsule,
    StoreIndex,
    merge_signatures,
    parse_store_index,
    render_store_index,
    signer_of,
)
from vnfsbuild.trust import Trust
from vnfsbuild.verify import VerifiedCapsule

logger = logging.getLogger(__name__)

T = TypeVar("T")

READ_ATTEMPTS = 5
"""How often a reader begins anew when what the index named was deleted under its eyes."""


class Store(Blobs):
    """The store in the directory *path*, which the first write makes."""

    def get(self, reference: Reference) -> StoredCapsule:
        """Return the capsule that *reference* means.

        Raises:
            InputError: the store has none.
            VerificationError: what describes it was damaged.
        """
        capsule = self._read(lambda index: self._load(index, self._resolve(index, reference)))
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

    def tag(self, reference: Reference, tag: str) -> None:
        """Let ``NAME:TAG`` mean the capsule of *reference* from now on.

        Raises:
            InputError: there is no such capsule, or *tag* cannot be one: numbers are serials.
        """
        parse_reference(f"{reference.name}:{tag}")
        if tag.isdigit():
            raise InputError(f"tag {tag!r}: numbers are serials, which are given by building")
        with self._told(), self._writing():
            index = self._load_index()
            capsule = self._load(index, self._resolve(index, reference))
            self._save_index(index.with_tag(capsule.name, tag, capsule.digest))

    def delete(self, reference: Reference) -> tuple[Digest, ...]:
        """Delete a capsule with its tags; return the blobs that went since nothing names them.

        Raises:
            InputError: the store has no such capsule.
            VerificationError: what describes another capsule was damaged, so that it is not known
                which blobs it needs.
        """
        with self._told(), self._writing():
            index = self._load_index()
            digest = self._resolve(index, reference)
            rest = index.without_capsule(digest)
            kept: set[Digest] = set()
            for other in rest.capsules:
                kept |= self._blobs_of(rest, other)
            gone = tuple(sorted(self._blobs_of_perhaps_damaged(index, digest) - kept))
            self._save_index(rest)
            for blob in gone:
                self.blob_path(blob).unlink(missing_ok=True)
        return gone

    # What follows is how.

    def _resolve(self, index: StoreIndex, reference: Reference) -> Digest:
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
                return read(self._load_index())
        try:
            return read(self._load_index())
        except FileNotFoundError as error:
            raise self.missing(f"sha256:{Path(error.filename).name}") from error

    def _load(self, index: StoreIndex, digest: Digest) -> StoredCapsule:
        manifest_bytes = self.read_metadata(index.capsules[digest][0])
        config_bytes = self.read_metadata(parse_manifest(manifest_bytes).config)
        head = make_head(manifest_bytes, config_bytes, self._envelopes(index, digest))
        return StoredCapsule(head=head, tags=index.tags_of(digest))

    def _peek(self, index: StoreIndex, digest: Digest) -> StoredCapsule | None:
        try:
            return self._load(index, digest)
        except VerificationError as error:
            logger.warning("%s: left out of the list: %s", self.path, error)
            return None

    def _envelopes(self, index: StoreIndex, digest: Digest) -> list[bytes]:
        return [self.read_metadata(envelope) for _, envelope in self._signatures(index, digest)]

    def _signatures(
        self, index: StoreIndex, digest: Digest
    ) -> Iterator[tuple[Descriptor, Descriptor]]:
        if digest not in index.referrers:
            return
        listed = self.read_metadata(index.referrers[digest])
        for manifest, _, _ in parse_index(listed, where=f"{self.path}: signatures"):
            data = self.read_metadata(manifest)
            yield manifest, parse_signature_manifest(data, where=f"{self.path}: signature").envelope

    def _blobs_of(self, index: StoreIndex, digest: Digest) -> set[Digest]:
        """Return all blobs that a capsule needs."""
        manifest = parse_manifest(self.read_metadata(index.capsules[digest][0]))
        blobs = {digest, *(blob.digest for blob in manifest.blobs)}
        if digest in index.referrers:
            blobs |= {digest_of(b"{}"), index.referrers[digest].digest}
            for pair in self._signatures(index, digest):
                blobs |= {descriptor.digest for descriptor in pair}
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
            index = self._load_index()
            digest = head.capsule.digest
            envelopes = merge_signatures(
                self._held_envelopes(index, digest), head.envelopes, believed
            )
            head = make_head(head.manifest_bytes, head.config_bytes, envelopes)
            for payload in payloads_after(head):
                if not (incoming.has(payload) or self.blob_path(payload.digest).exists()):
                    raise self.missing(payload.digest)
            for _, data in render_head(head)[2:]:
                incoming.put(data)
            incoming.move_to_store()
            added = index.with_capsule(head, current=current)
            self._save_index(added)
            before = index.referrers.get(digest)
            if before is not None and before != added.referrers.get(digest):
                self.blob_path(before.digest).unlink(missing_ok=True)

    def _held_envelopes(self, index: StoreIndex, digest: Digest) -> tuple[bytes, ...]:
        """Return the signatures that the store has, none where they were damaged: what comes in
        now takes their place.
        """
        if digest not in index.capsules:
            return ()
        try:
            return self._load(index, digest).envelopes
        except (VerificationError, FileNotFoundError) as error:
            logger.warning("%s: written anew, since it was damaged: %s", digest, error)
            return ()

    def _load_index(self) -> StoreIndex:
        path = self.path / "index.json"
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return StoreIndex()
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from error
        return parse_store_index(data, where=os.fspath(path))

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
                self._save_index(self._load_index())
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
