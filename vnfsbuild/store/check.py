"""Checking a store: every blob is read, and what index, capsules, tags and pins say is compared.

Reading the blobs takes long and is done without the lock, while others write; the judgement takes
the lock for a moment, so that nothing is called missing that was deleted in between. A store that
may only be read is judged without.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vnfsbuild.capsule import LAYOUT, LAYOUT_NAME, Advance
from vnfsbuild.digest import Digest, digest_of_stream
from vnfsbuild.errors import InputError, VerificationError
from vnfsbuild.files import locked, read_bounded
from vnfsbuild.listing import render_size
from vnfsbuild.manifest import (
    EMPTY,
    MAX_METADATA_BYTES,
    ROLES,
    Descriptor,
    parse_index,
    parse_manifest,
)
from vnfsbuild.referrers.attachment import parse_attachment
from vnfsbuild.store.index import StoredCapsule, StoreIndex, find_untrue_tags
from vnfsbuild.store.keeper import find_leftovers
from vnfsbuild.store.leases import read_leases
from vnfsbuild.store.pins import PINS_NAME, Pin, list_pin_files, load_reasons
from vnfsbuild.store.reader import StoreReader
from vnfsbuild.store.writer import LOCK_NAME

LISTING = ("list of referrers", "empty blob")
"""Roles of what can always be written anew."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BlobState:
    """What was read of a blob."""

    size_bytes: int
    fault: str | None
    """What is wrong with it; none: it is what its name says."""


Blobs = Mapping[Digest, BlobState]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Something that is not as it should be."""

    kind: str
    """``layout``, ``index``, ``capsule``, ``blob``, ``tag``, ``pins``: damage;
    ``garbage``, ``stranger``, ``stale pin``: worth knowing."""
    subject: str
    text: str
    hint: str | None = None
    is_damage: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A blob that a capsule needs."""

    role: str
    descriptor: Descriptor


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """What a store is like."""

    findings: tuple[Finding, ...]
    blobs: Blobs
    capsules: int
    size_bytes: int

    @property
    def is_damaged(self) -> bool:
        """Tell whether something is damaged, not only left over."""
        return any(finding.is_damage for finding in self.findings)


def check_store(
    store: StoreReader, *, known: Blobs | None = None, advance: Advance | None = None
) -> Checked:
    """Read everything in *store* and tell what is wrong with it; nothing is changed.

    Blobs that are *known* to be whole, from a moment ago, are not read again.

    Raises:
        InputError: there is no store.
    """
    if not store.path.is_dir():
        raise InputError(f"{store.path}: no such directory, expected a store")
    whole = {digest: state for digest, state in (known or {}).items() if state.fault is None}
    blobs = read_blobs(store, whole, advance=advance)
    with hold_if_writable(store.path):
        # Of what came since, and what went since, the judgement must know.
        blobs = read_blobs(store, blobs, advance=advance)
        findings, capsules = _judge(store, blobs)
    return Checked(
        findings=tuple(findings),
        blobs=blobs,
        capsules=capsules,
        size_bytes=sum(state.size_bytes for state in blobs.values()),
    )


def total_bytes(store: StoreReader) -> int:
    """Return how many bytes a check will read."""
    size_bytes = 0
    for digest in store.list_blobs():
        with contextlib.suppress(OSError):
            size_bytes += store.blob_path(digest).stat().st_size
    return size_bytes


@contextlib.contextmanager
def hold_if_writable(path: Path) -> Iterator[None]:
    """Hold the lock of the store *path*, where that can be had."""
    with contextlib.ExitStack() as stack:
        if os.access(path, os.W_OK):
            stack.enter_context(locked(path / LOCK_NAME))
        yield


def read_blobs(
    store: StoreReader, known: Blobs, *, advance: Advance | None = None
) -> dict[Digest, BlobState]:
    """Return the state of all blobs; those that are *known* are not read again."""
    states: dict[Digest, BlobState] = {}
    for digest in store.list_blobs():
        state = known.get(digest) or read_blob(store, digest, advance=advance)
        if state is not None:
            states[digest] = state
    return states


