"""Manifest and config of a capsule: what it consists of, and what a node needs to know of it.

Formats: docs/capsule-format.md. The manifest is an OCI image manifest (image-spec 1.1) in canonical
JSON; its digest is the capsule's digest. A bootstrap is the same with another artifact type.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Tuple

from vnfsbuild.digest import Digest, digest_of, parse_digest, parse_json, render_json
from vnfsbuild.errors import InputError, VerificationError
from vnfsbuild.reference import parse_name

CAPSULE = "application/vnd.vnfs.capsule.v1"
BOOTSTRAP = "application/vnd.vnfs.bootstrap.v1"
SIGNATURE = "application/vnd.vnfs.signature.v1"

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
CONFIG = "application/vnd.vnfs.config.v1+json"
ENVELOPE = "application/vnd.dsse.envelope.v1+json"
SOURCE = "application/vnd.vnfs.source.v1.tar"
KERNEL = "application/vnd.vnfs.kernel.v1"
INITRD = "application/vnd.vnfs.initrd.v1.cpio+zstd"
DRIVERS = "application/vnd.vnfs.drivers.v1.cpio"
LAYER_SQUASHFS = "application/vnd.vnfs.layer.v1.squashfs"
LAYER_EROFS = "application/vnd.vnfs.layer.v1.erofs"

LAYER_TYPES = {LAYER_SQUASHFS: "squashfs", LAYER_EROFS: "erofs"}
"""Media type of a layer → file system that a node mounts it as."""

ROLES = {SOURCE: "source", KERNEL: "kernel", INITRD: "initrd", DRIVERS: "drivers"}
"""Media type of a payload that is no layer → what it is called."""

MAX_METADATA_BYTES = 4 * 1024 * 1024
"""No manifest, config, index or envelope is larger; a reader need not hold more."""

MAX_PAYLOAD_BYTES = 8 * 1024**3 - 1
"""What a tar header can say."""


@dataclass(frozen=True)
class Descriptor:
    """A blob by type, digest and size (OCI descriptor, without annotations)."""

    media_type: str
    digest: Digest
    size_bytes: int


@dataclass(frozen=True)
class Manifest:
    """The list of a capsule's blobs. Signing its bytes signs everything."""

    artifact_type: str
    config: Descriptor
    payloads: Tuple[Descriptor, ...]
    """source, kernel, initrd, then the layers, the undermost first; a bootstrap has none, and may
    have more drivers beside its initrd."""

    def payload(self, media_type: str) -> Descriptor:
        """Return the one payload of *media_type*.

        Raises:
            VerificationError: there is not exactly one.
        """
        found = [payload for payload in self.payloads if payload.media_type == media_type]
        if len(found) != 1:
            raise VerificationError(f"manifest: {len(found)} payloads {media_type}, expected one")
        return found[0]

    @property
    def drivers(self) -> Optional[Descriptor]:
        """A bootstrap's drivers that are not in its initrd; none, when there are no such."""
        return next((item for item in self.payloads if item.media_type == DRIVERS), None)

    @property
    def layers(self) -> Tuple[Descriptor, ...]:
        """The rootfs layers, the undermost first."""
        return tuple(payload for payload in self.payloads if payload.media_type in LAYER_TYPES)

    @property
    def blobs(self) -> Tuple[Descriptor, ...]:
        """Config and payloads, in the order in which a ``.vnfs`` file holds them."""
        return (self.config, *self.payloads)


@dataclass(frozen=True)
class Kernel:
    """The kernel of a capsule."""

    version: str
    """What ``uname -r`` will say."""
    arguments: Tuple[str, ...]


@dataclass(frozen=True)
class Config:
    """What a node needs to know of a capsule before it fetches a payload."""

    name: str
    serial: int
    architecture: str
    distribution: str
    """mkosi's name and release, ``debian trixie``."""
    epoch: int
    """Source date epoch, seconds."""
    kernel: Kernel
    layers: Tuple[str, ...]
    """A name for each layer, in mount order, the undermost first: ``rootfs``, ``modules``."""
    bootstrap_protocol: int
    """The least protocol that a bootstrap must speak to boot this."""


def render_descriptor(descriptor: Descriptor) -> Dict[str, Any]:
    """Return *descriptor* as it stands in JSON."""
    return {
        "digest": descriptor.digest,
        "mediaType": descriptor.media_type,
        "size": descriptor.size_bytes,
    }


