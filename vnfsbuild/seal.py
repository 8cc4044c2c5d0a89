"""From payload files to an artifact of the store: manifest, signature, tags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vnfsbuild.digest import Digest
from vnfsbuild.dsse import KeyId
from vnfsbuild.lock import Lock
from vnfsbuild.manifest import (
    CONFIG,
    DRIVERS,
    INITRD,
    KERNEL,
    SOURCE,
    Config,
    Descriptor,
    Manifest,
    render_config,
    render_manifest,
)
from vnfsbuild.reference import Reference
from vnfsbuild.referrers.attachment import PACKAGE_SET as PACKAGES
from vnfsbuild.signing.keys import SecretKey, sign_manifest
from vnfsbuild.stagerecord import StageReport
from vnfsbuild.store.store import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class Payloads:
    """What was made, as files in the workspace."""

    source: bytes
    kernel: Path
    initrd: Path
    layers: Sequence[tuple[str, Path]] = ()
    """(media type, file), the undermost first"""
    drivers: Path | None = None
    """of a bootstrap that has some beside its initrd"""


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltCapsule:
    """A capsule, or bootstrap, that the store now has."""

    reference: Reference
    digest: Digest
    size_bytes: int
    """of all its blobs"""
    signers: tuple[KeyId, ...]
    payloads: tuple[Descriptor, ...] = ()
    """but for the source"""
    stages: tuple[StageReport, ...] = ()
    """what became of them"""


def attach_packages(
    store: Store, built: BuiltCapsule, lock: Lock, *, cache: Path, work: Path
) -> None:
    """Let the packages of *lock* refer to the capsule that was *built* from it.

    *work* is a directory with room for them. The capsule stays what it is.

    Raises:
        VnfsbuildError: they cannot be written.
    """
    # Most builds keep none, and what fetches packages takes time to load.
    from vnfsbuild.packageset import write_package_set

    path = work / "packages.tar"
    write_package_set(lock, path, cache=cache)
    blob = store.add_blob(path, media_type=PACKAGES)
    store.attach(Reference(built.reference.name, digest=built.digest), blob, artifact_type=PACKAGES)


def seal(
    store: Store, artifact_type: str, config: Config, payloads: Payloads, *, key: SecretKey | None
) -> BuiltCapsule:
    """Put *payloads* into *store* as one artifact, signed by *key* when there is one.

    Readers of the store see nothing of it, or all of it.

    Raises:
        VnfsbuildError: it cannot be written; the store is as it was.
    """
    return seal_again(
        store,
        artifact_type,
        config,
        payloads.source,
        (
            store.add_blob(payloads.kernel, media_type=KERNEL),
            store.add_blob(payloads.initrd, media_type=INITRD),
            *(store.add_blob(path, media_type=kind) for kind, path in payloads.layers),
            *([store.add_blob(payloads.drivers, media_type=DRIVERS)] if payloads.drivers else []),
        ),
        key=key,
    )


def seal_again(
    store: Store,
    artifact_type: str,
    config: Config,
    source: bytes,
    ready: tuple[Descriptor, ...],
    *,
    key: SecretKey | None,
) -> BuiltCapsule:
    """Put into *store* the artifact of payloads that it has: *ready*, all but the *source*.

    Raises:
        VnfsbuildError: it cannot be written; the store is as it was.
    """
    config_bytes = render_config(config)
    manifest = Manifest(
        artifact_type=artifact_type,
        config=store.add_blob(config_bytes, media_type=CONFIG),
        payloads=(store.add_blob(source, media_type=SOURCE), *ready),
    )
    manifest_bytes = render_manifest(manifest)
    envelopes = [sign_manifest(manifest_bytes, key)] if key else []
    digest = store.add_capsule(manifest_bytes, config_bytes, envelopes)
    return BuiltCapsule(
        reference=Reference(config.name, str(config.serial)),
        digest=digest,
        size_bytes=len(manifest_bytes) + sum(blob.size_bytes for blob in manifest.blobs),
        signers=(key.key_id,) if key else (),
        payloads=ready,
    )
