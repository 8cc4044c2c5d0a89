"""The chunk index of a capsule, as far as a node needs it: where which pieces of a blob are. Pure.

Format: docs/chunks.md. An index is a hint: what was found by it counts when the digest of the whole
blob, which is signed, is right.
"""

from __future__ import annotations

import hashlib
from typing import Iterator, List, NamedTuple, Sequence, Tuple

from vnfsbuild.digest import parse_json
from vnfsbuild.errors import VerificationError
from vnfsbuild.manifest import Descriptor

NAME_BYTES = 16
LEAST_BYTES = 4 * 1024
MOST_BYTES = 64 * 1024
GROUP_BYTES = 1024 * 1024
"""Wrong pieces that follow each other are asked for together, up to so many bytes."""


class Piece(NamedTuple):
    """A part of a blob, by what is at its place."""

    first_byte: int
    size_bytes: int
    name: bytes


def name_piece(data: bytes) -> bytes:
    """Return what the piece that *data* is would be called."""
    return hashlib.sha256(data).digest()[:NAME_BYTES]


def parse_chunk_map(data: bytes, blob: Descriptor, *, where: str = "chunks") -> Tuple[Piece, ...]:
    """Return the pieces of *blob*, in order, as the index *data* has them.

    Raises:
        VerificationError: it does not list this blob, or pieces that do not make it up.
    """
    value = parse_json(data, where=where)
    pieces = []
    position = 0
    try:
        listed = next(item for item in value["blobs"] if item["digest"] == blob.digest)
        for name, size_bytes in listed["chunks"]:
            if type(size_bytes) is not int or not 0 < size_bytes <= MOST_BYTES:
                raise ValueError(f"size {size_bytes!r:.40}")
            pieces.append(Piece(position, size_bytes, bytes.fromhex(name)))
            position += size_bytes
    except StopIteration:
        raise VerificationError(f"{where}: does not list {blob.digest}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise VerificationError(f"{where}: not a chunk index: {error!r}") from error
    if position != blob.size_bytes or any(len(piece.name) != NAME_BYTES for piece in pieces):
        raise VerificationError(f"{where}: lists {position} bytes, expected {blob.size_bytes}")
    return tuple(pieces)


def group_pieces(pieces: Sequence[Piece]) -> Iterator[Tuple[int, int, Sequence[Piece]]]:
    """Yield first byte, end, and *pieces* that follow each other."""
    group: List[Piece] = []
    for piece in pieces:
        end = group[-1].first_byte + group[-1].size_bytes if group else 0
        if group and (piece.first_byte != end or end - group[0].first_byte > GROUP_BYTES):
            yield group[0].first_byte, end, group
            group = []
        group.append(piece)
    if group:
        yield group[0].first_byte, group[-1].first_byte + group[-1].size_bytes, group
