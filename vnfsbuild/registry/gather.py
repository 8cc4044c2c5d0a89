"""All of a capsule but its payloads, from a place that is believed nothing: a registry, a foreign
archive. What does not belong to it, or is signed wrongly, is left out and told.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from vnfsbuild.capsule import Head, make_head, verify_attestations
from vnfsbuild.digest import Digest, digest_of, short
from vnfsbuild.dsse import KeyId, parse_envelope, verify_envelope
from vnfsbuild.errors import InputError, VerificationError
from vnfsbuild.manifest import (
    BOOTSTRAP,
    CAPSULE,
    OCI_MANIFEST,
    SIGNATURE,
    Descriptor,
    IndexEntry,
    parse_manifest,
)
from vnfsbuild.referrers.attachment import CARRIED, Attachment, parse_attachment
from vnfsbuild.referrers.attestation import PROVENANCE
from vnfsbuild.referrers.index import MAX_ATTESTATIONS, MAX_SIGNATURES, referrers_tag
from vnfsbuild.registry.foreignjson import parse_foreign_json
from vnfsbuild.signing.keys import verify_ed25519
from vnfsbuild.trust import Trust

logger = logging.getLogger(__name__)

MAX_LOOKED_AT = 256
"""Of more referrers than these we look at none: somebody fills the list with rubbish."""
MAX_CARRIED_BYTES = 64 * 1024 * 1024
"""All signatures and attestations of a capsule together."""


class Source(Protocol):
    """Where a capsule comes from."""

    @property
    def place(self) -> str:
        """How messages call it."""

    def get_manifest(self, wanted: str) -> bytes | None:
        """Return the manifest with the tag or digest *wanted*, if there is one."""

    def get_blob(self, blob: Descriptor) -> bytes:
        """Return a small blob, verified."""

    def list_referrers(self, digest: Digest) -> list[IndexEntry]:
        """Return what is said to refer to the manifest *digest*."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gathered:
    """A capsule whole in itself, of whose signatures only those of trusted keys are verified."""

    head: Head
    others: tuple[Attachment, ...] = ()
    """what else is said to refer to it, of the types that were asked for"""


def gather(
    source: Source, wanted: str, *, trust: Trust, types: frozenset[str] = frozenset()
) -> Gathered:
    """Return the capsule with the tag or digest *wanted*, and its referrers that travel in files,
    besides those of *types*. Whether it may run is for the caller to ask.

    Raises:
        InputError: there is none.
        VerificationError: it is none, or not whole.
        VnfsbuildError: *source* does not answer.
    """
    manifest_bytes = source.get_manifest(wanted)
    where = f"{source.place}: {wanted}"
    if manifest_bytes is None:
        raise InputError(f"{where}: there is no such capsule")
    _require_capsule(manifest_bytes, where=where)
    manifest = parse_manifest(manifest_bytes, where=where)
    config_bytes = source.get_blob(manifest.config)
    bare = make_head(manifest_bytes, config_bytes, ())
    carried, others = _collect(source, bare, types)
    head = make_head(
        manifest_bytes,
        config_bytes,
        choose_signatures(bare, carried[SIGNATURE], trust, where=where),
        choose_attestations(bare, carried[PROVENANCE], trust, where=where),
    )
    return Gathered(head=head, others=tuple(others))


@contextlib.contextmanager
def hint_unsigned(head: Head) -> Iterator[None]:
    """Where the block finds that *head* is not signed, say where its signatures may have stayed."""
    try:
        yield
    except VerificationError as error:
        if not head.envelopes:
            error.hint = (
                f"no signature came along; in registries they are under the tag "
                f"{referrers_tag(head.capsule.digest)}, which is to be copied too: docs/registry.md"
            )
        raise


def is_capsule(document: dict[str, object]) -> bool:
    """Tell whether this manifest says that it is one of ours."""
    return document.get("artifactType") in (CAPSULE, BOOTSTRAP)


def _require_capsule(data: bytes, *, where: str) -> None:
    """Say in simple words what else it is: the strict reader would name its first odd byte."""
    document = parse_foreign_json(data, where=where)
    if "manifests" in document:
        raise VerificationError(f"{where}: found an index of several manifests, expected a capsule")
    if not is_capsule(document):
        kind = document.get("artifactType") or "a container image"
        raise VerificationError(f"{where}: found {kind!r}, expected a capsule ({CAPSULE})")


