"""Referrers: how signatures and attestations are tied to their capsule, and in which order.

Format: docs/capsule-format.md. Each has an OCI manifest that names the capsule's as its subject;
the *referrers index* of a capsule lists those manifests, sorted by digest.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vnfsbuild.digest import Digest, digest_of
from vnfsbuild.dsse import KeyId, parse_envelope
from vnfsbuild.errors import VerificationError
from vnfsbuild.manifest import OCI_MANIFEST, SIGNATURE, IndexEntry, render_index
from vnfsbuild.referrers.attachment import attachment_entry, make_carried, render_attachment
from vnfsbuild.referrers.attestation import PROVENANCE, parse_attestation
from vnfsbuild.verify import VerifiedCapsule

MAX_SIGNATURES = 64
MAX_ATTESTATIONS = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Referrers:
    """What ties signatures and attestations to a capsule, as an OCI layout holds it."""

    index: bytes
    """An OCI index of *manifests*, and of what else refers to the capsule."""
    manifests: tuple[bytes, ...]
    """The manifest of each envelope, sorted by digest."""
    envelopes: tuple[bytes, ...]
    """In the order of *manifests*."""

    @property
    def blobs(self) -> tuple[bytes, ...]:
        """Return all blobs in the order in which a file holds them."""
        pairs = zip(self.manifests, self.envelopes, strict=True)
        return (b"{}", self.index, *(blob for pair in pairs for blob in pair))


def make_referrers(
    manifest_bytes: bytes,
    envelopes: Iterable[bytes],
    attestations: Iterable[bytes] = (),
    *,
    others: Iterable[IndexEntry] = (),
) -> Referrers:
    """Return what ties *envelopes* and *attestations* to the capsule with this manifest.

    *others* are entries of what else refers to it: a store lists them beside these.
    """
    texts = [
        *((SIGNATURE, data) for data in set(envelopes)),
        *((PROVENANCE, data) for data in set(attestations)),
    ]
    carried = sorted(
        (
            (make_carried(manifest_bytes, data, artifact_type=artifact_type), data)
            for artifact_type, data in texts
        ),
        key=lambda pair: attachment_entry(pair[0])[0].digest,
    )
    entries = [*(attachment_entry(item) for item, _ in carried), *others]
    return Referrers(
        index=render_index(sorted(entries, key=lambda entry: entry[0].digest)),
        manifests=tuple(render_attachment(item) for item, _ in carried),
        envelopes=tuple(data for _, data in carried),
    )


def referrers_tag(digest: Digest) -> str:
    """Return the name under which the referrers index of a capsule stands: ``sha256-HEX``."""
    return digest.replace(":", "-")


def order_signatures(
    capsule: VerifiedCapsule, manifest_bytes: bytes, envelopes: Iterable[bytes]
) -> tuple[bytes, ...]:
    """Return the signatures *envelopes*, each once, in the order in which a file holds them.

    Raises:
        VerificationError: one is over another manifest, does not hold exactly one signature, or is
            the second by its key; or there are too many.
    """
    ordered = _order(manifest_bytes, envelopes, SIGNATURE)
    where = capsule.config.name
    signers = [
        _signer_of(data, manifest_bytes, where=f"{where}: signature {number}")
        for number, data in enumerate(ordered)
    ]
    _require_few(signers, MAX_SIGNATURES, where=where, what="signatures")
    return ordered


def order_attestations(
    capsule: VerifiedCapsule, manifest_bytes: bytes, attestations: Iterable[bytes]
) -> tuple[bytes, ...]:
    """Return *attestations*, each once, in the order in which a file holds them.

    Raises:
        VerificationError: one is about another capsule, or is the second by its key; or there are
            too many.
    """
    ordered = _order(manifest_bytes, attestations, PROVENANCE)
    config = capsule.config
    attesters = [
        parse_attestation(
            data,
            name=config.name,
            serial=config.serial,
            digest=capsule.digest,
            where=f"{config.name}: attestation {number}",
        ).attester
        for number, data in enumerate(ordered)
    ]
    _require_few(attesters, MAX_ATTESTATIONS, where=config.name, what="attestations")
    return ordered


def _signer_of(data: bytes, manifest_bytes: bytes, *, where: str) -> KeyId:
    envelope = parse_envelope(data, where=where)
    if envelope.payload_type != OCI_MANIFEST or envelope.payload != manifest_bytes:
        raise VerificationError(f"{where}: is over another manifest")
    if len(envelope.signatures) != 1:
        raise VerificationError(
            f"{where}: found {len(envelope.signatures)} signatures in one envelope, expected 1"
        )
    return envelope.signatures[0][0]


def _require_few(keys: list[KeyId], limit: int, *, where: str, what: str) -> None:
    if len(set(keys)) != len(keys):
        raise VerificationError(f"{where}: two {what} by the same key")
    if len(keys) > limit:
        raise VerificationError(f"{where}: found {len(keys)} {what}, expected at most {limit}")


def _order(manifest_bytes: bytes, texts: Iterable[bytes], artifact_type: str) -> tuple[bytes, ...]:
    """Return *texts*, each once, in the order in which a file holds them."""

    def digest(data: bytes) -> Digest:
        made = make_carried(manifest_bytes, data, artifact_type=artifact_type)
        return digest_of(render_attachment(made))

    return tuple(sorted(set(texts), key=digest))
