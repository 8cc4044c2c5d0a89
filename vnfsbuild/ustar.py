"""Tar archives of which there is only one for the same content.

Format: POSIX.1-1988 *ustar*, regular files only. Owners are 0 and have no names, times are 0, every
field has one spelling; docs/capsule-format.md has it byte by byte. A header that is spelled in
another way is refused, although any tar program would read it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from vnfsbuild.digest import READ_SIZE_BYTES
from vnfsbuild.errors import InputError, VerificationError

BLOCK_BYTES = 512
END = bytes(2 * BLOCK_BYTES)
"""Two zero blocks end an archive; nothing follows them."""

MAX_FILE_BYTES = 0o77777777777
"""What eleven octal digits can say: 8 GiB less one byte."""

_NAME_BYTES = 100
_PREFIX_BYTES = 155


def render_header(name: str, size_bytes: int, *, mode: int = 0o644) -> bytes:
    """Return the block that stands before the *size_bytes* bytes of the file *name*.

    Raises:
        InputError: the format cannot express the name or the size.
    """
    if not 0 <= size_bytes <= MAX_FILE_BYTES:
        raise InputError(f"{name}: {size_bytes} bytes, expected less than 8 GiB in a tar archive")
    prefix, last = _split(name)
    header = b"".join(
        (
            last.ljust(_NAME_BYTES, b"\0"),
            b"%07o\0" % mode,
            b"%07o\0" % 0,  # owner
            b"%07o\0" % 0,  # group
            b"%011o\0" % size_bytes,
            b"%011o\0" % 0,  # modification time
            b" " * 8,  # the checksum is computed with blanks in its place
            b"0",  # a regular file
            bytes(100),  # link target
            b"ustar\x0000",
            bytes(64),  # names of owner and group
            b"%07o\0" % 0,  # device
            b"%07o\0" % 0,
            prefix.ljust(_PREFIX_BYTES, b"\0"),
            bytes(12),
        )
    )
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


def padding(size_bytes: int) -> bytes:
    """Return the zero bytes that fill the last block of a file of *size_bytes* bytes."""
    return bytes(-size_bytes % BLOCK_BYTES)


def parse_header(block: bytes, *, where: str) -> tuple[str, int]:
    """Return name and size of the file of mode 0644 that *block* is the header of.

    Raises:
        VerificationError: any other block than :func:`render_header` writes.
    """
    try:
        last = block[:_NAME_BYTES].rstrip(b"\0").decode("utf-8")
        prefix = block[345 : 345 + _PREFIX_BYTES].rstrip(b"\0").decode("utf-8")
        size_bytes = int(block[124:135], 8)
        name = f"{prefix}/{last}" if prefix else last
        expected = render_header(name, size_bytes)
    except (ValueError, InputError) as error:
        raise VerificationError(f"{where}: not a header of a tar archive") from error
    if expected != block:
        raise VerificationError(f"{where}: a header in another form than the one that is valid")
    return name, size_bytes


class Reader:
    """An archive read front to back, each byte of the skeleton compared with what it must be."""

    def __init__(self, stream: BinaryIO, where: str) -> None:
        self.where = where
        self._stream = stream
        self._offset = 0

    def member(self, name: str, *, limit_bytes: int) -> tuple[str, bytes]:
        """Return *name* and the content of the next member, which must be called so.

        Raises:
            VerificationError: another member stands there, or one of more than *limit_bytes*.
        """
        size_bytes = self.header(name, limit_bytes=limit_bytes)
        data = self._exactly(size_bytes, name)
        self.padding(size_bytes)
        return name, data

    def header(
        self, name: str, *, size_bytes: int | None = None, limit_bytes: int | None = None
    ) -> int:
        """Read the header of the member *name*; return the size that it tells.

        Raises:
            VerificationError: another member, or another size than it must have or may have.
        """
        where = f"{self.where}: byte {self._offset}"
        found, found_bytes = parse_header(
            self._exactly(BLOCK_BYTES, f"the header of {name}"), where=where
        )
        if found != name or size_bytes not in (None, found_bytes):
            raise VerificationError(
                f"{where}: found {found} of {found_bytes} bytes, "
                f"expected {name}" + (f" of {size_bytes}" if size_bytes is not None else "")
            )
        if limit_bytes is not None and found_bytes > limit_bytes:
            raise VerificationError(f"{where}: {name}: found more than {limit_bytes} bytes")
        return found_bytes

    def chunks(self, size_bytes: int) -> Iterator[bytes]:
        """Read on; end early where the file does."""
        while size_bytes > 0:
            chunk = self._stream.read(min(size_bytes, READ_SIZE_BYTES))
            if not chunk:
                return
            size_bytes -= len(chunk)
            self._offset += len(chunk)
            yield chunk

    def skip(self, size_bytes: int) -> int:
        """Pass over content that is read elsewhere; return at which byte it begins."""
        start = self._offset
        self._offset = self._stream.seek(start + size_bytes)
        return start

    def padding(self, size_bytes: int) -> None:
        """Read what fills the last block of a member of *size_bytes* bytes.

        Raises:
            VerificationError: it is not zero.
        """
        self._constant(padding(size_bytes), "zero bytes up to the next block")

    def end(self) -> None:
        """Read the end of the archive.

        Raises:
            VerificationError: the end is not there, or is not the end of the file.
        """
        self._constant(END, "the two zero blocks at the end")
        if self._stream.read(1):
            raise VerificationError(f"{self.where}: byte {self._offset}: found more after the end")

    def _constant(self, expected: bytes, what: str) -> None:
        start = self._offset
        if self._exactly(len(expected), what) != expected:
            raise VerificationError(f"{self.where}: byte {start}: expected {what}")

    def _exactly(self, count: int, what: str) -> bytes:
        data = b"".join(self.chunks(count))
        if len(data) < count:
            raise VerificationError(f"{self.where}: ends at byte {self._offset}, expected {what}")
        return data


def _split(name: str) -> tuple[bytes, bytes]:
    """Return prefix and name: at the first slash that leaves at most 100 bytes for the name."""
    encoded = name.encode("utf-8", "surrogateescape")
    if not encoded or b"\0" in encoded:
        raise InputError(f"{name!r}: not a name for a file in a tar archive")
    if len(encoded) <= _NAME_BYTES:
        return b"", encoded
    cut = encoded.find(b"/", len(encoded) - _NAME_BYTES - 1)
    if not 0 < cut <= _PREFIX_BYTES or cut == len(encoded) - 1:
        raise InputError(f"{name}: too long a name for a tar archive")
    return encoded[:cut], encoded[cut + 1 :]
