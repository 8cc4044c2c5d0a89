"""Which pieces of a blob are taken from what is here, and which are asked for. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Container, List, Sequence, Tuple

from provisiond.agent.chunkmap import Piece

REQUEST_BYTES = 32 * 1024
"""A request costs as much time as this many bytes."""
LEAST_SAVING = 16
"""Pieces pay when they save a sixteenth of a blob: whole, it comes in one simple stream."""
PART_BYTES = 4 * 1024 * 1024
"""Ranges are split where they get longer: no more than that is held in memory."""


@dataclass(frozen=True)
class Stretch:
    """Pieces that follow each other: all of them are here, or all are asked for at once."""

    pieces: Tuple[Piece, ...]
    is_here: bool

    @property
    def first_byte(self) -> int:
        """Where it begins."""
        return self.pieces[0].first_byte

    @property
    def size_bytes(self) -> int:
        """How long it is."""
        return sum(piece.size_bytes for piece in self.pieces)


def choose_stretches(pieces: Sequence[Piece], have: Container[bytes]) -> Tuple[Stretch, ...]:
    """Return the stretches that a blob of these *pieces* is put together from, in order.

    A piece that is in *have* between two that are not comes along with them, where another request
    would be dearer.
    """
    found: List[Stretch] = []
    missing: List[Piece] = []
    between: List[Piece] = []
    for piece in pieces:
        if piece.name in have:
            between.append(piece)
            continue
        if missing and sum(item.size_bytes for item in between) > REQUEST_BYTES:
            found += [*_split(missing), Stretch(tuple(between), is_here=True)]
            missing, between = [], []
        elif not missing and between:
            found.append(Stretch(tuple(between), is_here=True))
            between = []
        missing += [*between, piece]
        between = []
    found += _split(missing)
    if between:
        found.append(Stretch(tuple(between), is_here=True))
    return tuple(found)


def is_worth_it(stretches: Sequence[Stretch]) -> bool:
    """Tell whether it is cheaper than to ask for the whole blob at once."""
    asked = [stretch for stretch in stretches if not stretch.is_here]
    size_bytes = sum(stretch.size_bytes for stretch in stretches)
    cost_bytes = sum(stretch.size_bytes for stretch in asked) + len(asked) * REQUEST_BYTES
    return cost_bytes + size_bytes // LEAST_SAVING < size_bytes + REQUEST_BYTES


def _split(pieces: Sequence[Piece]) -> List[Stretch]:
    found: List[Stretch] = []
    part: List[Piece] = []
    for piece in pieces:
        if part and piece.first_byte + piece.size_bytes - part[0].first_byte > PART_BYTES:
            found.append(Stretch(tuple(part), is_here=False))
            part = []
        part.append(piece)
    if part:
        found.append(Stretch(tuple(part), is_here=False))
    return found
