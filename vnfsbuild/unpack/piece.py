"""A part of an open file: what a reader of a file system reads, and never beyond it.

Reading is by the descriptor that the bytes were verified through, so that a file which is replaced
or deleted meanwhile makes no difference. Several threads may read.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vnfsbuild.digest import READ_SIZE_BYTES
from vnfsbuild.errors import VerificationError


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """The bytes from *offset* on of the file that *descriptor* is open for."""

    descriptor: int
    offset: int
    size_bytes: int
    where: str
    """what it is, for messages"""

    def read(self, start: int, size_bytes: int) -> bytes:
        """Return *size_bytes* bytes from *start* on.

        Raises:
            VerificationError: there are not so many.
        """
        if start < 0 or size_bytes < 0 or start + size_bytes > self.size_bytes:
            raise self.damaged(f"points to byte {start + size_bytes} of {self.size_bytes}")
        data = os.pread(self.descriptor, size_bytes, self.offset + start)
        if len(data) != size_bytes:
            raise self.damaged(f"ends within {self.size_bytes} bytes")
        return data

    def unpack(self, form: struct.Struct, start: int) -> tuple[Any, ...]:
        """Return the values that stand at *start* in this form."""
        return form.unpack(self.read(start, form.size))

    def chunks(self) -> Iterator[bytes]:
        """Return all of it, piece by piece; it ends early where the file does."""
        start = 0
        while start < self.size_bytes:
            count = min(READ_SIZE_BYTES, self.size_bytes - start)
            data = os.pread(self.descriptor, count, self.offset + start)
            if not data:
                return
            start += len(data)
            yield data

    def damaged(self, found: str) -> VerificationError:
        """Return the error that tells that this is not what it should be, or of no kind we know."""
        return VerificationError(f"{self.where}: cannot be read: {found}")
