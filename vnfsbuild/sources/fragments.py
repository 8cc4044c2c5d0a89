"""Pieces of RPM metadata: what a repository says of single packages, cut out and put together.

Of each package two elements are kept, as they stand there: one of the list of packages, one of the
list of their files. Together they are what a lock knows of a package when no repository has it any
more.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from xml.etree import ElementTree

from vnfsbuild.digest import digest_of
from vnfsbuild.errors import VnfsbuildError
from vnfsbuild.lock import LockedPackage
from vnfsbuild.sources.repomd import FILELISTS, PRIMARY
from vnfsbuild.sources.rpmfile import make_version

_COMMON = "http://linux.duke.edu/metadata/common"
_HEADS = {
    PRIMARY: f'<metadata xmlns="{_COMMON}" xmlns:rpm="http://linux.duke.edu/metadata/rpm"',
    FILELISTS: '<filelists xmlns="http://linux.duke.edu/metadata/filelists"',
}
_ENDS = {PRIMARY: "</metadata>", FILELISTS: "</filelists>"}
_CLOSE = b"</package>"
_SHA256 = re.compile(r"[0-9a-f]{64}")
SEPARATOR = "\n<!-- files -->\n"
"""Between the two elements of a package."""


def cut_fragments(primary: Path, filelists: Path, wanted: Iterable[str]) -> dict[str, str]:
    """Return the fragments of the packages *wanted*: SHA-256 → text; those that are there.

    *primary* and *filelists* are unpacked indexes of a repository.
    """
    shas = list(wanted)
    first = _cut(primary, shas)
    second = _cut(filelists, shas)
    return {
        sha256: f"{first[sha256]}{SEPARATOR}{second[sha256]}"
        for sha256 in shas
        if sha256 in first and sha256 in second
    }


def render_indexes(fragments: Iterable[str]) -> dict[str, bytes]:
    """Return the indexes of a repository of the packages that *fragments* describe."""
    pairs = [text.split(SEPARATOR) for text in fragments]
    bodies = {PRIMARY: [pair[0] for pair in pairs], FILELISTS: [pair[1] for pair in pairs]}
    return {
        kind: "\n".join(
            [
                '<?xml version="1.0" encoding="UTF-8"?>',
                f'{_HEADS[kind]} packages="{len(body)}">',
                *body,
                _ENDS[kind],
                "",
            ]
        ).encode()
        for kind, body in bodies.items()
    }


def render_repomd(indexes: Mapping[str, bytes]) -> str:
    """Return the repomd.xml of a repository whose *indexes* are ``repodata/KIND.xml``."""
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        '<repomd xmlns="http://linux.duke.edu/metadata/repo">',
        "<revision>0</revision>",
    ]
    for kind, data in indexes.items():
        sha256 = digest_of(data).removeprefix("sha256:")
        suffix = "yaml" if kind == "modules" else "xml"
        lines.append(
            f'<data type="{kind}"><checksum type="sha256">{sha256}</checksum>'
            f'<open-checksum type="sha256">{sha256}</open-checksum>'
            f'<location href="repodata/{kind}.{suffix}"/><timestamp>0</timestamp>'
            f"<size>{len(data)}</size><open-size>{len(data)}</open-size></data>"
        )
    return "\n".join([*lines, "</repomd>", ""])


def parse_fragment(fragment: str, *, repository: str, below: str = "") -> LockedPackage:
    """Return the package that *fragment* describes; *below* is where the repository's tree begins.

    Raises:
        VnfsbuildError: it describes none that a lock can name.
    """
    text = f"{_HEADS[PRIMARY]}>{fragment.partition(SEPARATOR)[0]}{_ENDS[PRIMARY]}"
    try:
        element = ElementTree.fromstring(text)[0]  # a fragment has no entities
    except (ElementTree.ParseError, IndexError) as error:
        raise VnfsbuildError(f"{repository}: metadata of a package is not XML: {error}") from error

    def child(name: str) -> ElementTree.Element:
        found = element.find(f"{{{_COMMON}}}{name}")
        if found is None:
            raise VnfsbuildError(f"{repository}: metadata of a package lacks {name}")
        return found

    version, checksum, size = child("version"), child("checksum"), child("size")
    path = below + child("location").get("href", "")
    name = (child("name").text or "").strip()
    sha256 = (checksum.text or "").strip()
    if checksum.get("type") != "sha256" or not _SHA256.fullmatch(sha256):
        raise VnfsbuildError(f"{repository}: names {name} by no SHA-256, which we ask for")
    size_text = size.get("package", "")
    if not size_text.isdecimal():
        raise VnfsbuildError(f"{repository}: {name} is said to have size {size_text!r}")
    if path.startswith("/") or ".." in path.split("/") or not path.endswith(".rpm"):
        raise VnfsbuildError(f"{repository}: {name} is said to be at {path!r}, expected *.rpm")
    return LockedPackage(
        name=name,
        version=make_version(
            version.get("epoch", "0"), version.get("ver", ""), version.get("rel", "")
        ),
        architecture=(child("arch").text or "").strip(),
        size_bytes=int(size_text),
        sha256=sha256,
        path=path,
        repository=repository,
    )


def _cut(index: Path, wanted: Iterable[str]) -> dict[str, str]:
    found = {}
    if index.stat().st_size == 0:
        return {}
    with index.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for sha256 in wanted:
            at = data.find(sha256.encode("ascii"))
            start = data.rfind(b"<package ", 0, at) if at >= 0 else -1
            end = data.find(_CLOSE, at)
            if start < 0 or end < 0 or data.find(_CLOSE, start) != end:
                continue
            found[sha256] = data[start : end + len(_CLOSE)].decode("utf-8", "replace")
    return found
