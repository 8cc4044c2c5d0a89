"""A capsule into a registry: payloads, several at once; then what refers to it; its tags last.

So whoever follows a tag finds all of it, signatures among them. What the registry has is not sent.
"""

from __future__ import annotations

import functools
import io
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from vnfsbuild.digest import Digest, digest_of
from vnfsbuild.errors import InputError, VerificationError
from vnfsbuild.manifest import EMPTY, OCI_MANIFEST, SIGNATURE, Descriptor
from vnfsbuild.progress import bar
from vnfsbuild.reference import CURRENT
from vnfsbuild.referrers.attachment import (
    Attachment,
    attachment_entry,
    make_carried,
    render_attachment,
)
from vnfsbuild.referrers.attestation import PROVENANCE
from vnfsbuild.registry.name import RegistryReference
from vnfsbuild.registry.repository import Repository
from vnfsbuild.registry.uploads import upload_blob
from vnfsbuild.store.index import StoredCapsule
from vnfsbuild.store.store import Store
from vnfsbuild.transfer.parallel import run_parallel

logger = logging.getLogger(__name__)

WORKERS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Pushed:
    """A capsule that is in a registry now."""

    tags: tuple[str, ...]
    sent_bytes: int
    """of blobs, over the network"""
    size_bytes: int
    """of all blobs"""
    referrers: int
    by_tag: bool
    """whether the registry lacks the referrers API, so that they are listed under a tag"""


def choose_tags(capsule: StoredCapsule, wanted: RegistryReference) -> tuple[str, ...]:
    """Return the tags that a capsule gets: its serial, and the one given, else ``current``.

    Raises:
        InputError: the repository has another name than the capsule, or the tag is a number and
            not its serial.
    """
    serial = str(capsule.config.serial)
    if wanted.name != capsule.name:
        path = wanted.repository.rpartition("/")[0]
        place = f"oci://{wanted.host}/{path}{'/' if path else ''}{capsule.name}"
        raise InputError(
            f"{wanted}: the repository is called {wanted.name!r}, and the capsule {capsule.name!r}",
            hint=f"{place}; for a capsule is pulled by its name",
        )
    if wanted.digest is not None:
        raise InputError(f"{wanted}: a digest cannot be chosen", hint=wanted.place)
    tag = wanted.tag or CURRENT
    if tag.isdigit() and tag != serial:
        raise InputError(f"{wanted}: numbers are serials, and this capsule has {serial}")
    return (serial,) if tag == serial else (serial, tag)


def push(
    repository: Repository,
    capsule: StoredCapsule,
    store: Store,
    *,
    tags: Iterable[str],
    types: Callable[[str], bool] = lambda _: True,
    replace: bool = False,
) -> Pushed:
    """Bring *capsule* of *store* into *repository*, with what refers to it as far as *types* says.

    *replace* allows that a serial which the registry has for another capsule means this one.

    Raises:
        InputError: it may not have one of *tags*.
        VerificationError: the store's copy is damaged: nothing of it is sent.
        VnfsbuildError: the registry does not answer, or refuses.
    """
    names = tuple(tags)
    if not replace:
        _verify_serial_free(repository, capsule, names)
    referrers = [item for item in list_attachments(capsule) if types(item.artifact_type)]
    work = _Push(repository, capsule, store)
    work.send_all(referrers)
    manifest = capsule.manifest_bytes
    repository.put_manifest(capsule.digest, manifest, OCI_MANIFEST)
    unlisted = [
        attachment_entry(item)
        for item in referrers
        if not repository.put_referrer(attachment_entry(item), render_attachment(item))
    ]
    if unlisted:
        repository.list_by_tag(capsule.digest, unlisted)
    for name in names:
        repository.put_manifest(name, manifest, OCI_MANIFEST)
    return Pushed(
        tags=names,
        sent_bytes=work.sent_bytes,
        size_bytes=work.size_bytes,
        referrers=len(referrers),
        by_tag=bool(unlisted),
    )


