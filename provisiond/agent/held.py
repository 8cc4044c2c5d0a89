"""What a running node holds of its capsule: the pieces that it need not fetch of another one.

The layers stay in memory as they came, compressed. After the change of root no path leads to them
any more, but the loop devices do by which they are mounted. Nothing here is believed: each piece is
compared with its name when it is used, and the digest of the whole, which is signed, decides.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from provisiond.agent.chunkmap import Piece, name_piece, parse_chunk_map
from vnfsbuild.digest import READ_SIZE_BYTES, Digest
from vnfsbuild.errors import VerificationError
from vnfsbuild.manifest import Descriptor

SYS = Path("/sys")
DEV = Path("/dev")
SECTOR_BYTES = 512
"""Loop devices are as long as the whole sectors of their files."""


class Place(NamedTuple):
    """Where a piece is: the descriptor of an open file, and its first byte there."""

    descriptor: int
    first_byte: int


class Held:
    """Blobs that are in memory here; :meth:`close` lets go of them."""

    def __init__(
        self, blobs: Sequence[Descriptor], index: Optional[bytes], paths: Sequence[Path]
    ) -> None:
        """*paths* may hold *blobs*; *index* lists the pieces of these, where there is one."""
        self._blobs: Dict[Digest, List[int]] = {}
        self._places: Dict[bytes, Place] = {}
        self._open: List[Tuple[int, int]] = []
        for path in paths:
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue
            self._open.append((descriptor, os.lseek(descriptor, 0, os.SEEK_END)))
        for blob in blobs:
            here = [
                descriptor
                for descriptor, size_bytes in self._open
                if size_bytes in (blob.size_bytes, blob.size_bytes // SECTOR_BYTES * SECTOR_BYTES)
            ]
            self._blobs[blob.digest] = here
            if index is not None:
                self._note(here, blob, index)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def close(self) -> None:
        """Close what was opened."""
        while self._open:
            descriptor, size_bytes = self._open.pop()
            # What was read through a device is a second copy of what is in memory.
            os.posix_fadvise(descriptor, 0, size_bytes, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)

    def find(self, blob: Descriptor) -> Optional[int]:
        """Return the open file that is all of *blob*, its digest compared; None: there is none."""
        for descriptor in self._blobs.get(blob.digest, ()):
            if _digest(descriptor, blob.size_bytes) == blob.digest:
                return descriptor
        return None

    def read(self, piece: Piece) -> Optional[bytes]:
        """Return *piece*, compared with its name; None where it is not, or not any more."""
        place = self._places.get(piece.name)
        if place is None:
            return None
        try:
            data = os.pread(place.descriptor, piece.size_bytes, place.first_byte)
        except OSError:
            return None
        return data if name_piece(data) == piece.name else None

    def _note(self, descriptors: Sequence[int], blob: Descriptor, index: bytes) -> None:
        try:
            pieces = parse_chunk_map(index, blob, where="chunk index of what runs")
        except VerificationError:
            return
        for descriptor in descriptors:
            # Of several of one size: the first piece tells which it is.
            first = os.pread(descriptor, pieces[0].size_bytes, 0)
            if name_piece(first) == pieces[0].name:
                for piece in pieces:
                    self._places.setdefault(piece.name, Place(descriptor, piece.first_byte))
                return


def find_devices(*, sys: Path = SYS, dev: Path = DEV) -> List[Path]:
    """Return the loop devices that are in use, in the order of their names."""
    return [
        dev / backing.parent.parent.name
        for backing in sorted((sys / "block").glob("loop*/loop/backing_file"))
    ]


def _digest(descriptor: int, size_bytes: int) -> Optional[Digest]:
    hasher = hashlib.sha256()
    try:
        for first in range(0, size_bytes, READ_SIZE_BYTES):
            hasher.update(os.pread(descriptor, min(READ_SIZE_BYTES, size_bytes - first), first))
    except OSError:
        return None
    return Digest(f"sha256:{hasher.hexdigest()}")