def read_blob(
    store: StoreReader, digest: Digest, *, advance: Advance | None = None
) -> BlobState | None:
    """Return the state of the blob *digest*; none, when it is not there any more."""
    try:
        with store.blob_path(digest).open("rb") as file:
            found, size_bytes = digest_of_stream(file)
    except FileNotFoundError:
        return None
    except OSError as error:
        return BlobState(size_bytes=0, fault=f"cannot be read: {error.strerror}")
    if advance:
        advance(size_bytes)
    fault = None if found == digest else f"found other bytes: {found}, {size_bytes} bytes"
    return BlobState(size_bytes=size_bytes, fault=fault)


def list_parts(
    store: StoreReader, index: StoreIndex, digest: Digest, blobs: Blobs
) -> tuple[list[Part], list[Part]]:
    """Return what the capsule *digest* consists of, and what refers to it: as far as what would
    say so is whole.
    """
    own = [Part(role="manifest", descriptor=index.capsules[digest][0])]
    if fault_of(own[0], blobs) is None:
        manifest = parse_manifest(store.read_metadata(own[0].descriptor))
        own.append(Part(role="config", descriptor=manifest.config))
        own += [Part(role=ROLES.get(item.media_type, "layer"), descriptor=item)
                for item in manifest.payloads]  # fmt: skip
    referrers = []
    if digest in index.referrers:
        listed = Part(role=LISTING[0], descriptor=index.referrers[digest])
        referrers += [listed, Part(role=LISTING[1], descriptor=EMPTY)]
        if fault_of(listed, blobs) is None:
            referrers += _list_referrers(store, listed, blobs)
    return own, referrers


def _list_referrers(store: StoreReader, listed: Part, blobs: Blobs) -> Iterator[Part]:
    text = store.read_metadata(listed.descriptor)
    for manifest, artifact_type, _ in parse_index(text, where="referrers"):
        kind = str(artifact_type).rpartition("/")[2]
        part = Part(role=f"manifest of the referrer {kind}", descriptor=manifest)
        yield part
        if fault_of(part, blobs) is None:
            item = parse_attachment(store.read_metadata(manifest), where="referrer")
            yield Part(role=f"referrer {kind}", descriptor=item.blob)


def fault_of(part: Part, blobs: Blobs) -> str | None:
    """Return what is wrong with a blob that is needed."""
    state = blobs.get(part.descriptor.digest)
    if state is None:
        return "missing"
    if state.fault is not None:
        return "damaged"
    if state.size_bytes != part.descriptor.size_bytes:
        return f"{state.size_bytes} bytes long, expected {part.descriptor.size_bytes}"
    return None


def name_of(index: StoreIndex, digest: Digest) -> str:
    """Return how a capsule is called in what is told: by its serial, else by its digest."""
    names = sorted(name for name, held in index.tags.items() if held == digest)
    serials = [name for name in names if name.partition(":")[2].isdigit()]
    return (serials or names or [str(digest)])[0]


def _judge(store: StoreReader, blobs: Blobs) -> tuple[list[Finding], int]:
    findings = [*_check_layout(store)]
    try:
        index = store.load_index()
    except (VerificationError, InputError) as error:
        hint = "vnfsbuild fsck --repair makes a new one from the blobs"
        findings.append(Finding(kind="index", subject="index.json", text=str(error), hint=hint))
        findings += _check_blobs(blobs, {})
        return findings, 0
    needed: dict[Digest, str] = {}
    for digest in index.capsules:
        findings += _check_capsule(store, index, digest, blobs, needed)
    findings += _check_blobs(blobs, needed)
    pins, told = _check_pins(store)
    findings += told
    findings += _check_stale_pins(index, pins)
    findings += _check_garbage(store, blobs, needed)
    return findings, len(index.capsules)


def _check_layout(store: StoreReader) -> Iterator[Finding]:
    try:
        text = read_bounded(store.path / LAYOUT_NAME, limit_bytes=MAX_METADATA_BYTES)
        found = None if text == LAYOUT else "found another layout than ours"
    except InputError as error:
        found = error.message
    if found:
        hint = "vnfsbuild fsck --repair writes it anew"
        # Where there are no blobs, whoever made the store was killed before anything was in it.
        is_damage = bool(store.list_blobs())
        yield Finding(
            kind="layout", subject=LAYOUT_NAME, text=str(found), hint=hint, is_damage=is_damage
        )


