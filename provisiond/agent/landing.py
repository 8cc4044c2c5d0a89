"""Where a blob lands: a stretch of a file, and from whom which of its bytes came.

Who takes part in a copy that turns out wrong is not guilty yet. When a later copy is right, those
are whose bytes it changed.
"""

from __future__ import annotations

import hashlib
from typing import BinaryIO, Callable, Iterator, List, Set, Tuple

from vnfsbuild.digest import READ_SIZE_BYTES, Digest
from vnfsbuild.errors import VnfsbuildError

Span = Tuple[int, int, str]
"""First byte, the one after the last, and who brought them."""


class Landing:
    """The place of one blob, from where *file* stands now; the file has no buffer of its own."""

    def __init__(self, file: BinaryIO, *, where: str, advance: Callable[[int], None]) -> None:
        self._file = file
        self._where = where
        self._advance = advance
        self._start = file.tell()
        self._spans: List[Span] = []
        self._position = 0
        self._changed: Set[str] = set()

    def begin(self) -> None:
        """Go back to the first byte; what has landed so far is compared with what comes."""
        self._advance(-self._position)
        self._position = 0
        self._changed = set()
        self._file.seek(self._start)

    def write(self, data: bytes, source: str) -> None:
        """Write the bytes that come next.

        Raises:
            VnfsbuildError: there is no room.
        """
        self.put(self._position, data, source)
        self._position += len(data)
        self._advance(len(data))

    def put(self, first_byte: int, data: bytes, source: str) -> None:
        """Write *data* at *first_byte* of the blob, and note whose bytes that changes.

        Raises:
            VnfsbuildError: there is no room.
        """
        before = [span for span in self._spans if _overlap(span, first_byte, len(data))]
        if before:
            old = self.read(first_byte, len(data))
            for first, end, brought_by in before:
                part = slice(max(first - first_byte, 0), end - first_byte)
                if old[part] != data[part][: len(old[part])]:
                    self._changed.add(brought_by)
        self._file.seek(self._start + first_byte)
        write_all(self._file, data, where=self._where)
        self._note((first_byte, first_byte + len(data), source))

    def read(self, first_byte: int, size_bytes: int) -> bytes:
        """Return what has landed there."""
        self._file.seek(self._start + first_byte)
        return self._file.read(size_bytes)

    def origins(self, first_byte: int = 0, size_bytes: int = 1 << 62) -> Set[str]:
        """Return who brought what is there now."""
        return {span[2] for span in self._spans if _overlap(span, first_byte, size_bytes)}

    @property
    def changed(self) -> Set[str]:
        """Those of whom bytes were changed since :meth:`begin`; wrong ones, if now all is right."""
        return set(self._changed)

    def digest(self, size_bytes: int) -> Digest:
        """Return the digest of what has landed."""
        hasher = hashlib.sha256()
        for first in range(0, size_bytes, READ_SIZE_BYTES):
            hasher.update(self.read(first, min(READ_SIZE_BYTES, size_bytes - first)))
        self._file.seek(self._start + size_bytes)
        return Digest("sha256:" + hasher.hexdigest())

    def rewind(self) -> None:
        """Let the file end where the blob begins."""
        self._advance(-self._position)
        self._position = 0
        self._spans = []
        self._file.seek(self._start)
        self._file.truncate()

    def _note(self, new: Span) -> None:
        spans = [part for span in self._spans for part in _without(span, new)]
        if spans and spans[-1][1] == new[0] and spans[-1][2] == new[2]:
            new = (spans.pop()[0], new[1], new[2])
        self._spans = sorted([*spans, new])


def write_all(file: BinaryIO, data: bytes, *, where: str) -> None:
    """Write all of *data* to the unbuffered *file*.

    Raises:
        VnfsbuildError: there is no room; on a node that means no memory.
    """
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise VnfsbuildError(f"{where}: cannot be kept: {error.strerror}") from error


def _overlap(span: Span, first_byte: int, size_bytes: int) -> bool:
    return span[0] < first_byte + size_bytes and first_byte < span[1]


def _without(span: Span, new: Span) -> Iterator[Span]:
    """Yield what *new* leaves of *span*."""
    first, end, source = span
    if first < min(end, new[0]):
        yield first, min(end, new[0]), source
    if max(first, new[1]) < end:
        yield max(first, new[1]), end, source
