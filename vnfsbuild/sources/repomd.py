"""What an RPM repository says of itself in repomd.xml. Text in, values out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from xml.etree import ElementTree

from vnfsbuild.errors import VerificationError, VnfsbuildError
from vnfsbuild.sources.release import FUTURE_SECONDS, IndexFile, render_date

PRIMARY, FILELISTS, MODULES = "primary", "filelists", "modules"
"""What packages are, provide and need; which files they have; which of them are streams' only."""

_SPACE = "{http://linux.duke.edu/metadata/repo}"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NUMBER = re.compile(r"[0-9]{1,11}")
"""A time or a size: no date that Python cannot write, no size that no disk has."""
_HREF = re.compile(r"(?!/)(?!(.*/)?\.\.(/|\Z))[^\s?#]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Index:
    """A part of the metadata."""

    packed: IndexFile
    """as it is fetched; its path is below the repository"""
    plain: IndexFile | None
    """what it is when unpacked, where that is told"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Repomd:
    """A repomd.xml."""

    epoch: int
    """the date of its newest part"""
    indexes: Mapping[str, Index] = field(repr=False)
    """by what they are"""


def parse_repomd(data: bytes, *, where: str) -> Repomd:
    """Return the repomd.xml that *data* is; parts that we do not use are passed over.

    Raises:
        VnfsbuildError: it is none, or lacks a part, or names one without SHA-256.
    """
    if b"\0" in data:
        # UTF-16 would hide from the next question what the parser then finds.
        raise VnfsbuildError(f"{where}: repomd.xml is not UTF-8, in which it has to be")
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise VnfsbuildError(f"{where}: repomd.xml defines entities, which we do not follow")
    try:
        top = ElementTree.fromstring(data)  # no entities, see above
    except ElementTree.ParseError as error:
        raise VnfsbuildError(f"{where}: repomd.xml is not XML: {error}") from error
    indexes: dict[str, Index] = {}
    newest = 0
    for item in top.iter(f"{_SPACE}data"):
        kind = item.get("type", "")
        newest = max(newest, _number(item, "timestamp", where, kind))
        if kind in (PRIMARY, FILELISTS, MODULES):
            indexes[kind] = _read_index(item, kind, where)
    for kind in (PRIMARY, FILELISTS):
        if kind not in indexes:
            raise VnfsbuildError(f"{where}: repomd.xml names no {kind}")
    return Repomd(epoch=newest, indexes=indexes)


def verify_repomd(repomd: Repomd, *, now: int, least_epoch: int | None, where: str) -> None:
    """Raise unless *repomd* is of today or before, and not older than *least_epoch*.

    Raises:
        VerificationError: it is from the future, or older than what was seen before.
    """
    if repomd.epoch > now + FUTURE_SECONDS:
        raise VerificationError(
            f"{where}: dated {render_date(repomd.epoch)}, today is {render_date(now)}",
            hint="set this host's clock",
        )
    if least_epoch is not None and repomd.epoch < least_epoch:
        raise VerificationError(
            f"{where}: dated {render_date(repomd.epoch)}, "
            f"older than the lock's of {render_date(least_epoch)}",
            hint="another mirror; or --allow-older, when going back is meant",
        )


def _read_index(item: ElementTree.Element, kind: str, where: str) -> Index:
    location = item.find(f"{_SPACE}location")
    href = location.get("href", "") if location is not None else ""
    if not _HREF.fullmatch(href):
        raise VnfsbuildError(f"{where}: {kind} is said to be at {href!r}, expected a path below")
    packed = _sha256(item, "checksum")
    if packed is None:
        raise VnfsbuildError(f"{where}: names {kind} by no SHA-256, which we ask for")
    plain = _sha256(item, "open-checksum")
    has_size = item.find(f"{_SPACE}open-size") is not None
    return Index(
        packed=IndexFile(path=href, sha256=packed, size_bytes=_number(item, "size", where, kind)),
        plain=IndexFile(
            path=f"{kind}.plain", sha256=plain, size_bytes=_number(item, "open-size", where, kind)
        )
        if plain and has_size
        else None,
    )


def _sha256(item: ElementTree.Element, name: str) -> str | None:
    found = item.find(f"{_SPACE}{name}")
    text = (found.text or "").strip() if found is not None else ""
    good = found is not None and found.get("type") == "sha256" and _SHA256.fullmatch(text)
    return text if good else None


def _number(item: ElementTree.Element, name: str, where: str, kind: str) -> int:
    text = (item.findtext(f"{_SPACE}{name}") or "").strip()
    # createrepo writes times with a fraction in some versions.
    whole = text.partition(".")[0]
    if not _NUMBER.fullmatch(whole):
        raise VnfsbuildError(f"{where}: {kind} has {name} {text!r}, expected a number")
    return int(whole)
