"""RPM package files, as far as a lock needs them: who a package says it is, and who signed it.

Read by us, so that a package can be looked at before anything of it is given to a program. Layout:
a lead, the signature header, the header, the payload; headers are an index of tags and a store of
their values. The signature is one of the header, and the header has the digest of the payload.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import libarchive

from vnfsbuild.errors import VerificationError, VnfsbuildError

LEAD_BYTES = 96
LEAD_MAGIC = b"\xed\xab\xee\xdb"
HEADER_MAGIC = b"\x8e\xad\xe8\x01\0\0\0\0"
MAX_HEADER_BYTES = 256 * 1024 * 1024
MAX_ENTRIES = 1 << 16
READ_BYTES = 1024 * 1024

NAME, VERSION, RELEASE, EPOCH, ARCHITECTURE = 1000, 1001, 1002, 1003, 1022
SOURCE_PACKAGE = 1106
PAYLOAD_DIGEST, PAYLOAD_DIGEST_KIND = 5092, 5093
SHA256 = 8

DSA_SIGNATURE, RSA_SIGNATURE, OPENPGP_SIGNATURES = 267, 268, 278
"""Tags of the signature header: signatures of the header."""

_INT32, _STRING, _BINARY, _STRINGS, _TRANSLATED = 4, 6, 7, 8, 9

Value = bytes | int | tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class RpmFile:
    """What the headers of a package say."""

    name: str
    version: str
    """``[EPOCH:]VERSION-RELEASE``"""
    architecture: str
    header: bytes = field(repr=False)
    """all of it, as it is signed"""
    signatures: tuple[bytes, ...] = field(repr=False)
    """OpenPGP signatures of the header"""
    payload_sha256: str | None
    payload_at: int


def read_rpm(path: Path) -> RpmFile:
    """Return what the headers of the package in the file *path* say; nothing is verified.

    Raises:
        VnfsbuildError: it is no binary package.
    """
    with path.open("rb") as file:
        if not file.read(LEAD_BYTES).startswith(LEAD_MAGIC):
            raise VnfsbuildError(f"{path}: not an RPM package")
        signed = _read_header(file, path)
        # Only the signature header is padded.
        file.read(-len(signed) % 8)
        header = _read_header(file, path)
        payload_at = file.tell()
    tags, signature_tags = _parse(header, path), _parse(signed, path)
    if SOURCE_PACKAGE in tags:
        raise VnfsbuildError(f"{path}: a source package, expected one to install")
    digests = _texts(tags, PAYLOAD_DIGEST)
    return RpmFile(
        name=_text(tags, NAME, path),
        version=_render_version(tags, path),
        architecture=_text(tags, ARCHITECTURE, path),
        header=header,
        signatures=_list_signatures(signature_tags),
        payload_sha256=digests[0] if digests and tags.get(PAYLOAD_DIGEST_KIND) == SHA256 else None,
        payload_at=payload_at,
    )


def read_rpm_files(path: Path, wanted: Collection[str]) -> dict[str, bytes]:
    """Return the content of the files *wanted* of the package *path*: path below the root → bytes.

    Raises:
        VnfsbuildError: it is no package, or one without such a file.
    """
    found: dict[str, bytes] = {}
    try:
        with libarchive.file_reader(str(path)) as archive:
            for entry in archive:
                name = entry.pathname.removeprefix("./").lstrip("/")
                if name in wanted and entry.isreg:
                    found[name] = b"".join(entry.get_blocks())
    except libarchive.ArchiveError as error:
        raise VnfsbuildError(f"{path}: not an RPM package: {error}") from error
    for name in wanted:
        if name not in found:
            raise VnfsbuildError(f"{path}: holds no file {name}")
    return found


def verify_payload(rpm: RpmFile, path: Path) -> None:
    """Raise unless the payload of the package in the file *path* is what its header *rpm* says.

    Raises:
        VerificationError: it is another, or the header has no digest of it.
    """
    if rpm.payload_sha256 is None:
        raise VerificationError(
            f"{path}: {rpm.name}: its header has no SHA-256 of its payload, so that its signature "
            "does not cover what would be installed"
        )
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(rpm.payload_at)
        while piece := file.read(READ_BYTES):
            hasher.update(piece)
    if hasher.hexdigest() != rpm.payload_sha256:
        raise VerificationError(
            f"{path}: {rpm.name}: payload is sha256:{hasher.hexdigest()}, its header says "
            f"{rpm.payload_sha256}"
        )


def _read_header(file: BinaryIO, path: Path) -> bytes:
    head = file.read(16)
    if len(head) < 16 or not head.startswith(HEADER_MAGIC):
        raise VnfsbuildError(f"{path}: not an RPM package: found no header where one must be")
    entries, store_bytes = struct.unpack(">II", head[8:])
    size_bytes = 16 * entries + store_bytes
    if entries > MAX_ENTRIES or size_bytes > MAX_HEADER_BYTES:
        raise VnfsbuildError(f"{path}: not an RPM package: its header is said to be too large")
    body = file.read(size_bytes)
    if len(body) < size_bytes:
        raise VnfsbuildError(f"{path}: ends within its header: a broken download")
    return head + body


def _parse(header: bytes, path: Path) -> dict[int, Value]:
    entries, store_bytes = struct.unpack(">II", header[8:16])
    store = header[16 + 16 * entries :]
    found: dict[int, Value] = {}
    for position in range(entries):
        at = 16 + 16 * position
        tag, kind, offset, count = struct.unpack(">IIII", header[at : at + 16])
        if offset > store_bytes:
            raise VnfsbuildError(f"{path}: damaged: tag {tag} lies outside of its header")
        value = _read_value(store, kind, offset, count)
        if value is not None:
            if tag in found:
                raise VnfsbuildError(f"{path}: damaged: tag {tag} stands there twice")
            found[tag] = value
    return found


def _read_value(store: bytes, kind: int, offset: int, count: int) -> Value | None:
    if kind in (_STRING, _STRINGS, _TRANSLATED):
        if count > len(store) - offset:
            return None
        texts = store[offset:].split(b"\0", count)[:count]
        return tuple(text.decode("utf-8", "replace") for text in texts)
    if kind == _INT32 and count == 1 and offset + 4 <= len(store):
        return int.from_bytes(store[offset : offset + 4], "big")
    if kind == _BINARY:
        return store[offset : offset + count]
    return None


def _texts(tags: Mapping[int, Value], tag: int) -> tuple[str, ...]:
    value = tags.get(tag, ())
    return value if isinstance(value, tuple) else ()


def _text(tags: Mapping[int, Value], tag: int, path: Path) -> str:
    texts = _texts(tags, tag)
    if not texts or not texts[0]:
        raise VnfsbuildError(f"{path}: damaged: its header has no tag {tag}")
    return texts[0]


def _render_version(tags: Mapping[int, Value], path: Path) -> str:
    epoch = tags.get(EPOCH, 0)
    return make_version(
        str(epoch if isinstance(epoch, int) else 0),
        _text(tags, VERSION, path),
        _text(tags, RELEASE, path),
    )


def make_version(epoch: str, version: str, release: str) -> str:
    """Return a package's version in one text: without an epoch where that is 0."""
    return f"{version}-{release}" if epoch in ("", "0") else f"{epoch}:{version}-{release}"


def _list_signatures(tags: Mapping[int, Value]) -> tuple[bytes, ...]:
    found: list[bytes] = []
    for tag in (RSA_SIGNATURE, DSA_SIGNATURE):
        value = tags.get(tag)
        if isinstance(value, bytes):
            found.append(value)
    found += _decode(_texts(tags, OPENPGP_SIGNATURES))
    return tuple(dict.fromkeys(found))


def _decode(texts: Sequence[str]) -> list[bytes]:
    found = []
    for text in texts:
        try:
            found.append(base64.b64decode("".join(text.split()), validate=True))
        except binascii.Error:
            continue  # no signature that could be good
    return found
