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
from vnfsbuild.dsse import KeyId
from vnfsbuild.errors import InputError, VerificationError
from vnfsbuild.files import open_atomic
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
    parse_index,
    parse_manifest,
    render_index,
)
from vnfsbuild.referrers.attachment import CARRIED, parse_attachment
from vnfsbuild.referrers.attestation import PROVENANCE, find_attesters
from vnfsbuild.referrers.index import (
    MAX_ATTESTATIONS,
    MAX_SIGNATURES,
    make_referrers,
    order_attestations,
    order_signatures,
    referrers_tag,
)
from vnfsbuild.signing.keys import verify_ed25519
from vnfsbuild.trust import Trust
from vnfsbuild.verify import VerifiedCapsule, open_capsule, verify_capsule

LAYOUT_NAME = "oci-layout"
LAYOUT = render_json({"imageLayoutVersion": "1.0.0"})
INDEX_NAME = "index.json"
REF_NAME = "org.opencontainers.image.ref.name"

Advance = Callable[[int], None]
"""Is told how many more bytes are done."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """All of a capsule but its payloads; whole in itself, but no signature in it is verified."""

    manifest_bytes: bytes
    config_bytes: bytes
    envelopes: tuple[bytes, ...]
    """Texts of the signatures, one signer each, in the order in which a file holds them."""
    attestations: tuple[bytes, ...] = ()
    """Texts of what builders say of it, one builder each, in the order of a file."""
    capsule: VerifiedCapsule

    @property
    def name(self) -> str:
        """Return the capsule's name."""
        return self.capsule.config.name


def make_head(
    manifest_bytes: bytes,
    config_bytes: bytes,
    envelopes: Iterable[bytes],
    attestations: Iterable[bytes] = (),
) -> Head:
    """Return the head of the capsule that these bytes describe.

    Raises:
        VerificationError: they do not belong together; a signature or an attestation is over
            another manifest, does not hold exactly one signature, or is the second by its key; or
            there are too many.
    """
    capsule = open_capsule(manifest_bytes, config_bytes)
    return Head(
        manifest_bytes=manifest_bytes,
        config_bytes=config_bytes,
        envelopes=order_signatures(capsule, manifest_bytes, envelopes),
        attestations=order_attestations(capsule, manifest_bytes, attestations),
        capsule=capsule,
    )


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
    if head.envelopes or head.attestations:
        referrers = make_referrers(head.manifest_bytes, head.envelopes, head.attestations)
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
        write_head(file, head)
        for payload in payloads_after(head):
            with open_blob(payload.digest) as blob:
                chunks = verify_payload(read_chunks(blob), payload, where=f"{head.name}: blob")
                write_payload(file, payload, chunks, advance)
        file.write(ustar.END)


def write_head(file: BinaryIO, head: Head) -> None:
    """Write what stands before the payloads."""
    for name, data in render_head(head):
        file.write(ustar.render_header(name, len(data)) + data + ustar.padding(len(data)))


def write_payload(
    file: BinaryIO, payload: Descriptor, chunks: Iterable[bytes], advance: Advance | None
) -> None:
    """Write one payload, whose *chunks* verify themselves."""
    file.write(ustar.render_header(blob_name(payload.digest), payload.size_bytes))
    for chunk in chunks:
        file.write(chunk)
        if advance:
            advance(len(chunk))
    file.write(ustar.padding(payload.size_bytes))


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
    head = read_head(source)
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


def verify_attestations(head: Head, *, trust: Trust) -> tuple[KeyId, ...]:
    """Return who of those whose word counts says to have built *head*; see
    :func:`~vnfsbuild.referrers.attestation.find_attesters`.

    Raises:
        VerificationError: one who counts did not sign that, or says something else.
    """
    return find_attesters(
        head.capsule, head.attestations, trust=trust, verify_ed25519=verify_ed25519
    )


def verify_file(
    path: Path, *, trust: Trust, now: int, advance: Advance | None = None
) -> VerifiedCapsule:
    """Verify the ``.vnfs`` file *path*, every byte and who signed it; *now* in seconds since 1970.

    Raises:
        InputError: the file cannot be read.
        VerificationError: it is damaged, or *trust* does not say that it may run.
    """
    verdict: list[VerifiedCapsule] = []

    def admit(head: Head) -> None:
        verdict.append(verify_head(head, trust=trust, now=now))
        verify_attestations(head, trust=trust)

    skim_capsule(path, admit=admit, advance=advance)
    return verdict[0]


def skim_capsule(
    path: Path,
    *,
    admit: Callable[[Head], None] = lambda _: None,
    advance: Advance | None = None,
) -> Head:
    """Return the head of the file *path*, all of which was read and found whole.

    *admit* may refuse it before any payload is read.

    Raises:
        InputError: the file cannot be read.
        VerificationError: it is damaged.
    """

    def take(payload: Descriptor, chunks: Iterator[bytes]) -> None:
        for chunk in chunks:
            if advance:
                advance(len(chunk))

    return load_capsule(path, admit=admit, take=take)


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


def read_head(source: ustar.Reader) -> Head:
    """Read a file up to its first payload: follow the digests, then compare with the valid text.

    Raises:
        VerificationError: it is not the one valid byte sequence for what it holds.
    """
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
    carried: dict[str, list[bytes]] = {kind: [] for kind in CARRIED}
    if len(entries) == 2:  # the capsule and the index of what refers to it
        members.append(_read_blob(source, EMPTY))
        members.append(_read_blob(source, entries[1][0]))
        members += _read_carried(source, members[-1][1], carried)
    members.append(_read_blob(source, parse_manifest(manifest_bytes, where=where).config))
    head = make_head(manifest_bytes, members[-1][1], carried[SIGNATURE], carried[PROVENANCE])
    _require_equal(members, render_head(head), where=where)
    return head


def _read_carried(
    source: ustar.Reader, index: bytes, carried: dict[str, list[bytes]]
) -> list[tuple[str, bytes]]:
    """Return the members that *index* lists, and add each envelope to its kind in *carried*."""
    where = source.where
    listed = parse_index(index, where=f"{where}: referrers")
    limit = MAX_SIGNATURES + MAX_ATTESTATIONS
    if not 1 <= len(listed) <= limit:
        raise VerificationError(
            f"{where}: found {len(listed)} signatures and attestations, expected 1 to {limit}"
        )
    members = []
    for descriptor, _, _ in listed:
        members.append(_read_blob(source, descriptor))
        item = parse_attachment(members[-1][1], where=f"{where}: referrer")
        if item.artifact_type not in CARRIED:
            raise VerificationError(
                f"{where}: found a referrer of type {item.artifact_type!r}, "
                "expected signatures and attestations alone"
            )
        members.append(_read_blob(source, item.blob))
        carried[item.artifact_type].append(members[-1][1])
    return members


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
