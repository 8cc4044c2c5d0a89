"""Tar archives of which there is only one for the same content.

Format: POSIX.1-1988 *ustar*, regular files only. Owners are 0 and have no names, times are 0, every
field has one spelling; docs/capsule-format.md has it byte by byte. A header that is spelled in
another way is refused, although any tar program would read it.
"""

from __future__ import annotations

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
