"""The ``.vnfs`` file: a whole capsule in one tar, of which there is only one valid byte sequence.

Format: docs/capsule-format.md. What stands before the payloads (the *head*) is small and read
whole; then it is rendered again from what it says, and any other text is refused. Payloads stream:
each is handed on while its digest is computed, and is not to be used before its end was reached.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vnfsbuild import ustar
from vnfsbuild.digest import READ_SIZE_BYTES, Digest, digest_of, render_json, verify_stream
from vnfsbuild.dsse import parse_envelope
from vnfsbuild.errors import InputError, VerificationError
from vnfsbuild.files import open_atomic
from vnfsbuild.keys import verify_ed25519
from vnfsbuild.manifest import (
    BOOTSTRAP,
    CAPSULE,
    EMPTY,
    MAX_METADATA_BYTES,
    OCI_INDEX,
    OCI_MANIFEST,
    SIGNATURE,
    Descriptor,
    IndexEntry,
    make_signature_manifest,
    parse_index,
    parse_manifest,
    parse_signature_manifest,
    render_index,
    render_signature_manifest,
)
from vnfsbuild.trust import Trust
from vnfsbuild.verify import VerifiedCapsule, open_capsule, verify_capsule

LAYOUT_NAME = "oci-layout"
LAYOUT = render_json({"imageLayoutVersion": "1.0.0"})
INDEX_NAME = "index.json"
REF_NAME = "org.opencontainers.image.ref.name"

MAX_SIGNATURES = 64

Advance = Callable[[int], None]
"""Is told how many more bytes are done."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """All of a capsule but its payloads; whole in itself, but no signature in it is verified."""

    manifest_bytes: bytes
    config_bytes: bytes
    envelopes: tuple[bytes, ...]
    """Texts of the signatures, one signer each, in the order in which a file holds them."""
    capsule: VerifiedCapsule

    @property
    def name(self) -> str:
        """Return the capsule's name."""
        return self.capsule.config.name


@dataclass(frozen=True, kw_only=True, slots=True)
class Referrers:
    """What ties signatures to a capsule, as an OCI layout holds it."""

    index: bytes
    """An OCI index of *manifests*."""
    manifests: tuple[bytes, ...]
    """The manifest of each envelope, sorted by digest."""
    envelopes: tuple[bytes, ...]
    """In the order of *manifests*."""

    @property
    def blobs(self) -> tuple[bytes, ...]:
        """Return all blobs in the order in which a file holds them."""
        pairs = zip(self.manifests, self.envelopes, strict=True)
        return (b"{}", self.index, *(blob for pair in pairs for blob in pair))


def make_head(manifest_bytes: bytes, config_bytes: bytes, envelopes: Iterable[bytes]) -> Head:
    """Return the head of the capsule that these bytes describe.

    Raises:
        VerificationError: they do not belong together, an envelope is over another manifest or
            does not hold exactly one signature, or a key has signed twice.
    """
    capsule = open_capsule(manifest_bytes, config_bytes)
    referrers = make_referrers(manifest_bytes, envelopes)
    signers = set()
    for number, data in enumerate(referrers.envelopes):
        where = f"{capsule.config.name}: signature {number}"
        envelope = parse_envelope(data, where=where)
        if envelope.payload_type != OCI_MANIFEST or envelope.payload != manifest_bytes:
            raise VerificationError(f"{where}: is over another manifest")
        if len(envelope.signatures) != 1:
            raise VerificationError(
                f"{where}: found {len(envelope.signatures)} signatures in one envelope, expected 1"
            )
        signers.add(envelope.signatures[0][0])
    if len(signers) != len(referrers.envelopes):
        raise VerificationError(f"{capsule.config.name}: two signatures by the same key")
    if len(signers) > MAX_SIGNATURES:
        raise VerificationError(
            f"{capsule.config.name}: found {len(signers)} signatures, "
            f"expected at most {MAX_SIGNATURES}"
        )
    return Head(
        manifest_bytes=manifest_bytes,
        config_bytes=config_bytes,
        envelopes=referrers.envelopes,
        capsule=capsule,
    )


