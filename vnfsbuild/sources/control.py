"""Debian's control files: stanzas of fields, in Packages, Release and sources files alike."""

from __future__ import annotations

from collections.abc import Iterator


def parse_stanzas(text: str) -> Iterator[dict[str, str]]:
    """Yield the stanzas of a control file: field name in lower case → value, lines joined."""
    fields: dict[str, str] = {}
    last = ""
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        if not line.strip():
            if fields:
                yield fields
            fields, last = {}, ""
        elif line[0] in " \t" and last:
            fields[last] += "\n" + line.strip()
        else:
            name, _, value = line.partition(":")
            last = name.strip().lower()
            fields[last] = value.strip()
    if fields:
        yield fields


def split_stanzas(text: str) -> Iterator[str]:
    """Yield the stanzas of a Packages file as they stand there, each ending in a newline."""
    for stanza in text.split("\n\n"):
        if stripped := stanza.strip("\n"):
            yield stripped + "\n"


def sha256_of(stanza: str) -> str:
    """Return the SHA-256 that a stanza of a Packages file names; empty when it names none."""
    start = f"\n{stanza}".find("\nSHA256: ")
    return stanza[start + 8 : start + 72] if start >= 0 else ""
