"""Blobs, from whichever server has them: what they must be is known before the first byte.

A blob may come from a mirror, a proxy, a cache that nobody trusts: the digest decides. What breaks
or stalls is gone on with where it broke, at the next server; wrong bytes are fetched from another.
"""

from __future__ import annotations

import http.client
import random
import time
from contextlib import closing
from dataclasses import dataclass
from typing import (
    BinaryIO,
    Callable,
    Generator,
    Iterator,
    List,
    Optional,
    Sequence,
    Set,
    Tuple,
    Union,
)

from provisiond.agent.backoff import delays
from provisiond.agent.chunkmap import Piece, group_pieces, name_piece, parse_chunk_map
from provisiond.agent.client import NetworkError, told
from provisiond.agent.console import Tell
from provisiond.agent.distrust import Distrust
from provisiond.agent.landing import Landing
from provisiond.agent.nfs import NfsSource
from provisiond.agent.sources import STALL_SECONDS, AbsentError, BusyError, HttpSource
from vnfsbuild.digest import Digest, digest_of, verify_stream
from vnfsbuild.errors import VerificationError, VnfsbuildError
from vnfsbuild.manifest import MAX_METADATA_BYTES, Descriptor

Source = Union[HttpSource, NfsSource]

MOVED_BYTES = 64 * 1024
"""An answer that brought so much was worth it: the count of tries starts anew."""

LATER_THAN_ASKED = 0.25
"""By up to this part, so that those who were sent away together do not come back together."""


@dataclass(frozen=True)
class Patience:
    """How long to hold on to what does not answer."""

    stall_seconds: float = STALL_SECONDS
    """A connection that brings next to nothing for so long is given up."""
    tries: int = 6
    """Answers of a server in a row that bring nothing new."""
    least_delay_seconds: float = 0.5
    most_delay_seconds: float = 15.0
    most_wait_seconds: float = 900.0
    """For a server that says when to come again, as long as nothing comes."""


class _Turn:
    """A server in the course of one fetch."""

    def __init__(self, source: Source, patience: Patience, random_source: random.Random) -> None:
        self.source = source
        self.ready_at = 0.0
        self.fault = ""
        self._patience = patience
        self._random = random_source
        self.moved()

    def moved(self) -> None:
        """Note that it brought something."""
        self.tries = self._patience.tries
        self._waited = 0.0
        self._waits = delays(
            least_seconds=self._patience.least_delay_seconds,
            most_seconds=self._patience.most_delay_seconds,
            random_source=self._random,
        )

    def failed(self, error: BaseException) -> None:
        """Note why it did not go on: when to ask again, or that there is no sense in it."""
        self.fault = told(error)
        if isinstance(error, AbsentError):
            self.tries = 0
        elif isinstance(error, BusyError):
            wait = error.retry_after_seconds * (1 + self._random.uniform(0, LATER_THAN_ASKED))
            wait = max(wait, next(self._waits))
            self._waited += wait
            self.ready_at = time.monotonic() + wait
            if self._waited > self._patience.most_wait_seconds:
                self.tries = 0
        else:
            self.tries -= 1
            self.ready_at = time.monotonic() + next(self._waits)


