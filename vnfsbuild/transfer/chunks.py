"""Chunks: how a payload is cut, the index that lists the pieces, and which of them to fetch. Pure.

Format and cutting: docs/chunks.md. An index is never trusted: what was put together by it counts
only when the digest of the whole payload, which is signed, is right. A wrong index costs time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final, NamedTuple

from vnfsbuild.digest import Digest, parse_digest, parse_json, render_json
from vnfsbuild.errors import InputError, VerificationError
from vnfsbuild.manifest import DRIVERS, INITRD, KERNEL, LAYER_TYPES, Descriptor, Manifest

MEDIA_TYPE = "application/vnd.vnfs.chunks.v1+json"
"""Also the artifact type of the referrer."""

LEAST_BYTES = 4 * 1024
AVERAGE_BYTES = 16 * 1024
MOST_BYTES = 64 * 1024
NORMALIZATION: Final = 1

NAME_BYTES = 16
"""A chunk is called by the first bytes of its SHA-256: enough to find it, not to trust it."""

REQUEST_BYTES = 32 * 1024
"""A request costs as much time as this many bytes: 5 ms at 50 Mbit/s."""

LEAST_SAVING = 16
"""Chunks pay when they save a sixteenth of a payload: whole, it comes in one simple stream."""

PART_BYTES = 4 * 1024 * 1024
"""Ranges are split where they get longer, so that several connections share the work."""

_ENTRY_BYTES = 2 * NAME_BYTES + 16
"""No chunk takes more of the text: its name, its size, and what stands between."""


class Chunk(NamedTuple):
    """A piece of a payload."""

    name: bytes
    size_bytes: int


class Piece(NamedTuple):
    """A chunk, and where in the payload it belongs."""

    first_byte: int
    chunk: Chunk


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetch:
    """What to ask a server for, of one payload."""

    ranges: tuple[tuple[Piece, ...], ...]
    """Each is one request: pieces that follow each other without a gap."""
    whole: bool
    """To ask for all of it at once is as cheap."""

    @property
    def size_bytes(self) -> int:
        """Return how many bytes the ranges have."""
        return sum(piece.chunk.size_bytes for pieces in self.ranges for piece in pieces)


ChunkIndex = Mapping[Digest, tuple[Chunk, ...]]
"""Digest of a payload → its chunks, in order."""


def name_chunk(data: bytes | memoryview) -> bytes:
    """Return what the chunk *data* is called."""
    return hashlib.sha256(data).digest()[:NAME_BYTES]


def cut(stream: BinaryIO, digest_too: hashlib._Hash | None = None) -> Iterator[Chunk]:
    """Cut what *stream* holds; needs little memory. *digest_too* is fed all bytes."""
    from pyfastcdc import FastCDC  # building and booting do without it

    chunker = FastCDC(
        AVERAGE_BYTES,
        min_size=LEAST_BYTES,
        max_size=MOST_BYTES,
        normalized_chunking=NORMALIZATION,
        seed=0,
    )
    for found in chunker.cut_stream(stream):
        if digest_too is not None:
            digest_too.update(found.data)
        yield Chunk(name_chunk(found.data), found.length)


def chunked_payloads(manifest: Manifest) -> tuple[Descriptor, ...]:
    """Return the payloads that an index lists, each once: all but the source, which is small."""
    found = {
        payload.digest: payload
        for payload in manifest.payloads
        if payload.media_type in (KERNEL, INITRD, DRIVERS, *LAYER_TYPES)
    }
    return tuple(found.values())


def most_index_bytes(manifest: Manifest) -> int:
    """Return how large the index of this capsule may be: no reader need take more."""
    payloads = chunked_payloads(manifest)
    chunks = sum(payload.size_bytes // LEAST_BYTES + 1 for payload in payloads)
    return chunks * _ENTRY_BYTES + 256 * (len(payloads) + 1)


def render_chunk_index(index: ChunkIndex) -> bytes:
    """Return the text of *index*."""
    return render_json(
        {
            "blobs": [
                {
                    "chunks": [[chunk.name.hex(), chunk.size_bytes] for chunk in chunks],
                    "digest": digest,
                    "size": sum(chunk.size_bytes for chunk in chunks),
                }
                for digest, chunks in index.items()
            ]
        }
    )


def parse_chunk_index(data: bytes, manifest: Manifest, *, where: str) -> ChunkIndex:
    """Return the index *data* of the capsule with this *manifest*.

    Raises:
        VerificationError: any other text than :func:`render_chunk_index` writes for it; chunks
            that no cutting could give, or that do not add up to the size of the payload.
    """
    limit_bytes = most_index_bytes(manifest)
    if len(data) > limit_bytes:
        raise VerificationError(f"{where}: found more than {limit_bytes} bytes")
    value = parse_json(data, where=where)
    try:
        index = {
            parse_digest(blob["digest"]): tuple(_parse_chunk(item) for item in blob["chunks"])
            for blob in value["blobs"]
        }
        canonical = render_chunk_index(index)
    except (KeyError, TypeError, ValueError, AttributeError, InputError) as error:
        raise VerificationError(f"{where}: not a chunk index: {error!r}") from error
    if canonical != data:
        raise VerificationError(f"{where}: holds more than the format knows")
    sizes = {payload.digest: payload.size_bytes for payload in chunked_payloads(manifest)}
    if list(index) != list(sizes):
        raise VerificationError(f"{where}: is of other payloads than the capsule has")
    for digest, chunks in index.items():
        _require_possible(chunks, sizes[digest], where=f"{where}: {digest}")
    return index


def choose_fetch(chunks: Sequence[Chunk], have: Container[bytes]) -> Fetch:
    """Return what to fetch of the payload that consists of *chunks*, when those in *have* are here.

    Where two missing chunks are near each other, what stands between comes along: another request
    would be dearer.
    """
    groups: list[list[Piece]] = []
    between: list[Piece] = []
    between_bytes = position = 0
    for chunk in chunks:
        piece = Piece(position, chunk)
        position += chunk.size_bytes
        if chunk.name in have:
            between.append(piece)
            between_bytes += chunk.size_bytes
            continue
        if groups and between_bytes <= REQUEST_BYTES:
            groups[-1] += [*between, piece]
        else:
            groups.append([piece])
        between, between_bytes = [], 0
    ranges = tuple(part for group in groups for part in _split(group))
    size_bytes = position
    cost_bytes = Fetch(ranges=ranges, whole=False).size_bytes + len(groups) * REQUEST_BYTES
    dear = cost_bytes + size_bytes // LEAST_SAVING >= size_bytes + REQUEST_BYTES
    return Fetch(ranges=ranges, whole=bool(groups) and dear)


def _split(group: Sequence[Piece]) -> Iterator[tuple[Piece, ...]]:
    part: list[Piece] = []
    for piece in group:
        if part and piece.first_byte + piece.chunk.size_bytes - part[0].first_byte > PART_BYTES:
            yield tuple(part)
            part = []
        part.append(piece)
    yield tuple(part)


def _parse_chunk(item: Sequence[object]) -> Chunk:
    name, size_bytes = item
    if not isinstance(name, str) or type(size_bytes) is not int:
        raise ValueError(f"found {item!r}, expected name and size of a chunk")
    found = bytes.fromhex(name)
    if len(found) != NAME_BYTES:
        raise ValueError(f"found {name!r}, expected {NAME_BYTES} bytes in hexadecimal")
    return Chunk(found, size_bytes)


def _require_possible(chunks: Sequence[Chunk], size_bytes: int, *, where: str) -> None:
    sizes = [chunk.size_bytes for chunk in chunks]
    if sum(sizes) != size_bytes:
        raise VerificationError(f"{where}: the chunks have {sum(sizes)} bytes, not {size_bytes}")
    if any(not LEAST_BYTES <= size <= MOST_BYTES for size in sizes[:-1]) or any(
        not 0 < size <= MOST_BYTES for size in sizes[-1:]
    ):
        raise VerificationError(f"{where}: a chunk of a size that cutting does not give")
