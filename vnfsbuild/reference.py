"""References of capsules: ``NAME[:TAG][@DIGEST]``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Optional

from vnfsbuild.digest import Digest, parse_digest
from vnfsbuild.errors import InputError

CURRENT = "current"
"""The tag that a bare name means."""

# What a registry takes as the last part of a repository, and as a tag.
_NAME = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*\Z")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z")


@dataclass(frozen=True)
class Reference:
    """Which capsule is meant: with a digest exactly that one, else the one that the tag names."""

    name: str
    tag: str = CURRENT
    digest: Optional[Digest] = None

    def __str__(self) -> str:
        tag = "" if self.tag == CURRENT else f":{self.tag}"
        return f"{self.name}{tag}" + (f"@{self.digest}" if self.digest else "")


def parse_reference(text: str) -> Reference:
    """Return *text* as a reference.

    Raises:
        InputError: name, tag or digest are not of their form.
    """
    rest, at, digest = text.partition("@")
    name, colon, tag = rest.partition(":")
    parse_name(name, where=f"reference {text!r}")
    if colon and not _TAG.match(tag):
        raise InputError(
            f"reference {text!r}: found tag {tag!r}, expected letters, digits, '.', '_', '-'"
        )
    return Reference(
        name=name,
        tag=tag or CURRENT,
        digest=parse_digest(digest, where=f"reference {text!r}") if at else None,
    )


def parse_name(name: Any, *, where: str) -> str:
    """Return *name* when it can be a capsule's name.

    Raises:
        InputError: it cannot.
    """
    if not isinstance(name, str) or not _NAME.match(name) or len(name) > 128:
        raise InputError(
            f"{where}: found name {name!r}, expected lower-case letters and digits, "
            "parted by '.', '_' or '-'"
        )
    return name
