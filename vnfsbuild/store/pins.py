"""Pins: which capsules must stay in a store, who says so, and why.

Each owner has a file, ``pins/OWNER.json``: canonical JSON, digest of the capsule → reason. An owner
writes only its own file, holding the store's lock; whoever deletes reads all of them. A pin may
outlive its capsule: then it says nothing, until the capsule comes back.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vnfsbuild.digest import Digest, parse_digest, parse_json, render_json
from vnfsbuild.errors import InputError, VerificationError
from vnfsbuild.files import read_bounded, sync_directory, write_atomic
from vnfsbuild.reference import parse_name

PINS_NAME = "pins"
MAX_PINS_BYTES = 64 * 1024 * 1024
MAX_REASON_LENGTH = 10_000

OWN = "administrator"
"""The owner of what is pinned by hand."""

Reasons = Mapping[Digest, str]
"""Digest of a capsule → why it must stay."""


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Pin:
    """A capsule that somebody needs."""

    owner: str
    digest: Digest
    reason: str


def load_pins(store: Path) -> tuple[Pin, ...]:
    """Return all pins of *store*, by owner and digest.

    Raises:
        VerificationError: the file of an owner cannot be read: nobody knows what it pins.
    """
    found: list[Pin] = []
    for path in list_pin_files(store):
        try:
            reasons = load_reasons(store, path.stem)
        except InputError as error:
            raise VerificationError(
                f"{path.parent}/{path.name!r}: not the name of an owner of pins",
                hint=f"look at it; who made it? Then remove it from {path.parent}",
            ) from error
        found += [Pin(owner=path.stem, digest=key, reason=text) for key, text in reasons.items()]
    return tuple(sorted(found))


def list_pin_files(store: Path) -> list[Path]:
    """Return the files that pin something in *store*; not those that were being written."""
    try:
        return sorted(
            path
            for path in (store / PINS_NAME).iterdir()
            if path.suffix == ".json" and not path.name.startswith(".")
        )
    except FileNotFoundError:
        return []


def load_reasons(store: Path, owner: str) -> dict[Digest, str]:
    """Return what *owner* pins in *store*.

    Raises:
        VerificationError: its file is not one of pins.
    """
    path = pin_path(store, owner)
    if not os.path.lexists(path):
        return {}
    hint = f"vnfsbuild --store {store} fsck --repair moves it aside"
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise VerificationError(f"{path}: not a file")
        data = read_bounded(path, limit_bytes=MAX_PINS_BYTES)
        return parse_reasons(data, where=str(path))
    except (InputError, VerificationError) as error:
        raise VerificationError(
            f"{error.message}; what it pins is not known", hint=error.hint or hint
        ) from error


def save_reasons(store: Path, owner: str, reasons: Reasons) -> None:
    """Let *owner* pin exactly what *reasons* say. The caller holds the lock of the store."""
    path = pin_path(store, owner)
    if reasons:
        if not path.parent.is_dir():
            path.parent.mkdir()
            sync_directory(store)
        write_atomic(path, render_reasons(reasons))
    elif path.exists():
        path.unlink()
        sync_directory(path.parent)


def pin_path(store: Path, owner: str) -> Path:
    """Return the file of *owner*.

    Raises:
        InputError: nobody can be called so.
    """
    return store / PINS_NAME / f"{parse_name(owner, where='owner of pins')}.json"


def render_reasons(reasons: Reasons) -> bytes:
    """Return the text of a file of pins.

    Raises:
        VerificationError: a reason is none, and the file would be refused by all who read it.
    """
    for text in reasons.values():
        parse_reason(text, where="pin")
    return render_json(dict(reasons))


def parse_reasons(data: bytes, *, where: str) -> dict[Digest, str]:
    """Return what the file of pins with the text *data* says.

    Raises:
        VerificationError: any other text than :func:`render_reasons` writes.
    """
    reasons: dict[Digest, str] = {}
    for key, reason in parse_json(data, where=where).items():
        try:
            digest = parse_digest(key, where=where)
        except InputError as error:
            raise VerificationError(error.message) from error
        reasons[digest] = parse_reason(reason, where=where)
    return reasons


def parse_reason(reason: object, *, where: str) -> str:
    """Return *reason* when it is one line of text.

    Raises:
        VerificationError: it is not.
    """
    if (
        not isinstance(reason, str)
        or not reason.strip()
        or not reason.isprintable()
        or len(reason) > MAX_REASON_LENGTH
    ):
        raise VerificationError(
            f"{where}: found the reason {reason!r:.80}, expected a line of text"
        )
    return reason
