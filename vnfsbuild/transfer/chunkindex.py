"""The chunk index of a capsule in a store, and where in a store chunks are that another one needs.

An index is a function of the payloads alone. It is made when it is first needed, by who publishes
the capsule or fetches a newer one, and then kept as a referrer.
"""

from __future__ import annotations

import hashlib
import logging

from vnfsbuild.digest import Digest
from vnfsbuild.errors import VerificationError, VnfsbuildError
from vnfsbuild.manifest import Descriptor
from vnfsbuild.reference import Reference
from vnfsbuild.store.index import StoredCapsule
from vnfsbuild.store.store import Store
from vnfsbuild.transfer.chunks import (
    MEDIA_TYPE,
    Chunk,
    ChunkIndex,
    chunked_payloads,
    cut,
    most_index_bytes,
    parse_chunk_index,
    render_chunk_index,
)
from vnfsbuild.transfer.partials import LocalChunks, Place

logger = logging.getLogger(__name__)

MOST_SOURCES = 16
"""More capsules than these are not looked into: of the same name first, the newest first."""


def make_chunk_index(store: Store, capsule: StoredCapsule) -> ChunkIndex:
    """Cut the payloads of *capsule*, which is in *store*; at about 0.7 GB/s.

    Raises:
        VerificationError: a payload was damaged.
        VnfsbuildError: one is missing.
    """
    return {
        payload.digest: _cut_payload(store, payload)
        for payload in chunked_payloads(capsule.manifest)
    }


def attach_chunk_index(store: Store, capsule: StoredCapsule) -> Descriptor:
    """Return the blob that is the chunk index of *capsule*; make and attach it where there is none.

    Raises:
        VerificationError: a payload was damaged.
        VnfsbuildError: it cannot be written.
    """
    attached = capsule.attached(MEDIA_TYPE)
    if attached and _load(store, capsule, attached) is not None:
        return attached
    return _attach(store, capsule, make_chunk_index(store, capsule))


def find_local_chunks(store: Store, index: ChunkIndex, *, name: str) -> LocalChunks:
    """Return where in *store* the chunks that *index* names may be.

    Capsules called *name* are looked into first. Those that have no index get one; what is damaged
    is passed over.
    """
    wanted = {chunk.name for chunks in index.values() for chunk in chunks}
    found: dict[bytes, Place] = {}
    seen: set[Digest] = set()
    capsules = sorted(store.list_capsules(), key=lambda item: (item.name != name, item.name))
    for capsule in capsules[:MOST_SOURCES]:
        if len(found) == len(wanted):
            break
        blobs = {item.digest for item in chunked_payloads(capsule.manifest)} - seen
        if blobs:
            known = _load_or_make(store, capsule)
            _add_places(store, {digest: known.get(digest, ()) for digest in blobs}, wanted, found)
            seen |= blobs
    return found


def _add_places(
    store: Store, known: ChunkIndex, wanted: set[bytes], found: dict[bytes, Place]
) -> None:
    for digest, chunks in known.items():
        path = store.blob_path(digest)
        position = 0
        for chunk in chunks:
            if chunk.name in wanted and chunk.name not in found:
                found[chunk.name] = Place(path=path, first_byte=position)
            position += chunk.size_bytes


def _load_or_make(store: Store, capsule: StoredCapsule) -> ChunkIndex:
    try:
        attached = capsule.attached(MEDIA_TYPE)
        index = _load(store, capsule, attached) if attached else None
        if index is None:
            index = make_chunk_index(store, capsule)
    except (VnfsbuildError, OSError) as error:
        logger.info("%s:%s: passed over: %s", capsule.name, capsule.config.serial, error)
        return {}
    try:
        if attached is None:
            _attach(store, capsule, index)
    except VnfsbuildError as error:  # a store that may only be read serves as well
        logger.debug("%s", error)
    return index


def _load(store: Store, capsule: StoredCapsule, blob: Descriptor) -> ChunkIndex | None:
    limit_bytes = most_index_bytes(capsule.manifest)
    try:
        with store.open_blob(blob.digest) as file:
            data = file.read(limit_bytes + 1)
        return parse_chunk_index(data, capsule.manifest, where=f"{capsule.name}: chunk index")
    except VnfsbuildError as error:
        logger.info("%s; it is made anew", error)
        return None


def _attach(store: Store, capsule: StoredCapsule, index: ChunkIndex) -> Descriptor:
    blob = store.add_blob(render_chunk_index(index), media_type=MEDIA_TYPE)
    reference = Reference(capsule.name, digest=capsule.digest)
    store.attach(reference, blob, artifact_type=MEDIA_TYPE)
    return blob


def _cut_payload(store: Store, payload: Descriptor) -> tuple[Chunk, ...]:
    hasher = hashlib.sha256()
    with store.open_blob(payload.digest) as file:
        chunks = tuple(cut(file, hasher))
    if f"sha256:{hasher.hexdigest()}" != payload.digest:
        raise VerificationError(f"{store.path}: the blob {payload.digest} was damaged")
    return chunks