def make_referrers(
    manifest_bytes: bytes, envelopes: Iterable[bytes], others: Iterable[IndexEntry] = ()
) -> Referrers:
    """Return what ties *envelopes* to the capsule with this manifest.

    *others* are entries of referrers that are no signatures: a store lists them beside these.
    """
    pairs = sorted(
        (
            (render_signature_manifest(make_signature_manifest(manifest_bytes, data)), data)
            for data in set(envelopes)
        ),
        key=lambda pair: digest_of(pair[0]),
    )
    entries: list[IndexEntry] = [
        (Descriptor(OCI_MANIFEST, digest_of(manifest), len(manifest)), SIGNATURE, {})
        for manifest, _ in pairs
    ]
    return Referrers(
        index=render_index(sorted([*entries, *others], key=lambda entry: entry[0].digest)),
        manifests=tuple(manifest for manifest, _ in pairs),
        envelopes=tuple(data for _, data in pairs),
    )


def referrers_tag(digest: Digest) -> str:
    """Return the name under which the referrers index of a capsule stands: ``sha256-HEX``."""
    return digest.replace(":", "-")


def blob_name(digest: str) -> str:
    """Return where an OCI layout keeps the blob."""
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def render_head(head: Head) -> tuple[tuple[str, bytes], ...]:
    """Return the members of a file that stand before the payloads: name, content."""
    manifest = Descriptor(OCI_MANIFEST, head.capsule.digest, len(head.manifest_bytes))
    entries: list[IndexEntry] = [
        (manifest, head.capsule.manifest.artifact_type, {REF_NAME: head.name})
    ]
    blobs = [head.manifest_bytes]
    if head.envelopes:
        referrers = make_referrers(head.manifest_bytes, head.envelopes)
        index = Descriptor(OCI_INDEX, digest_of(referrers.index), len(referrers.index))
        entries.append((index, None, {REF_NAME: referrers_tag(manifest.digest)}))
        blobs += referrers.blobs
    blobs.append(head.config_bytes)
    return (
        (LAYOUT_NAME, LAYOUT),
        (INDEX_NAME, render_index(entries)),
        *((blob_name(digest_of(blob)), blob) for blob in blobs),
    )


def payloads_after(head: Head) -> tuple[Descriptor, ...]:
    """Return the payloads that follow the head: each blob once, none that the head holds."""
    seen = {name for name, _ in render_head(head)}
    payloads = []
    for payload in head.capsule.manifest.payloads:
        if blob_name(payload.digest) not in seen:
            seen.add(blob_name(payload.digest))
            payloads.append(payload)
    return tuple(payloads)


def payload_bytes(head: Head) -> int:
    """Return how many bytes of payload a file of this capsule holds."""
    return sum(payload.size_bytes for payload in payloads_after(head))


def write_capsule(
    path: Path,
    head: Head,
    open_blob: Callable[[Digest], BinaryIO],
    *,
    advance: Advance | None = None,
) -> None:
    """Write the file of a capsule; *path* appears when it is whole, else stays as it was.

    Raises:
        VerificationError: a blob is not what the manifest says.
        InputError: a payload is too large for the format.
    """
    with open_atomic(path) as file:
        for name, data in render_head(head):
            file.write(ustar.render_header(name, len(data)) + data + ustar.padding(len(data)))
        for payload in payloads_after(head):
            file.write(ustar.render_header(blob_name(payload.digest), payload.size_bytes))
            with open_blob(payload.digest) as blob:
                for chunk in verify_payload(read_chunks(blob), payload, where=f"{head.name}: blob"):
                    file.write(chunk)
                    if advance:
                        advance(len(chunk))
            file.write(ustar.padding(payload.size_bytes))
        file.write(ustar.END)


def verify_payload(chunks: Iterator[bytes], payload: Descriptor, *, where: str) -> Iterator[bytes]:
    """Pass the bytes of *payload* on; as :func:`verify_stream`, with words for people."""
    return verify_stream(
        chunks,
        digest=payload.digest,
        size_bytes=payload.size_bytes,
        where=f"{where} {payload.digest[:19]} ({payload.media_type})",
    )


def read_capsule(
    stream: BinaryIO,
    *,
    where: str,
    admit: Callable[[Head], None],
    take: Callable[[Descriptor, Iterator[bytes]], None],
) -> Head:
    """Read a ``.vnfs`` file from its first byte to its last; return its head.

    *admit* sees the head before any payload is read, and raises to refuse it. *take* is given
    each payload and must exhaust the iterator, which raises unless the bytes are the right ones.

    Raises:
        VerificationError: the file is not the one valid byte sequence for what it holds.
    """
    source = ustar.Reader(stream, where)
    head = _read_head(source)
    admit(head)
    for payload in payloads_after(head):
        source.header(blob_name(payload.digest), size_bytes=payload.size_bytes)
        take(payload, verify_payload(source.chunks(payload.size_bytes), payload, where=where))
        source.padding(payload.size_bytes)
    source.end()
    return head