def parse_descriptor(value: Any, *, where: str) -> Descriptor:
    """Return the descriptor that *value* stands for; annotations are passed over.

    Raises:
        VerificationError: it is none.
    """
    try:
        size = value["size"]
        if type(size) is not int or size < 0:
            raise ValueError(f"size {size!r}")
        if not isinstance(value["mediaType"], str):
            raise ValueError(f"mediaType {value['mediaType']!r}")
        digest = parse_digest(value["digest"], where=where)
        return Descriptor(value["mediaType"], digest, size)
    except (KeyError, TypeError, ValueError, InputError) as error:
        raise VerificationError(f"{where}: not a descriptor: {error}") from error


def render_manifest(manifest: Manifest) -> bytes:
    """Return the bytes of *manifest*, whose digest is the capsule's."""
    return render_json(
        {
            "artifactType": manifest.artifact_type,
            "config": render_descriptor(manifest.config),
            "layers": [render_descriptor(payload) for payload in manifest.payloads],
            "mediaType": OCI_MANIFEST,
            "schemaVersion": 2,
        }
    )


def parse_manifest(data: bytes, *, where: str = "manifest") -> Manifest:
    """Return the manifest of a capsule or bootstrap that *data* is the text of.

    Raises:
        VerificationError: any other text than :func:`render_manifest` writes, an unknown artifact
            type, payloads in another order than source, kernel, initrd, layers, a capsule without
            a layer, a bootstrap with more than drivers after its initrd, or a blob with two sizes.
    """
    value = parse_json(data, where=where)
    layers = value.get("layers")
    manifest = Manifest(
        artifact_type=str(value.get("artifactType")),
        config=parse_descriptor(value.get("config"), where=f"{where}: config"),
        payloads=tuple(
            parse_descriptor(item, where=f"{where}: layers[{position}]")
            for position, item in enumerate(layers if isinstance(layers, list) else [])
        ),
    )
    if manifest.artifact_type not in (CAPSULE, BOOTSTRAP):
        raise VerificationError(
            f"{where}: found artifact type {manifest.artifact_type!r}, expected {CAPSULE!r}"
        )
    _require_payloads(manifest, where=where)
    if render_manifest(manifest) != data:
        raise VerificationError(f"{where}: holds more than the format knows")
    return manifest


def _require_payloads(manifest: Manifest, *, where: str) -> None:
    if manifest.config.media_type != CONFIG:
        raise VerificationError(
            f"{where}: found a config {manifest.config.media_type!r}, expected {CONFIG!r}"
        )
    kinds = [payload.media_type for payload in manifest.payloads]
    rest = kinds[3:]
    if manifest.artifact_type == CAPSULE:
        wanted, fits = "at least one layer", bool(rest) and set(rest) <= set(LAYER_TYPES)
    else:
        wanted, fits = "drivers or nothing more", rest in ([], [DRIVERS])
    if kinds[:3] != [SOURCE, KERNEL, INITRD] or not fits:
        raise VerificationError(
            f"{where}: found payloads {', '.join(kinds) or 'none'}; "
            f"expected source, kernel, initrd, {wanted}"
        )
    largest = max(payload.size_bytes for payload in manifest.payloads)
    if largest > MAX_PAYLOAD_BYTES:
        raise VerificationError(f"{where}: found a payload of 8 GiB or more, expected less")
    if len({(blob.digest, blob.size_bytes) for blob in manifest.blobs}) != len(
        {blob.digest for blob in manifest.blobs}
    ):
        raise VerificationError(f"{where}: a blob with two sizes")


def render_config(config: Config) -> bytes:
    """Return the bytes of *config*."""
    return render_json(
        {
            "architecture": config.architecture,
            "bootstrapProtocol": config.bootstrap_protocol,
            "distribution": config.distribution,
            "epoch": config.epoch,
            "kernel": {
                "arguments": list(config.kernel.arguments),
                "version": config.kernel.version,
            },
            "layers": list(config.layers),
            "name": config.name,
            "serial": config.serial,
        }
    )


