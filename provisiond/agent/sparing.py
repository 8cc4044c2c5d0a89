"""Fetches of a blob only the pieces that this node does not hold."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import BinaryIO, Callable, Iterator, Optional

from provisiond.agent.chunkmap import name_piece, parse_chunk_map
from provisiond.agent.console import Tell
from provisiond.agent.fetch import Fetcher
from provisiond.agent.held import Held
from provisiond.agent.landing import write_all
from provisiond.agent.pieces import Stretch, choose_stretches, is_worth_it
from vnfsbuild.digest import READ_SIZE_BYTES, verify_stream
from vnfsbuild.errors import VerificationError
from vnfsbuild.manifest import Descriptor


@dataclass
class Tally:
    """How many bytes were asked for, and how many were here."""

    fetched_bytes: int = 0
    held_bytes: int = 0


class Sparing:
    """Brings blobs into files, as a :class:`Fetcher` does, from what is *held* where that can be.

    *index* is the chunk index of their capsule, where there is one: a hint. What it leads to counts
    when the digest is right; else the blob is fetched as if there were none.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        held: Held,
        index: Optional[bytes],
        *,
        tell: Tell,
        advance: Callable[[int], None] = lambda count: None,
    ) -> None:
        self._fetcher = fetcher
        self._held = held
        self._index = index
        self._tell = tell
        self._advance = advance
        self.tally = Tally()

    def fetch_into(self, file: BinaryIO, blob: Descriptor, *, where: str) -> None:
        """Append *blob* to *file*, which has no buffer and can be read.

        Raises:
            NetworkError: what is missing cannot be had.
            VerificationError: each server has other bytes.
            VnfsbuildError: there is no room.
        """
        chunks = self._find_chunks(blob, where)
        if chunks is not None:
            start, before = file.tell(), Tally(**vars(self.tally))
            try:
                for chunk in verify_stream(
                    chunks, digest=blob.digest, size_bytes=blob.size_bytes, where=where
                ):
                    write_all(file, chunk, where=where)
                    self._advance(len(chunk))
                return
            except VerificationError as error:
                self._tell(f"{where}: put together from pieces: {error}; fetching all of it")
                self.tally.held_bytes = before.held_bytes
                file.seek(start)
                file.truncate()
            except BaseException:
                file.seek(start)
                file.truncate()
                raise
        self._fetcher.fetch_into(file, blob, where=where)
        self.tally.fetched_bytes += blob.size_bytes

    def _find_chunks(self, blob: Descriptor, where: str) -> Optional[Iterator[bytes]]:
        """Return how *blob* is put together; None: it is to be fetched whole."""
        whole = self._held.find(blob)
        if whole is not None:
            self.tally.held_bytes += blob.size_bytes
            return _read_all(whole, blob.size_bytes)
        if self._index is None:
            return None
        try:
            pieces = parse_chunk_map(self._index, blob)
        except VerificationError as error:
            self._tell(f"{where}: {error}")
            return None
        stretches = choose_stretches(pieces, self._held)
        if not is_worth_it(stretches):
            return None
        return (data for stretch in stretches for data in self._bring(blob, stretch, where=where))

    def _bring(self, blob: Descriptor, stretch: Stretch, *, where: str) -> Iterator[bytes]:
        if not stretch.is_here:
            yield self._fetch(blob, stretch, where=where)
            return
        for piece in stretch.pieces:
            data = self._held.read(piece)
            if data is None:
                # It was here when it was counted on; a page that cannot be read.
                data = self._fetch(blob, Stretch((piece,), is_here=False), where=where)
            else:
                self.tally.held_bytes += len(data)
            yield data

    def _fetch(self, blob: Descriptor, stretch: Stretch, *, where: str) -> bytes:
        data = self._fetcher.read_range(
            blob.digest, stretch.first_byte, stretch.size_bytes, where=where
        )
        self.tally.fetched_bytes += len(data)
        for piece in stretch.pieces:
            first = piece.first_byte - stretch.first_byte
            if name_piece(data[first : first + piece.size_bytes]) != piece.name:
                raise VerificationError(f"{where}: wrong bytes from {piece.first_byte} on")
        return data


def _read_all(descriptor: int, size_bytes: int) -> Iterator[bytes]:
    for first in range(0, size_bytes, READ_SIZE_BYTES):
        yield os.pread(descriptor, min(READ_SIZE_BYTES, size_bytes - first), first)
