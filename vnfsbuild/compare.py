"""Where two payloads differ: two listings in, differences with their kind out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

MISSING = "missing"
EXTRA = "extra"
CONTENT = "content"

_SHOWN_DIGITS = 19
"""Of a digest: ``sha256:`` and twelve."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A path of a payload, with all that may differ."""

    type: str
    """``file``, ``directory``, ``link``, ``device`` or another word"""
    mode: int = 0
    """permissions, without the bits of the type"""
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    content: str = ""
    """a file's digest, a link's target, a device's numbers"""
    xattrs: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """What is not the same at a path."""

    payload: str
    path: str
    kind: str
    """``missing``, ``extra``, ``type``, ``mode``, ``owner``, ``mtime``, ``content``, ``xattrs``"""
    found: str = ""
    """in words, of what was built now"""
    expected: str = ""
    """in words, of the capsule"""

    def __str__(self) -> str:
        told = f": found {self.found}, expected {self.expected}" if self.expected else ""
        return f"{self.payload}: {self.path}: {self.kind}{told}"


def compare_items(
    payload: str, *, found: Mapping[str, Item], expected: Mapping[str, Item]
) -> list[Difference]:
    """Return what differs between two listings of *payload*, path → item; sorted by path."""
    differences = []
    for path in sorted(found.keys() | expected.keys()):
        if path not in found or path not in expected:
            kind = EXTRA if path in found else MISSING
            differences.append(Difference(payload=payload, path=path, kind=kind))
            continue
        for kind, is_now, was in _compare(found[path], expected[path]):
            differences.append(
                Difference(payload=payload, path=path, kind=kind, found=is_now, expected=was)
            )
    return differences


def _compare(found: Item, expected: Item) -> Iterator[tuple[str, str, str]]:
    if found.type != expected.type:
        # What a path of another type holds is no difference of its own.
        yield "type", found.type, expected.type
        return
    if found.mode != expected.mode:
        yield "mode", f"{found.mode:04o}", f"{expected.mode:04o}"
    if (found.uid, found.gid) != (expected.uid, expected.gid):
        yield "owner", f"{found.uid}:{found.gid}", f"{expected.uid}:{expected.gid}"
    if found.mtime != expected.mtime:
        yield "mtime", str(found.mtime), str(expected.mtime)
    if found.content != expected.content:
        yield CONTENT, _shown(found.content), _shown(expected.content)
    if found.xattrs != expected.xattrs:
        yield "xattrs", _names(found.xattrs), _names(expected.xattrs)


def _shown(content: str) -> str:
    return content[:_SHOWN_DIGITS] if content.startswith("sha256:") else repr(content)


def _names(xattrs: Mapping[str, bytes]) -> str:
    return ", ".join(f"{name}={value.hex()}" for name, value in sorted(xattrs.items())) or "none"