def parse_config(data: bytes, *, where: str = "config") -> Config:
    """Return the config that *data* is the text of.

    Raises:
        VerificationError: any other text than :func:`render_config` writes, or a layer's name that
            could not be part of a file's name.
    """
    value = parse_json(data, where=where)
    try:
        config = Config(
            name=parse_name(value["name"], where=where),
            serial=_count(value["serial"]),
            architecture=_text(value["architecture"]),
            distribution=_text(value["distribution"]),
            epoch=_count(value["epoch"]),
            kernel=Kernel(
                version=_text(value["kernel"]["version"]),
                arguments=_texts(value["kernel"]["arguments"]),
            ),
            layers=tuple(parse_name(item, where="layers") for item in value["layers"]),
            bootstrap_protocol=_count(value["bootstrapProtocol"]),
        )
    except (KeyError, TypeError, ValueError, InputError) as error:
        raise VerificationError(f"{where}: not a capsule's config: {error}") from error
    if render_config(config) != data:
        raise VerificationError(f"{where}: holds more than the format knows")
    return config


EMPTY = Descriptor(OCI_EMPTY, digest_of(b"{}"), 2)
"""The OCI empty blob, config of manifests that need none."""


@dataclass(frozen=True)
class SignatureManifest:
    """A referrer that carries one envelope over a capsule's manifest."""

    envelope: Descriptor
    subject: Descriptor
    config: Descriptor = field(default=EMPTY)


def render_signature_manifest(signature: SignatureManifest) -> bytes:
    """Return the OCI manifest of a signature."""
    return render_json(
        {
            "artifactType": SIGNATURE,
            "config": render_descriptor(signature.config),
            "layers": [render_descriptor(signature.envelope)],
            "mediaType": OCI_MANIFEST,
            "schemaVersion": 2,
            "subject": render_descriptor(signature.subject),
        }
    )


def make_signature_manifest(manifest: bytes, envelope: bytes) -> SignatureManifest:
    """Return what ties *envelope* to the capsule whose manifest has these bytes."""
    return SignatureManifest(
        envelope=Descriptor(ENVELOPE, digest_of(envelope), len(envelope)),
        subject=Descriptor(OCI_MANIFEST, digest_of(manifest), len(manifest)),
    )


def parse_signature_manifest(data: bytes, *, where: str) -> SignatureManifest:
    """Return the signature that *data* is the manifest of.

    Raises:
        VerificationError: any other text than :func:`render_signature_manifest` writes.
    """
    value = parse_json(data, where=where)
    layers = value.get("layers")
    signature = SignatureManifest(
        envelope=parse_descriptor(
            layers[0] if isinstance(layers, list) and layers else None, where=f"{where}: layers[0]"
        ),
        subject=parse_descriptor(value.get("subject"), where=f"{where}: subject"),
    )
    if signature.envelope.media_type != ENVELOPE or render_signature_manifest(signature) != data:
        raise VerificationError(f"{where}: not the manifest of a signature")
    return signature


IndexEntry = Tuple[Descriptor, Optional[str], Mapping[str, str]]
"""Descriptor, artifact type, annotations."""


def render_index(entries: List[IndexEntry]) -> bytes:
    """Return an OCI index of *entries*."""
    manifests = []
    for descriptor, artifact_type, notes in entries:
        entry = render_descriptor(descriptor)
        if artifact_type:
            entry["artifactType"] = artifact_type
        if notes:
            entry["annotations"] = dict(notes)
        manifests.append(entry)
    return render_json({"manifests": manifests, "mediaType": OCI_INDEX, "schemaVersion": 2})


def parse_index(data: bytes, *, where: str) -> List[IndexEntry]:
    """Return the entries of the OCI index *data*.

    Raises:
        VerificationError: any other text than :func:`render_index` writes.
    """
    value = parse_json(data, where=where)
    try:
        entries: List[IndexEntry] = [
            (
                parse_descriptor(item, where=f"{where}: manifests[{position}]"),
                item.get("artifactType"),
                {key: _text(text) for key, text in item.get("annotations", {}).items()},
            )
            for position, item in enumerate(value["manifests"])
        ]
        canonical = render_index(entries)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise VerificationError(f"{where}: not an OCI index: {error!r}") from error
    if canonical != data:
        raise VerificationError(f"{where}: holds more than the format knows")
    return entries


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError(f"found {value!r}, expected text")
    return value


def _texts(value: Any) -> Tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError(f"found {value!r}, expected a list")
    return tuple(_text(item) for item in value)


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"found {value!r}, expected a whole number")
    return value