def _check_capsule(
    store: StoreReader, index: StoreIndex, digest: Digest, blobs: Blobs, needed: dict[Digest, str]
) -> Iterator[Finding]:
    name = name_of(index, digest)
    hint = f"vnfsbuild import FILE brings {name} back; fsck --repair --drop forgets what is lost"
    try:
        own, referrers = list_parts(store, index, digest, blobs)
        faults = []
        for part in (*own, *referrers):
            needed.setdefault(part.descriptor.digest, f"{part.role} of {name}")
            fault = fault_of(part, blobs)
            if fault:
                faults.append(f"{part.role} {part.descriptor.digest[:19]} is {fault}")
        if not faults:
            yield from _check_tags(index, digest, store.load_untagged(index, digest))
    except (VerificationError, FileNotFoundError) as error:
        faults = [str(error)]
    if faults:
        yield Finding(kind="capsule", subject=name, text="; ".join(faults), hint=hint)


def _check_tags(index: StoreIndex, digest: Digest, found: StoredCapsule) -> Iterator[Finding]:
    for tag in find_untrue_tags(index, digest, found.config):
        yield Finding(
            kind="tag",
            subject=tag,
            text=f"means a capsule that calls itself {found.name}:{found.config.serial}",
            hint="vnfsbuild fsck --repair takes the tag away",
        )


def _check_blobs(blobs: Blobs, needed: Mapping[Digest, str]) -> Iterator[Finding]:
    for digest, state in blobs.items():
        if state.fault is not None:
            yield Finding(
                kind="blob",
                subject=digest,
                text=f"{state.fault}; it is {needed.get(digest, 'needed by nothing')}",
                hint="vnfsbuild fsck --repair moves it to damaged/",
            )


def _check_pins(store: StoreReader) -> tuple[list[Pin], list[Finding]]:
    pins: list[Pin] = []
    findings: list[Finding] = []
    for path in list_pin_files(store.path):
        try:
            reasons = load_reasons(store.path, path.stem)
        except (VerificationError, InputError) as error:
            hint = "vnfsbuild fsck --repair moves it to damaged/: then it pins nothing any more"
            findings.append(
                Finding(kind="pins", subject=f"{PINS_NAME}/{path.name}", text=str(error), hint=hint)
            )
        else:
            pins += [Pin(owner=path.stem, digest=key, reason=why) for key, why in reasons.items()]
    return pins, findings


def _check_stale_pins(index: StoreIndex, pins: list[Pin]) -> Iterator[Finding]:
    for pin in pins:
        if pin.digest not in index.capsules:
            yield Finding(
                kind="stale pin",
                subject=pin.digest,
                text=f"pinned by {pin.owner} ({pin.reason}), but not in the store",
                hint=f"vnfsbuild pins remove --owner {pin.owner} {pin.digest}",
                is_damage=False,
            )


def _check_garbage(
    store: StoreReader, blobs: Blobs, needed: Mapping[Digest, str]
) -> Iterator[Finding]:
    kept = set(needed) | read_leases(store.path)
    garbage = [state for digest, state in blobs.items() if digest not in kept]
    if garbage:
        size = render_size(sum(state.size_bytes for state in garbage))
        yield Finding(
            kind="garbage", subject="blobs", text=f"{len(garbage)} that nothing names, {size}",
            hint="vnfsbuild gc", is_damage=False,
        )  # fmt: skip
    for path in find_leftovers(store.path):
        yield Finding(
            kind="garbage", subject=str(path.relative_to(store.path)),
            text="left by a writer that was killed", hint="vnfsbuild gc", is_damage=False,
        )  # fmt: skip
    strangers = {path.name for path in (store.path / "blobs/sha256").glob("*")}
    for name in sorted(strangers - {digest.rpartition(":")[2] for digest in store.list_blobs()}):
        yield Finding(
            kind="stranger", subject=f"blobs/sha256/{name}", text="is no blob, and not ours",
            is_damage=False,
        )  # fmt: skip
