"""JSON documents of the OCI world that other programs wrote, in whatever form. Pure.

Ours are read strictly (:mod:`vnfsbuild.manifest`), for they are signed or rendered again. What only
says where something may be found need not be.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any

from vnfsbuild.digest import MAX_DEPTH
from vnfsbuild.errors import InputError, VerificationError
from vnfsbuild.manifest import IndexEntry, parse_descriptor, render_index

MAX_ENTRIES = 1000


def parse_foreign_index(data: bytes, *, where: str) -> list[IndexEntry]:
    """Return the entries of an OCI index that another program wrote, in whatever form.

    Entries that are none, or not by sha256, are left out: they are nothing of ours.

    Raises:
        VerificationError: it is no OCI index.
    """
    document = parse_foreign_json(data, where=where)
    manifests = document.get("manifests")
    if not isinstance(manifests, list) or len(manifests) > MAX_ENTRIES:
        raise VerificationError(f"{where}: not an OCI index, or one of too many entries")
    found: list[IndexEntry] = []
    for item in manifests:
        with contextlib.suppress(VerificationError, InputError):
            descriptor = parse_descriptor(item, where=where)
            kind = item.get("artifactType")
            notes = item.get("annotations")
            texts = notes if isinstance(notes, dict) else {}
            named = {key: value for key, value in texts.items() if isinstance(value, str)}
            found.append((descriptor, kind if isinstance(kind, str) else None, named))
    return found


def parse_foreign_json(data: bytes, *, where: str) -> dict[str, Any]:
    """Return the object that the JSON of another program holds.

    Raises:
        VerificationError: it is none.
    """
    try:
        value = json.loads(data)
        _refuse_deep(value, MAX_DEPTH)
    except (ValueError, RecursionError) as error:
        raise VerificationError(f"{where}: not JSON") from error
    if not isinstance(value, dict):
        raise VerificationError(f"{where}: found {type(value).__name__}, expected an object")
    return value


def _refuse_deep(value: Any, depth: int) -> None:
    """Refuse what is nested so deep that not even a message about it could be made."""
    if not isinstance(value, dict | list):
        return
    if depth < 0:
        raise ValueError(f"nested more than {MAX_DEPTH} deep")
    for item in value.values() if isinstance(value, dict) else value:
        _refuse_deep(item, depth - 1)


def merge_into_index(data: bytes | None, entries: list[IndexEntry], *, where: str) -> bytes | None:
    """Return the index *data* with those of *entries* that it lacks; None when it has them all.

    Whatever else stands in it stays.

    Raises:
        VerificationError: *data* is no OCI index.
    """
    held = parse_foreign_index(data, where=where) if data is not None else []
    there = {entry[0].digest for entry in held}
    missing = [entry for entry in entries if entry[0].digest not in there]
    if not missing:
        return None
    document = parse_foreign_json(data or render_index([]), where=where)
    document["manifests"] += parse_foreign_json(render_index(missing), where=where)["manifests"]
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