def list_attachments(capsule: StoredCapsule) -> list[Attachment]:
    """Return all that refers to *capsule*: signatures, attestations, and the rest."""
    carried = [
        *((SIGNATURE, data) for data in capsule.envelopes),
        *((PROVENANCE, data) for data in capsule.attestations),
    ]
    return [
        *(make_carried(capsule.manifest_bytes, data, artifact_type=kind) for kind, data in carried),
        *capsule.attachments,
    ]


def _verify_serial_free(
    repository: Repository, capsule: StoredCapsule, tags: tuple[str, ...]
) -> None:
    serial = str(capsule.config.serial)
    held = repository.get_manifest(serial) if serial in tags else None
    if held is not None and digest_of(held) != capsule.digest:
        raise InputError(
            f"{repository.place}:{serial}: is another capsule there, {digest_of(held)}",
            hint="a serial is given once: vnfsbuild lock gives the next. --replace replaces it",
        )


class _Push:
    """One push: what is to be sent, and what it cost."""

    def __init__(self, repository: Repository, capsule: StoredCapsule, store: Store) -> None:
        self._repository = repository
        self._capsule = capsule
        self._store = store
        self._lock = threading.Lock()
        self._siblings = _find_siblings(store, capsule, repository.name)
        self.sent_bytes = 0
        self.size_bytes = 0

    def send_all(self, referrers: list[Attachment]) -> None:
        """Send all blobs that the registry lacks.

        Raises:
            VerificationError: one of them is damaged here.
        """
        small = {
            EMPTY.digest: b"{}",
            self._capsule.manifest.config.digest: self._capsule.config_bytes,
        }
        for data in (*self._capsule.envelopes, *self._capsule.attestations):
            small[digest_of(data)] = data
        blobs = {blob.digest: blob for blob in self._capsule.manifest.blobs}
        blobs |= {item.blob.digest: item.blob for item in referrers}
        if referrers:
            blobs[EMPTY.digest] = EMPTY
        self.size_bytes = sum(blob.size_bytes for blob in blobs.values())
        with bar(f"push {self._capsule.name}", total_bytes=self.size_bytes) as advance:

            def told(count: int) -> None:
                with self._lock:
                    advance(count)

            ordered = sorted(blobs.values(), key=lambda blob: -blob.size_bytes)
            run_parallel(
                [functools.partial(self._send, blob, small, told) for blob in ordered],
                workers=WORKERS,
                stop=self._repository.http.stop,
            )

    def _send(
        self, blob: Descriptor, small: Mapping[Digest, bytes], advance: Callable[[int], None]
    ) -> None:
        if self._repository.has_blob(blob):
            advance(blob.size_bytes)
            return
        data = small.get(blob.digest)
        if data is None and not self._store.holds(blob):
            raise VerificationError(
                f"store {self._store.path}: the blob {blob.digest} is damaged or missing; "
                "nothing of it was sent",
                hint=f"vnfsbuild fsck; build or import {self._capsule.name} again",
            )

        def open_blob() -> BinaryIO:
            return io.BytesIO(data) if data is not None else self._store.open_blob(blob.digest)

        sent = upload_blob(
            self._repository,
            blob,
            open_blob,
            mount_from=self._siblings.get(blob.digest),
            advance=advance,
        )
        if sent:
            with self._lock:
                self.sent_bytes += blob.size_bytes


def _find_siblings(store: Store, capsule: StoredCapsule, repository: str) -> dict[Digest, str]:
    """Return where the registry may have a blob already: beside, under the name of another capsule
    that shares it, as a recipe and its base do. It costs nothing to be wrong.
    """
    beside = repository.removesuffix(capsule.name)
    found: dict[Digest, str] = {}
    for other in store.list_capsules():
        if other.name != capsule.name:
            for blob in other.manifest.payloads:
                found.setdefault(blob.digest, beside + other.name)
    return found
