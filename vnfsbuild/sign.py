"""The flow of ``vnfsbuild sign``: a capsule that is there gets one signature more, or several.

What is signed is read whole first: nobody vouches for bytes that are not what the manifest says.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vnfsbuild.capsule import (
    Advance,
    Head,
    make_head,
    payloads_after,
    read_chunks,
    skim_capsule,
    verify_payload,
)
from vnfsbuild.digest import Digest, short
from vnfsbuild.errors import InputError, VerificationError, VnfsbuildError
from vnfsbuild.reference import Reference
from vnfsbuild.referrers.publish import make_attestation, read_lock_of_file, read_stored_lock
from vnfsbuild.rewrite import rewrite_capsule
from vnfsbuild.signing.keys import SecretKey, sign_manifest
from vnfsbuild.store.index import merge_signatures
from vnfsbuild.store.store import Store


def sign_stored(
    store: Store,
    reference: Reference,
    keys: Sequence[SecretKey],
    *,
    rebuilt: bool = False,
    advance: Advance | None = None,
) -> Head:
    """Add signatures by *keys* to a capsule of *store*, and return it as it is then; no tag moves.

    When it was *rebuilt*, and the same bytes came out, the keys attest that too.

    Raises:
        InputError: the store has no such capsule.
        VerificationError: it is damaged.
        VnfsbuildError: a signer failed, or it cannot be written; the store is as it was.
    """
    capsule = store.get(reference)
    for payload in payloads_after(capsule.head):
        with store.open_blob(payload.digest) as blob:
            for chunk in verify_payload(read_chunks(blob), payload, where=capsule.name):
                if advance:
                    advance(len(chunk))
    attestations = []
    if rebuilt:
        lock = read_stored_lock(store, capsule)
        attestations = [make_attestation(capsule.head, lock, key) for key in keys]
    envelopes = [sign_manifest(capsule.manifest_bytes, key) for key in keys]
    exact = Reference(capsule.name, digest=capsule.digest)
    store.add_envelopes(exact, envelopes, attestations)
    return store.get(exact).head


def sign_file(
    path: Path,
    keys: Sequence[SecretKey],
    *,
    rebuilt: Digest | None = None,
    advance: Advance | None = None,
) -> Head:
    """Add signatures by *keys* to the ``.vnfs`` file *path*, and return its head as it is then.

    When *rebuilt* is what came out of building it again, the keys attest that too. The file is the
    old one or the new one, never half of it.

    Raises:
        InputError: the file cannot be read.
        VerificationError: it is damaged, or not the capsule that was *rebuilt*.
        VnfsbuildError: a signer failed, or it cannot be written; the file is as it was.
    """
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: not a file, so nothing can be added to it")
    head = skim_capsule(path, advance=advance)
    found = head.capsule.digest
    attestations = []
    if rebuilt is not None:
        if found != rebuilt:
            raise VerificationError(
                f"{path}: found {short(found)}, expected {short(rebuilt)}: "
                "it was replaced while it was built again"
            )
        _, lock = read_lock_of_file(path)
        attestations = [make_attestation(head, lock, key) for key in keys]
    envelopes = [sign_manifest(head.manifest_bytes, key) for key in keys]
    made = {key.key_id for key in keys}

    def change(held: Head) -> Head:
        if held.manifest_bytes != head.manifest_bytes:
            raise VerificationError(f"{path}: was replaced while it was signed; it stays as it is")
        return make_head(
            held.manifest_bytes,
            held.config_bytes,
            merge_signatures(held.envelopes, envelopes, made),
            merge_signatures(held.attestations, attestations, made),
        )

    try:
        return rewrite_capsule(path, change)
    except OSError as error:
        raise VnfsbuildError(f"{path}: cannot be written: {error.strerror}") from error