def _collect(
    source: Source, head: Head, types: frozenset[str]
) -> tuple[dict[str, list[bytes]], list[Attachment]]:
    """Return what refers to *head*: the envelopes of each type that files carry, and what of
    *types* there is, none of it fetched.
    """
    carried: dict[str, list[bytes]] = {kind: [] for kind in CARRIED}
    others = []
    left_bytes = MAX_CARRIED_BYTES
    for descriptor in _list_wanted(source, head, {*CARRIED, *types}):
        try:
            item = _load_attachment(source, descriptor, head)
            if item.artifact_type in CARRIED:
                left_bytes -= item.blob.size_bytes
                if left_bytes < 0:
                    raise VerificationError(f"{source.place}: too many bytes of signatures")
                carried[item.artifact_type].append(source.get_blob(item.blob))
            elif item.artifact_type in types:
                others.append(item)
        except (InputError, VerificationError) as error:
            logger.warning("warning: %s; left out", error)
    return carried, others


def _list_wanted(source: Source, head: Head, types: set[str]) -> list[Descriptor]:
    listed = sorted(source.list_referrers(head.capsule.digest), key=lambda entry: entry[0].digest)
    # Not every program copies the type into its list.
    wanted = [entry[0] for entry in listed if entry[1] is None or entry[1] in types]
    if len(wanted) > MAX_LOOKED_AT:
        raise VerificationError(
            f"{source.place}: {len(wanted)} referrers of {short(head.capsule.digest)}, "
            f"expected at most {MAX_LOOKED_AT}"
        )
    return wanted


def _load_attachment(source: Source, descriptor: Descriptor, head: Head) -> Attachment:
    where = f"{source.place}: referrer {short(descriptor.digest)}"
    data = source.get_manifest(descriptor.digest)
    if data is None:
        raise VerificationError(f"{where}: is listed, and not there")
    item = parse_attachment(data, where=where)
    subject = Descriptor(OCI_MANIFEST, head.capsule.digest, len(head.manifest_bytes))
    if item.subject != subject:
        raise VerificationError(f"{where}: refers to another capsule")
    return item


def choose_signatures(
    head: Head, envelopes: Iterable[bytes], trust: Trust, *, where: str
) -> list[bytes]:
    """Return one signature per key: those of trusted keys first, as long as they hold.

    Whoever may write to a registry may add what looks like a signature. That must not make a
    capsule unusable that others have signed well, so it is left out.
    """
    rule = trust.rule_for(head.name)
    keys = {keyid: trust.keys[keyid] for keyid in rule.keys}

    def verify(envelope: bytes) -> None:
        verify_envelope(
            parse_envelope(envelope, where=where),
            payload_type=OCI_MANIFEST,
            keys=keys,
            verify_ed25519=verify_ed25519,
            where=where,
        )
        make_head(head.manifest_bytes, head.config_bytes, [envelope])

    return _choose(envelopes, verify, set(keys), MAX_SIGNATURES)


def choose_attestations(
    head: Head, attestations: Iterable[bytes], trust: Trust, *, where: str
) -> list[bytes]:
    """Return one attestation per key, as :func:`choose_signatures` does."""
    rule = trust.rule_for(head.name)

    def verify(envelope: bytes) -> None:
        alone = make_head(head.manifest_bytes, head.config_bytes, (), [envelope])
        verify_attestations(alone, trust=trust)

    return _choose(attestations, verify, {*rule.keys, *rule.builders}, MAX_ATTESTATIONS)


def _choose(
    envelopes: Iterable[bytes], verify: Callable[[bytes], None], known: set[KeyId], most: int
) -> list[bytes]:
    chosen: dict[KeyId, bytes] = {}
    for envelope in sorted(set(envelopes), key=digest_of):
        try:
            verify(envelope)
            keyid = parse_envelope(envelope, where="signature").signatures[0][0]
        except VerificationError as error:
            logger.warning("warning: %s; left out", error)
            continue
        chosen.setdefault(keyid, envelope)
    ordered = sorted(chosen, key=lambda keyid: (keyid not in known, keyid))
    return [chosen[keyid] for keyid in ordered[:most]]