class Fetcher:
    """Fetches blobs from *sources*, in that order; a text is the base URL of a web server."""

    def __init__(
        self,
        sources: Sequence[Union[str, Source]],
        *,
        tell: Tell,
        patience: Optional[Patience] = None,
        advance: Callable[[int], None] = lambda count: None,
        random_source: Optional[random.Random] = None,
        distrust: Optional[Distrust] = None,
        chunks: Optional[Digest] = None,
    ) -> None:
        """*chunks* is the chunk index of the capsule, where there is one: a hint."""
        self._patience = patience or Patience()
        self._sources = [
            HttpSource(item, stall_seconds=self._patience.stall_seconds)
            if isinstance(item, str)
            else item
            for item in sources
        ]
        self._tell = tell
        self._advance = advance
        self._random = random_source or random.SystemRandom()
        self._distrust = distrust or Distrust()
        self._chunks = chunks

    def fetch_small(self, digest: Digest, *, limit_bytes: int, where: str) -> bytes:
        """Return the blob *digest*, whose size is not known.

        Raises:
            NetworkError: no server has it.
            VerificationError: all that have it have other bytes, or more than *limit_bytes*.
        """
        wrong: Optional[VerificationError] = None
        asked: Set[str] = set()
        while True:
            left = [item for item in self._usable() if item.base not in asked]
            if wrong:
                # From one server alone: so it is known whose bytes are wrong.
                left = left[:1]
                if not left:
                    raise wrong
            try:
                data, origins = self._read_small(left, digest, limit_bytes, where)
            except NetworkError:
                if not wrong:
                    raise
                asked |= {item.base for item in left}
                continue
            found = digest_of(data)
            if found == digest:
                return data
            too_long = len(data) > limit_bytes
            what = f"more than {limit_bytes} bytes" if too_long else f"digest {found}"
            wrong = VerificationError(f"{where}: found {what}, expected {digest}")
            self._tell(f"{wrong} (from {', '.join(sorted(origins))})")
            if len(origins) == 1 and not too_long:
                # What is longer than we take may be right.
                self._blame(origins, where)
            if len(left) == 1 or len(origins) == 1:
                asked |= origins or {left[0].base}

    def _read_small(
        self, sources: Sequence[Source], digest: Digest, limit_bytes: int, where: str
    ) -> Tuple[bytes, Set[str]]:
        """Return a blob, not verified, and who brought it; of a longer one a little too much."""
        data, origins = bytearray(), set()
        with closing(self._stream(sources, digest, where=where)) as stream:
            for source, chunk in stream:
                origins.add(source.base)
                data += chunk
                if len(data) > limit_bytes:
                    break
        return bytes(data), origins

    def read_range(self, digest: Digest, first_byte: int, size_bytes: int, *, where: str) -> bytes:
        """Return so many bytes of the blob *digest*, from whoever has it, **not verified**.

        Raises:
            NetworkError: no server brings them.
        """
        end = first_byte + size_bytes
        stream = self._stream(self._usable(), digest, first_byte, end=end, where=where)
        return b"".join(chunk for _, chunk in stream)

    def fetch_into(self, file: BinaryIO, blob: Descriptor, *, where: str) -> None:
        """Append *blob* to *file*, which has no buffer and can be read; the digest decides.

        When this raises, the file ends where it did before.

        Raises:
            NetworkError: no server brings it to its end.
            VerificationError: each has other bytes.
            VnfsbuildError: there is no room.
        """
        landing = Landing(file, where=where, advance=self._advance)
        try:
            fault = self._fetch_whole(landing, blob, self._usable(), where)
            if fault and not self._mend(landing, blob, where):
                self._fetch_again(landing, blob, where, fault)
        except BaseException:
            landing.rewind()
            raise

    def close(self) -> None:
        """Give up connections that are kept; they are made anew when needed."""
        for source in self._sources:
            source.close()

    def _fetch_whole(
        self, landing: Landing, blob: Descriptor, sources: Sequence[Source], where: str
    ) -> Optional[VerificationError]:
        """Fetch *blob* from its first byte on; return what is wrong with it, if anything is.

        Raises:
            NetworkError: it cannot be had.
        """
        landing.begin()
        origin = ""

        def arriving(stream: Iterator[Tuple[Source, bytes]]) -> Iterator[bytes]:
            nonlocal origin
            for source, chunk in stream:
                origin = source.base
                yield chunk

        size = blob.size_bytes
        stream = self._stream(sources, blob.digest, size_bytes=size, end=size, where=where)
        try:
            with closing(stream):
                for chunk in verify_stream(
                    arriving(stream), digest=blob.digest, size_bytes=size, where=where
                ):
                    landing.write(chunk, origin)
        except VerificationError as error:
            origins = landing.origins()
            self._tell(f"{error} (from {', '.join(sorted(origins))})")
            self._blame(origins if len(origins) == 1 else set(), where)
            return error
        self._blame(landing.changed, where)
        return None

    def _fetch_again(
        self, landing: Landing, blob: Descriptor, where: str, fault: VnfsbuildError
    ) -> None:
        """Fetch *blob* from one server alone, then the next: so it is known whose bytes are wrong.

        Raises:
            VerificationError, NetworkError: none has it right.
        """
        suspects = landing.origins()
        alone = suspects if len(suspects) == 1 else set()
        for source in sorted(self._usable(), key=lambda item: item.base in suspects):
            if source.base in alone:
                continue
            self._tell(f"{where}: fetching it anew, from {source.base}")
            try:
                wrong = self._fetch_whole(landing, blob, [source], where)
            except NetworkError as error:
                self._tell(str(error))
                continue
            if wrong is None:
                return
            fault = wrong
        raise fault

    def _mend(self, landing: Landing, blob: Descriptor, where: str) -> bool:
        """Fetch what the chunk index says is wrong from others; tell whether that made it right."""
        wrong = [
            piece
            for piece in self._find_pieces(blob)
            if name_piece(landing.read(piece.first_byte, piece.size_bytes)) != piece.name
        ]
        size_bytes = sum(piece.size_bytes for piece in wrong)
        if not wrong or 2 * size_bytes > blob.size_bytes:
            return False
        for first, end, pieces in group_pieces(wrong):
            origins = landing.origins(first, end - first)
            others = [item for item in self._usable() if item.base not in origins]
            if not self._mend_stretch(landing, blob, pieces, others, where):
                return False
        if landing.digest(blob.size_bytes) != blob.digest:
            return False
        guilty = landing.changed
        self._tell(
            f"{where}: {size_bytes} bytes around wrong ones made good; they were from "
            f"{', '.join(sorted(guilty))}"
        )
        self._blame(guilty, where)
        return True

    def _mend_stretch(
        self,
        landing: Landing,
        blob: Descriptor,
        pieces: Sequence[Piece],
        others: Sequence[Source],
        where: str,
    ) -> bool:
        """Put right bytes at *pieces*, which follow each other; False when nobody has them."""
        first = pieces[0].first_byte
        end = pieces[-1].first_byte + pieces[-1].size_bytes
        for source in others:
            try:
                stream = self._stream(
                    [source], blob.digest, first, size_bytes=blob.size_bytes, end=end, where=where
                )
                data = b"".join(chunk for _, chunk in stream)
            except NetworkError as error:
                self._tell(str(error))
                continue
            parts = [(piece, data[piece.first_byte - first :]) for piece in pieces]
            if all(name_piece(part[: piece.size_bytes]) == piece.name for piece, part in parts):
                landing.put(first, data, source.base)
                return True
        return False

    def _find_pieces(self, blob: Descriptor) -> Tuple[Piece, ...]:
        if self._chunks is None:
            return ()
        try:
            data = self.fetch_small(
                self._chunks, limit_bytes=MAX_METADATA_BYTES, where="chunk index"
            )
            return parse_chunk_map(data, blob)
        except VnfsbuildError as error:
            self._tell(str(error))
            return ()

    def _stream(
        self,
        sources: Sequence[Source],
        digest: Digest,
        first_byte: int = 0,
        *,
        size_bytes: Optional[int] = None,
        end: Optional[int] = None,
        where: str,
    ) -> "Generator[Tuple[Source, bytes], None, None]":
        """Yield the blob's bytes and who brought them, going on at the next when one fails.

        Raises:
            NetworkError: none goes on.
        """
        turns = [_Turn(source, self._patience, self._random) for source in sources]
        position = first_byte
        turn = None
        while True:
            turn = self._take_turn(turns, turn, where)
            before = position
            try:
                read = turn.source.read(digest, position, size_bytes=size_bytes, end=end)
                with closing(read) as chunks:
                    for chunk in chunks:
                        yield turn.source, chunk
                        position += len(chunk)
                if end is None or position >= end:
                    return
                fault: BaseException = OSError(f"ended after {position} of {end} bytes")
            except (AbsentError, OSError, http.client.HTTPException) as error:
                fault = error
            if position - before >= MOVED_BYTES:
                turn.moved()
            turn.failed(fault)

    def _take_turn(self, turns: Sequence[_Turn], last: Optional[_Turn], where: str) -> _Turn:
        """Return who is asked next: the first that may be asked now, or soonest, after a pause."""
        left = [turn for turn in turns if turn.tries > 0]
        if not left:
            faults = "; ".join(f"{turn.source.base}: {turn.fault}" for turn in turns)
            why = f"cannot be had: {faults}" if turns else "the plan names no server that has blobs"
            raise NetworkError(f"{where}: {why}")
        now = time.monotonic()
        ready = [turn for turn in left if turn.ready_at <= now]
        turn = ready[0] if ready else min(left, key=lambda item: item.ready_at)
        pause = max(turn.ready_at - now, 0.0)
        if last is not None:
            then = f"in {pause:.0f} s" if turn is last else f"with {turn.source.base}"
            then += f" in {pause:.0f} s" if turn is not last and pause >= 1 else ""
            self._tell(f"{where}: {last.source.base}: {last.fault}; going on {then}")
        time.sleep(pause)
        return turn

    def _usable(self) -> List[Source]:
        return self._distrust.usable(self._sources)

    def _blame(self, bases: Set[str], where: str) -> None:
        for base in sorted(bases):
            if self._distrust.note(base, where) and len(self._sources) > 1:
                self._tell(f"{base}: gave wrong bytes: not asked again in this boot")
