"""The one verdict on a capsule: may its bytes run?

Bytes in, a verified capsule out, or the reason told. No file, no clock, no network: build host,
node server and node call this with what they hold, and with the Ed25519 primitive that they have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterable, Optional, Tuple

from vnfsbuild.digest import Digest, digest_of, short
from vnfsbuild.dsse import KeyId, VerifyEd25519, parse_envelope, verify_envelope
from vnfsbuild.errors import VerificationError
from vnfsbuild.manifest import OCI_MANIFEST, Config, Manifest, parse_config, parse_manifest
from vnfsbuild.trust import Trust


@dataclass(frozen=True)
class VerifiedCapsule:
    """A capsule whose manifest is signed by whom it must be. Its payloads are not yet looked at."""

    digest: Digest
    manifest: Manifest
    config: Config
    signers: Tuple[KeyId, ...]


def open_capsule(manifest_bytes: bytes, config_bytes: bytes) -> VerifiedCapsule:
    """Return the capsule that these bytes describe, whole in itself, signed by nobody.

    Raises:
        VerificationError: manifest or config are malformed, or do not belong together.
    """
    manifest = parse_manifest(manifest_bytes)
    found = digest_of(config_bytes)
    if found != manifest.config.digest or len(config_bytes) != manifest.config.size_bytes:
        raise VerificationError(
            f"config: found digest {found}, expected {manifest.config.digest} as in the manifest"
        )
    config = parse_config(config_bytes)
    if len(config.layers) != len(manifest.layers):
        raise VerificationError(
            f"config: {len(config.layers)} layers named, {len(manifest.layers)} in the manifest"
        )
    return VerifiedCapsule(digest_of(manifest_bytes), manifest, config, signers=())


def verify_capsule(
    manifest_bytes: bytes,
    config_bytes: bytes,
    envelopes: Iterable[bytes],
    *,
    trust: Trust,
    now: int,
    verify_ed25519: VerifyEd25519,
    digest: Optional[Digest] = None,
) -> VerifiedCapsule:
    """Return the capsule when *trust* says that it may run.

    *envelopes* are the texts of its signatures, *digest* the one that was asked for, *now* the
    time in seconds since 1970.

    Raises:
        VerificationError: another capsule, too few trusted signatures, a serial below the least,
            an expired trust, or anything malformed.
    """
    if digest is not None and digest_of(manifest_bytes) != digest:
        raise VerificationError(
            f"manifest: found digest {digest_of(manifest_bytes)}, expected {digest}"
        )
    capsule = open_capsule(manifest_bytes, config_bytes)
    where = f"{capsule.config.name}@{short(capsule.digest)}"
    if trust.expires <= now:
        raise VerificationError(f"{where}: trust.json version {trust.version} has expired")
    rule = trust.rule_for(capsule.config.name)
    keys = {keyid: trust.keys[keyid] for keyid in rule.keys}
    signers, strangers = set(), set()
    for number, data in enumerate(envelopes):
        envelope = parse_envelope(data, where=f"{where}: signature {number}")
        if envelope.payload != manifest_bytes:
            raise VerificationError(f"{where}: signature {number} is over another manifest")
        strangers |= {keyid for keyid, _ in envelope.signatures} - set(keys)
        signers |= set(
            verify_envelope(
                envelope,
                payload_type=OCI_MANIFEST,
                keys=keys,
                verify_ed25519=verify_ed25519,
                where=f"{where}: signature {number}",
            )
        )
    if len(signers) < rule.threshold:
        raise VerificationError(
            f"{where}: {_told(len(signers), strangers)}, "
            f"expected {rule.threshold} of the {len(set(keys))} that the rule {rule.name!r} names",
            hint="vnfsbuild keys list shows which keys are trusted",
        )
    if capsule.config.serial < rule.least_serial:
        raise VerificationError(
            f"{where}: found serial {capsule.config.serial}, "
            f"expected at least {rule.least_serial} (rule {rule.name!r})"
        )
    return VerifiedCapsule(capsule.digest, capsule.manifest, capsule.config, tuple(sorted(signers)))


def _told(trusted: int, strangers: "set[KeyId]") -> str:
    if not trusted and not strangers:
        return "not signed"
    if not strangers:
        return f"signed by {trusted} trusted keys"
    names = ", ".join(keyid[:12] for keyid in sorted(strangers))
    return f"signed by {trusted} trusted keys and by untrusted {names}"
