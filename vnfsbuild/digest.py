"""Digests of our own content, ``sha256:`` and 64 hexadecimal digits, and canonical JSON.

Canonical JSON is what we sign and compare: keys sorted, no white space, UTF-8, no floats. For a
value there is exactly one text, so that a reader can render what it parsed and refuse any other.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, BinaryIO, Dict, Iterator, List, NewType, Optional, Tuple

from vnfsbuild.errors import InputError, VerificationError

Digest = NewType("Digest", str)

READ_SIZE_BYTES = 1024 * 1024

MAX_DEPTH = 64
"""Nothing of ours is nested deeper. What is much deeper cannot even be shown in a message."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")


def parse_digest(text: Any, *, where: str = "digest") -> Digest:
    """Return *text* as a digest.

    Raises:
        InputError: it is not ``sha256:`` and 64 lower-case hexadecimal digits.
    """
    if not isinstance(text, str) or not _DIGEST.match(text):
        raise InputError(f"{where}: found {text!r}, expected sha256: and 64 hexadecimal digits")
    return Digest(text)


def digest_of(data: bytes) -> Digest:
    """Return the digest of *data*."""
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


def digest_of_stream(stream: BinaryIO) -> Tuple[Digest, int]:
    """Read *stream* to its end; return the digest and the number of bytes."""
    return copy_stream(stream, None)


def copy_stream(stream: BinaryIO, sink: Optional[BinaryIO]) -> Tuple[Digest, int]:
    """Copy *stream* to *sink* up to its end; return the digest and the number of bytes."""
    hasher = hashlib.sha256()
    size_bytes = 0
    for chunk in iter(lambda: stream.read(READ_SIZE_BYTES), b""):
        hasher.update(chunk)
        size_bytes += len(chunk)
        if sink is not None:
            sink.write(chunk)
    return Digest("sha256:" + hasher.hexdigest()), size_bytes


def verify_stream(
    chunks: Iterator[bytes], *, digest: Digest, size_bytes: int, where: str
) -> Iterator[bytes]:
    """Pass *chunks* on, and raise before the end is reached unless they are what was promised.

    Never passes on more than *size_bytes* bytes. Whoever consumes this must not use the bytes
    until the iterator has ended without raising.

    Raises:
        VerificationError: too many bytes, too few, or other bytes.
    """
    hasher = hashlib.sha256()
    seen_bytes = 0
    for chunk in chunks:
        seen_bytes += len(chunk)
        if seen_bytes > size_bytes:
            raise VerificationError(f"{where}: more than the {size_bytes} bytes that were signed")
        hasher.update(chunk)
        yield chunk
    if seen_bytes < size_bytes:
        raise VerificationError(f"{where}: found {seen_bytes} bytes, expected {size_bytes}")
    found = "sha256:" + hasher.hexdigest()
    if found != digest:
        raise VerificationError(f"{where}: found digest {found}, expected {digest}")


def short(digest: str) -> str:
    """Return a digest as tables show it: the first twelve hexadecimal digits."""
    return digest.rpartition(":")[2][:12]


def render_json(value: Any) -> bytes:
    """Return the one canonical JSON text of *value*.

    Raises:
        TypeError: a float or another type that canonical JSON does not have.
        ValueError: it is nested too deep.
    """
    _refuse_others(value, MAX_DEPTH)
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8")


def parse_json(data: bytes, *, where: str) -> Dict[str, Any]:
    """Return the object that the canonical JSON *data* holds.

    Raises:
        VerificationError: not JSON, not an object, or not in the canonical form: a text that
            means the same with other bytes is refused, since nobody signed that one.
    """
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique)
        canonical = render_json(value)
    except (ValueError, TypeError, RecursionError) as error:
        raise VerificationError(f"{where}: not canonical JSON: {error}") from error
    if canonical != data:
        raise VerificationError(f"{where}: JSON in another form than the canonical one")
    if not isinstance(value, dict):
        raise VerificationError(f"{where}: found {type(value).__name__}, expected an object")
    return value


def _unique(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def _refuse_others(value: Any, depth: int) -> None:
    if depth < 0:
        raise ValueError(f"nested more than {MAX_DEPTH} deep")
    if isinstance(value, float):
        raise TypeError("canonical JSON has no floating-point numbers")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError("canonical JSON has only strings as keys")
            _refuse_others(item, depth - 1)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _refuse_others(item, depth - 1)
