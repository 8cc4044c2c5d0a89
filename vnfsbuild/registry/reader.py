"""A blob of a registry as something to read parts of, with patience."""

from __future__ import annotations

from collections.abc import Iterator

from vnfsbuild.errors import VerificationError
from vnfsbuild.manifest import Descriptor
from vnfsbuild.registry.answer import RegistryError
from vnfsbuild.registry.repository import Repository

PROGRESS_BYTES = 1024 * 1024
"""An attempt that brought so much does not count as a failure: it went on."""


class BlobReader:
    """The blob *blob* of *repository*, as a :class:`~vnfsbuild.transfer.ranges.RangeReader`."""

    def __init__(self, repository: Repository, blob: Descriptor) -> None:
        self._repository = repository
        self._blob = blob

    def read(self, first_byte: int, size_bytes: int) -> Iterator[bytes]:
        """Return exactly these bytes; goes on where a connection broke.

        Raises:
            RegistryError: they do not come, also after some more attempts.
            VerificationError: more came than was asked for.
        """
        http = self._repository.http
        done = failures = 0
        while done < size_bytes:
            before = done
            try:
                for piece in self._read_once(first_byte + done, size_bytes - done):
                    done += len(piece)
                    yield piece
            except RegistryError as error:
                failures = 1 if done - before >= PROGRESS_BYTES else failures + 1
                if not error.again or failures >= http.patience.attempts:
                    raise
                http.wait(failures, error)

    def _read_once(self, first_byte: int, size_bytes: int) -> Iterator[bytes]:
        rest_bytes = self._blob.size_bytes - first_byte
        with self._repository.open_blob(self._blob, first_byte, size_bytes) as (start, pieces):
            if start != first_byte and size_bytes < rest_bytes:
                raise RegistryError(f"{self._repository.place}: answers no range requests")
            # It goes on with a registry that knows no ranges too, at the price of all before.
            yield from _skip(pieces, first_byte - start)

    def answers_ranges(self) -> bool:
        """Tell whether parts can be asked for, by asking for one byte."""
        try:
            with self._repository.open_blob(self._blob, 1, 1) as (start, pieces):
                return start == 1 and len(b"".join(pieces)) == 1
        except (RegistryError, VerificationError):
            return False


def _skip(pieces: Iterator[bytes], count: int) -> Iterator[bytes]:
    for piece in pieces:
        if count < len(piece):
            yield piece[count:]
        count = max(count - len(piece), 0)
