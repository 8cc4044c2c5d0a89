"""What is said of a capsule once it is built: its bill of materials, and who vouches for the build.

Both refer to the capsule and change no byte of it. Each step can be repeated, and gives the same.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vnfsbuild.capsule import (
    Advance,
    Head,
    load_capsule,
    make_head,
    read_chunks,
    verify_payload,
)
from vnfsbuild.digest import Digest
from vnfsbuild.dsse import KeyId, make_envelope, render_envelope
from vnfsbuild.errors import InputError, VerificationError, VnfsbuildError
from vnfsbuild.files import size_of
from vnfsbuild.lock import Lock
from vnfsbuild.manifest import SOURCE, Descriptor
from vnfsbuild.original import is_file
from vnfsbuild.places import Places
from vnfsbuild.reference import Reference, parse_reference
from vnfsbuild.referrers.attachment import SBOM
from vnfsbuild.referrers.attestation import STATEMENT
from vnfsbuild.referrers.provenance import make_provenance
from vnfsbuild.referrers.sbom import make_sbom
from vnfsbuild.referrers.sourcelock import read_source_lock
from vnfsbuild.rewrite import rewrite_capsule
from vnfsbuild.seal import BuiltCapsule
from vnfsbuild.signing.keys import SecretKey, find_signing_key
from vnfsbuild.store.index import StoredCapsule, merge_signatures, signer_of
from vnfsbuild.store.store import Store
from vnfsbuild.timings import Timings

logger = logging.getLogger(__name__)


def publish_built(
    built: BuiltCapsule, places: Places, *, key_name: str | None, timings: Timings
) -> None:
    """Give what was just built its bill of materials and, with a key, its provenance.

    *key_name* is as in :func:`~vnfsbuild.signing.keys.find_signing_key`.

    Raises:
        VnfsbuildError: they cannot be made; what was built stays in the store.
    """
    reference = Reference(built.reference.name, digest=built.digest)
    try:
        with timings.stage("publish"):
            key = find_signing_key(places.site, key_name)
            publish(Store(places.store), reference, key=key)
    except VnfsbuildError as error:
        raise VnfsbuildError(
            f"{built.reference}: is in the store, but not attested: {error}", hint=error.hint
        ) from error


def publish(store: Store, reference: Reference, *, key: SecretKey | None) -> None:
    """Give a capsule that was just built its bill of materials and, by *key*, its provenance.

    Raises:
        VnfsbuildError: something cannot be written.
    """
    capsule = store.get(reference)
    lock = read_stored_lock(store, capsule)
    attach_sbom(store, capsule, lock)
    if key is not None:
        attest_stored(store, capsule, lock, key)


def attest_stored(store: Store, capsule: StoredCapsule, lock: Lock, key: SecretKey) -> None:
    """Add to *capsule* that the holder of *key* has built it; *lock* is the one in its source.

    Whoever calls this has built it, and the same bytes came out.

    Raises:
        VnfsbuildError: it cannot be written.
    """
    reference = Reference(capsule.name, digest=capsule.digest)
    store.add_envelopes(reference, attestations=[make_attestation(capsule.head, lock, key)])


def attest_file(
    path: Path, digest: Digest, key: SecretKey, *, advance: Advance | None = None
) -> Head:
    """Add to the capsule in the file *path* that the holder of *key* has built it; return its head.

    Whoever calls this has built *digest*. The file is as it was until the new one is whole.

    Raises:
        InputError: the file cannot be read.
        VerificationError: it is damaged, or meanwhile that of another capsule.
        VnfsbuildError: it cannot be written.
    """
    head, lock = read_lock_of_file(path)
    if head.capsule.digest != digest:
        raise VerificationError(f"{path}: found {head.capsule.digest} by now, expected {digest}")
    added = make_attestation(head, lock, key)

    def change(found: Head) -> Head:
        attestations = merge_signatures(found.attestations, [added], {key.key_id})
        return make_head(found.manifest_bytes, found.config_bytes, found.envelopes, attestations)

    try:
        return rewrite_capsule(path, change, advance=advance)
    except OSError as error:
        raise VnfsbuildError(f"{path}: cannot be written: {error.strerror}") from error


def attest_reproduced(
    capsule: str, digest: Digest, store: Store, key: SecretKey
) -> tuple[KeyId, ...]:
    """Add that the holder of *key* has built *digest*, which *capsule*, a reference or a file, is.

    Return all who are said to have built it by now.

    Raises:
        VnfsbuildError: as :func:`attest_stored` and :func:`attest_file`.
    """
    if is_file(capsule):
        head = attest_file(Path(capsule), digest, key)
    else:
        reference = Reference(parse_reference(capsule).name, digest=digest)
        found = store.get(reference)
        attest_stored(store, found, read_stored_lock(store, found), key)
        head = store.get(reference).head
    return tuple(sorted(signer_of(data) for data in head.attestations))


def require_attestable(capsule: str, site: Path, key_name: str | None) -> SecretKey:
    """Return the key that will attest *capsule*, before anything is built.

    Raises:
        InputError: there is no key, or *capsule* is a file that may not be written.
    """
    key = find_signing_key(site, key_name)
    if key is None:
        raise InputError(
            f"{site / 'keys'}: found no key, expected one to attest with",
            hint="vnfsbuild keys new NAME",
        )
    if is_file(capsule):
        path = Path(capsule)
        size_of(path)  # tells what is not there
        if not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
            raise InputError(
                f"{path}: may not be written, expected a file that the attestation can be put into",
                hint=f"cp {path} . and attest the copy",
            )
    return key


def make_attestation(head: Head, lock: Lock, key: SecretKey) -> bytes:
    """Return the envelope by which *key* says that its holder has built the capsule *head*."""
    statement = make_provenance(head.capsule, lock, key.key_id)
    return render_envelope(make_envelope(STATEMENT, statement, [(key.public_key, key.sign)]))


def attach_sbom(store: Store, capsule: StoredCapsule, lock: Lock) -> None:
    """Let the bill of materials of *capsule* refer to it; *lock* is the one in its source.

    Raises:
        VnfsbuildError: it cannot be written.
    """
    blob = store.add_blob(make_sbom(capsule.head.capsule, lock), media_type=SBOM)
    if capsule.attached(SBOM) != blob:
        reference = Reference(capsule.name, digest=capsule.digest)
        store.attach(reference, blob, artifact_type=SBOM)


def derive_sbom(store: Store, capsule: StoredCapsule) -> None:
    """Let a capsule that came in have its bill of materials, when there is a lock in its source.

    A capsule without one is as good: this is told, and no error.

    Raises:
        VnfsbuildError: it cannot be written.
    """
    try:
        attach_sbom(store, capsule, read_stored_lock(store, capsule))
    except VerificationError as error:
        logger.info("no bill of materials: %s", error)


def read_lock(text: str, store: Store) -> tuple[Head, Lock]:
    """Return head and lock of the capsule that *text* names: a ``.vnfs`` file, or a reference.

    Raises:
        InputError: there is none.
        VerificationError: it is damaged, or there is no lock in its source.
    """
    if is_file(text):
        return read_lock_of_file(Path(text))
    capsule = store.get(parse_reference(text))
    return capsule.head, read_stored_lock(store, capsule)


def read_stored_lock(store: Store, capsule: StoredCapsule) -> Lock:
    """Return the lock in the source of *capsule*.

    Raises:
        VerificationError: the source was damaged, or there is no lock in it.
    """
    payload = capsule.manifest.payload(SOURCE)
    with store.open_blob(payload.digest) as blob:
        for _ in verify_payload(read_chunks(blob), payload, where=capsule.name):
            pass
        blob.seek(0)
        return read_source_lock(blob, capsule.config, where=capsule.name)


def read_lock_of_file(path: Path) -> tuple[Head, Lock]:
    """Return head and lock of the capsule in the file *path*, all of which is verified.

    Raises:
        InputError: the file cannot be read.
        VerificationError: it is damaged, or there is no lock in its source.
    """
    with tempfile.TemporaryFile() as source:

        def take(payload: Descriptor, chunks: Iterator[bytes]) -> None:
            for chunk in chunks:
                if payload.media_type == SOURCE:
                    source.write(chunk)

        head = load_capsule(path, admit=lambda _: None, take=take)
        source.seek(0)
        return head, read_source_lock(source, head.capsule.config, where=str(path))
