"""A capsule out of a registry: the verdict first, then its payloads, several at once.

What the store has is not fetched, nor what other capsules in it have chunks of, where a chunk index
says so. What is fetched lies below ``CACHE/incoming`` until all of it is there and verified; so a
pull that broke off, or was killed, goes on where it was.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vnfsbuild.capsule import Head, payload_bytes, payloads_after, verify_head
from vnfsbuild.errors import InputError, VerificationError, VnfsbuildError
from vnfsbuild.places import Places
from vnfsbuild.progress import bar
from vnfsbuild.reference import Reference
from vnfsbuild.referrers.attachment import Attachment
from vnfsbuild.referrers.publish import derive_sbom
from vnfsbuild.registry.gather import gather, hint_unsigned
from vnfsbuild.registry.name import RegistryReference
from vnfsbuild.registry.reader import BlobReader
from vnfsbuild.registry.repository import Repository, open_repository
from vnfsbuild.signing.keys import load_trust
from vnfsbuild.store.blobs import Incoming
from vnfsbuild.store.index import StoredCapsule
from vnfsbuild.store.store import Store
from vnfsbuild.transfer.chunks import MEDIA_TYPE as CHUNK_INDEX
from vnfsbuild.transfer.importurl import Fetched, bring_payloads
from vnfsbuild.transfer.partials import Partials, open_partials
from vnfsbuild.trust import Trust

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pulled:
    """A capsule that is in the store now."""

    capsule: StoredCapsule
    fetched: Fetched


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """On which terms a capsule is taken."""

    trust: Trust
    now: int
    promote: bool = True
    allow_older: bool = False


def pull_into(
    places: Places,
    wanted: RegistryReference,
    *,
    now: int,
    plain_http: bool = False,
    ca_file: Path | None = None,
    promote: bool = True,
    allow_older: bool = False,
    types: frozenset[str] = frozenset(),
) -> Pulled:
    """Bring the capsule *wanted* into the store of *places*, on the terms of its trust.json.

    Raises:
        VnfsbuildError: as :func:`pull`; or there is no trust.json.
    """
    terms = Terms(
        trust=load_trust(places.site, now=now), now=now, promote=promote, allow_older=allow_older
    )
    repository = open_repository(wanted, plain_http=plain_http, ca_file=ca_file)
    with contextlib.closing(repository.http):
        return pull(
            repository,
            wanted,
            Store(places.store),
            incoming=places.cache / "incoming",
            terms=terms,
            types=types,
        )


def pull(
    repository: Repository,
    wanted: RegistryReference,
    store: Store,
    *,
    incoming: Path,
    terms: Terms,
    types: frozenset[str] = frozenset(),
) -> Pulled:
    """Bring the capsule *wanted* into *store*, with what of *types* refers to it.

    The store is as it was until all has arrived and was verified. *incoming* is where partial
    files lie.

    Raises:
        InputError: the registry has no such capsule.
        VerificationError: it may not run, is another one than was asked for, or other bytes came.
        VnfsbuildError: the registry does not answer, or something cannot be written.
    """
    gathered = gather(repository, wanted.wanted, trust=terms.trust, types=types | {CHUNK_INDEX})
    head = gathered.head
    with hint_unsigned(head):
        verify_head(head, trust=terms.trust, now=terms.now)
    verify_wanted(head, wanted)
    if not (wanted.digest or _is_serial(wanted.tag) or terms.allow_older):
        verify_not_older(head, store, wanted)
    indexes = [item for item in gathered.others if item.artifact_type == CHUNK_INDEX]
    found: list[Fetched] = []

    def bring(blobs: Incoming, admit: Callable[[Head], None]) -> Head:
        admit(head)
        found.append(_bring(repository, head, indexes, blobs, store, partials))
        return head

    # Held until all is in the store: another pull of the same waits, and finds it there.
    with open_partials(incoming, payloads_after(head)) as partials:
        stored = store.import_from(bring, trust=terms.trust, now=terms.now, current=terms.promote)
    derive_sbom(store, stored)
    for item in gathered.others:
        if item.artifact_type in types:
            _attach(repository, store, stored, item, incoming)
    capsule = store.get(Reference(stored.name, digest=stored.digest))
    return Pulled(capsule=capsule, fetched=found[0])


def verify_wanted(head: Head, wanted: RegistryReference) -> None:
    """Raise unless *head* is what was asked for: a registry may answer with any signed capsule.

    Raises:
        VerificationError: it has another digest, name or serial.
    """
    config = head.capsule.config
    if wanted.digest and head.capsule.digest != wanted.digest:
        raise VerificationError(
            f"{wanted}: found digest {head.capsule.digest}, expected {wanted.digest}"
        )
    if wanted.digest is None and config.name != wanted.name:
        raise VerificationError(
            f"{wanted}: found a capsule called {config.name!r}, expected {wanted.name!r}",
            hint=f"if it is the right one: {wanted.place}@{head.capsule.digest}",
        )
    if wanted.tag and wanted.tag.isdigit() and config.serial != int(wanted.tag):
        raise VerificationError(f"{wanted}: found serial {config.serial}, expected {wanted.tag}")


def verify_not_older(head: Head, store: Store, wanted: RegistryReference) -> None:
    """Raise when the registry's tag means an older capsule than the store's current one.

    Raises:
        VerificationError: it does: somebody may want us to go back to one with known holes.
    """
    config = head.capsule.config
    try:
        held = store.get(Reference(config.name))
    except InputError:
        return  # the first of its name
    if config.serial < held.config.serial:
        raise VerificationError(
            f"{wanted}: found serial {config.serial}, and the store's current {config.name} "
            f"has {held.config.serial}: the registry is behind, or was set back",
            hint=f"to have it all the same: {wanted.place}:{config.serial}, or --allow-older",
        )


def _is_serial(tag: str | None) -> bool:
    return tag is not None and tag.isdigit()


def _bring(
    repository: Repository,
    head: Head,
    indexes: list[Attachment],
    blobs: Incoming,
    store: Store,
    partials: Partials,
) -> Fetched:
    payloads = payloads_after(head)
    repository.http.stop = partials.stop  # a pause ends when another payload has failed
    readers = {blob.digest: BlobReader(repository, blob) for blob in payloads}

    def load_index(limit_bytes: int) -> bytes | None:
        largest = max(payloads, key=lambda blob: blob.size_bytes)
        if not indexes or not readers[largest.digest].answers_ranges():
            return None
        return _load_index(repository, indexes[0], limit_bytes)

    with bar(f"pull {head.name}", total_bytes=payload_bytes(head)) as advance:
        return bring_payloads(
            head,
            blobs,
            partials,
            store=store,
            readers=readers,
            load_index=load_index,
            advance=advance,
        )


def _load_index(repository: Repository, item: Attachment, limit_bytes: int) -> bytes | None:
    """Return the chunk index; it only saves, so that whatever is wrong with it is only told."""
    if item.blob.size_bytes > limit_bytes:
        size_bytes = item.blob.size_bytes
        logger.info("%s: a chunk index of %d bytes; done without", repository.place, size_bytes)
        return None
    try:
        return repository.get_blob(item.blob, limit_bytes=limit_bytes)
    except VnfsbuildError as error:
        logger.info("%s; done without the chunk index", error)
        return None


def _attach(
    repository: Repository, store: Store, capsule: StoredCapsule, item: Attachment, incoming: Path
) -> None:
    reference = Reference(capsule.name, digest=capsule.digest)
    if not store.holds(item.blob):
        reader = BlobReader(repository, item.blob)
        label = f"pull {capsule.name}: package set"
        with open_partials(incoming, [item.blob]) as partials:
            with bar(label, total_bytes=item.blob.size_bytes) as advance:
                path = partials.bring(item.blob, reader, on_bytes=advance)
            store.add_blob(path, media_type=item.blob.media_type)
            partials.forget([item.blob])
    store.attach(reference, item.blob, artifact_type=item.artifact_type)
