"""Attachments: what refers to a capsule without being part of it.

Each is a blob, with an OCI manifest that says what it is and whose. What is signed (signatures and
attestations) is *carried*: it travels in the file of the capsule. All else stays in stores and
registries.
"""

from __future__ import annotations

from dataclasses import dataclass

from vnfsbuild.digest import digest_of, parse_json, render_json
from vnfsbuild.errors import VerificationError
from vnfsbuild.manifest import (
    EMPTY,
    ENVELOPE,
    OCI_MANIFEST,
    SIGNATURE,
    Descriptor,
    IndexEntry,
    parse_descriptor,
    render_descriptor,
)
from vnfsbuild.referrers.attestation import PROVENANCE

SBOM = "application/spdx+json"
"""The artifact type of a bill of materials: :mod:`vnfsbuild.referrers.sbom`."""
PACKAGE_SET = "application/vnd.vnfs.packages.v1.tar"
"""The artifact type of a package set: :mod:`vnfsbuild.packageset`."""

CARRIED = {SIGNATURE: ENVELOPE, PROVENANCE: PROVENANCE}
"""Artifact type of what is in the file of a capsule → media type of its blob, an envelope."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Attachment:
    """A blob that belongs to a capsule."""

    artifact_type: str
    """also the media type of the blob, but for signatures: see :data:`CARRIED`"""
    blob: Descriptor
    subject: Descriptor
    """the capsule's manifest"""


def make_attachment(manifest_bytes: bytes, blob: Descriptor, *, artifact_type: str) -> Attachment:
    """Return what ties *blob* to the capsule whose manifest has these bytes."""
    subject = Descriptor(OCI_MANIFEST, digest_of(manifest_bytes), len(manifest_bytes))
    return Attachment(artifact_type=artifact_type, blob=blob, subject=subject)


def make_carried(manifest_bytes: bytes, envelope: bytes, *, artifact_type: str) -> Attachment:
    """Return what ties *envelope*, a signature or an attestation, to its capsule."""
    blob = Descriptor(CARRIED[artifact_type], digest_of(envelope), len(envelope))
    return make_attachment(manifest_bytes, blob, artifact_type=artifact_type)


def render_attachment(attachment: Attachment) -> bytes:
    """Return the OCI manifest of *attachment*."""
    return render_json(
        {
            "artifactType": attachment.artifact_type,
            "config": render_descriptor(EMPTY),
            "layers": [render_descriptor(attachment.blob)],
            "mediaType": OCI_MANIFEST,
            "schemaVersion": 2,
            "subject": render_descriptor(attachment.subject),
        }
    )


def parse_attachment(data: bytes, *, where: str) -> Attachment:
    """Return the attachment that *data* is the manifest of.

    Raises:
        VerificationError: any other text than :func:`render_attachment` writes.
    """
    value = parse_json(data, where=where)
    layers = value.get("layers")
    attachment = Attachment(
        artifact_type=str(value.get("artifactType")),
        blob=parse_descriptor(
            layers[0] if isinstance(layers, list) and layers else None, where=f"{where}: layers[0]"
        ),
        subject=parse_descriptor(value.get("subject"), where=f"{where}: subject"),
    )
    media_type = CARRIED.get(attachment.artifact_type, attachment.blob.media_type)
    if attachment.blob.media_type != media_type or render_attachment(attachment) != data:
        raise VerificationError(f"{where}: not the manifest of what refers to a capsule")
    return attachment


def attachment_entry(attachment: Attachment) -> IndexEntry:
    """Return the entry of *attachment* in the index of what refers to its capsule."""
    data = render_attachment(attachment)
    descriptor = Descriptor(OCI_MANIFEST, digest_of(data), len(data))
    return descriptor, attachment.artifact_type, {}
