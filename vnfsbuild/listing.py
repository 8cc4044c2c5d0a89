"""Tables, sizes and JSON as commands show them. Text in, text out."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

_SURROGATE = re.compile("[\ud800-\udfff]")


def printable(text: str) -> str:
    """Return *text* with its lines, and without anything else that drives terminals."""
    return "".join(
        char if char.isprintable() or char in "\n\t" else repr(char)[1:-1] for char in text
    )


def render_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return *rows* below *header*, in columns as wide as what stands in them."""
    lines = [tuple(header), *(tuple(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def render_size(size_bytes: int) -> str:
    """Return a size for people, in decimal units: ``147.2 MB``."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.95 or unit == "GB":
            break
        size /= 1000
    return f"{size_bytes} B" if unit == "B" else f"{size:.1f} {unit}"


def render_document(value: Any) -> str:
    """Return *value* as ``--json`` prints it: for machines, yet with a line for each entry.

    Bytes of names that are no text stand in it as Python's ``surrogateescape`` has them.
    """
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