def verify_head(head: Head, *, trust: Trust, now: int) -> VerifiedCapsule:
    """Return the verdict of :func:`~vnfsbuild.verify.verify_capsule` on *head*.

    Raises:
        VerificationError: *trust* does not say that this capsule may run.
    """
    return verify_capsule(
        head.manifest_bytes,
        head.config_bytes,
        head.envelopes,
        trust=trust,
        now=now,
        verify_ed25519=verify_ed25519,
    )


def verify_file(
    path: Path, *, trust: Trust, now: int, advance: Advance | None = None
) -> VerifiedCapsule:
    """Verify the ``.vnfs`` file *path*, every byte and who signed it; *now* in seconds since 1970.

    Raises:
        InputError: the file cannot be read.
        VerificationError: it is damaged, or *trust* does not say that it may run.
    """

    def take(payload: Descriptor, chunks: Iterator[bytes]) -> None:
        for chunk in chunks:
            if advance:
                advance(len(chunk))

    head = load_capsule(path, admit=lambda _: None, take=take)
    return verify_head(head, trust=trust, now=now)


def load_capsule(
    path: Path,
    *,
    admit: Callable[[Head], None],
    take: Callable[[Descriptor, Iterator[bytes]], None],
) -> Head:
    """Read the file *path*; as :func:`read_capsule`.

    Raises:
        InputError: the file cannot be read.
        VerificationError: it is not the one valid byte sequence for what it holds.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    with file:
        return read_capsule(file, where=os.fspath(path), admit=admit, take=take)


def _read_head(source: ustar.Reader) -> Head:
    """Follow the digests from the index to the config, then compare all with the one valid text."""
    members = [source.member(LAYOUT_NAME, limit_bytes=MAX_METADATA_BYTES)]
    members.append(source.member(INDEX_NAME, limit_bytes=MAX_METADATA_BYTES))
    where = source.where
    entries = parse_index(members[-1][1], where=f"{where}: {INDEX_NAME}")
    kinds = [(descriptor.media_type, kind) for descriptor, kind, _ in entries]
    if kinds not in (
        [(OCI_MANIFEST, artifact), *more]
        for artifact in (CAPSULE, BOOTSTRAP)
        for more in ([], [(OCI_INDEX, None)])
    ):
        raise VerificationError(f"{where}: {INDEX_NAME}: expected one capsule and its signatures")
    members.append(_read_blob(source, entries[0][0]))
    manifest_bytes = members[-1][1]
    envelopes = []
    if len(entries) == 2:  # the capsule and the index of what refers to it
        members.append(_read_blob(source, EMPTY))
        members.append(_read_blob(source, entries[1][0]))
        signatures = parse_index(members[-1][1], where=f"{where}: signatures")
        if not 1 <= len(signatures) <= MAX_SIGNATURES:
            raise VerificationError(
                f"{where}: found {len(signatures)} signatures, expected 1 to {MAX_SIGNATURES}"
            )
        for descriptor, _, _ in signatures:
            members.append(_read_blob(source, descriptor))
            signature = parse_signature_manifest(members[-1][1], where=f"{where}: signature")
            members.append(_read_blob(source, signature.envelope))
            envelopes.append(members[-1][1])
    members.append(_read_blob(source, parse_manifest(manifest_bytes, where=where).config))
    head = make_head(manifest_bytes, members[-1][1], envelopes)
    _require_equal(members, render_head(head), where=where)
    return head


def _read_blob(source: ustar.Reader, descriptor: Descriptor) -> tuple[str, bytes]:
    """Return name and content of the next member, which must be this blob."""
    name = blob_name(descriptor.digest)
    source.header(name, size_bytes=descriptor.size_bytes, limit_bytes=MAX_METADATA_BYTES)
    chunks = source.chunks(descriptor.size_bytes)
    data = b"".join(verify_payload(chunks, descriptor, where=source.where))
    source.padding(descriptor.size_bytes)
    return name, data


def _require_equal(
    found: list[tuple[str, bytes]], expected: tuple[tuple[str, bytes], ...], *, where: str
) -> None:
    for (name, data), member in zip(found, expected, strict=False):
        if (name, data) != member:
            raise VerificationError(f"{where}: {name}: in another form than the one that is valid")
    if len(found) != len(expected):
        raise VerificationError(
            f"{where}: found {len(found)} members before the payloads, expected {len(expected)}"
        )


def read_chunks(blob: BinaryIO) -> Iterator[bytes]:
    """Read *blob* to its end."""
    return iter(lambda: blob.read(READ_SIZE_BYTES), b"")
