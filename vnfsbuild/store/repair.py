"""Repairing a store: what is damaged is moved to ``damaged/``, never deleted; what the blobs still
say is put together again; what is lost is forgotten only when asked.

Each step leaves the store in a state that the next repair can go on from.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vnfsbuild.capsule import (
    INDEX_NAME,
    LAYOUT,
    LAYOUT_NAME,
    REF_NAME,
    Head,
    make_head,
)
from vnfsbuild.digest import Digest, digest_of
from vnfsbuild.errors import InputError, VerificationError
from vnfsbuild.files import (
    locked,
    make_directory,
    read_bounded,
    sync_directory,
    write_atomic,
)
from vnfsbuild.manifest import EMPTY, MAX_METADATA_BYTES, SIGNATURE, Descriptor, parse_manifest
from vnfsbuild.reference import CURRENT, parse_reference
from vnfsbuild.referrers.attachment import CARRIED, Attachment, attachment_entry, parse_attachment
from vnfsbuild.referrers.attestation import PROVENANCE
from vnfsbuild.store.check import (
    LISTING,
    Blobs,
    BlobState,
    fault_of,
    list_parts,
    name_of,
    read_blob,
)
from vnfsbuild.store.index import StoreIndex, fits_tag, make_store_referrers, signer_of
from vnfsbuild.store.keeper import DAMAGED_NAME
from vnfsbuild.store.pins import PINS_NAME, list_pin_files, load_reasons
from vnfsbuild.store.reader import MAX_INDEX_BYTES
from vnfsbuild.store.store import Store
from vnfsbuild.store.writer import LOCK_NAME

_MANIFEST_BEGINS = b'{"artifactType":'
"""How canonical JSON of a manifest begins; no payload that is looked into begins so by chance."""

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """What the blobs themselves say."""

    heads: Mapping[Digest, Head]
    """Capsules whose manifest and config are whole, without referrers."""
    referrers: Mapping[Digest, tuple[Attachment, ...]]
    """Digest of a capsule → what refers to it and is whole, the newest first."""


def repair_store(store: Store, blobs: Blobs, *, drop: bool, say: Say) -> None:
    """Repair *store*, whose *blobs* were read; *say* is told each step in words.

    With *drop* capsules and referrers that lack something are forgotten; their blobs are garbage
    then, if nothing else names them.

    Raises:
        VnfsbuildError: something cannot be written; another repair goes on from there.
    """
    with store.told(), locked(store.path / LOCK_NAME):
        blobs = _move_damaged_blobs(store, blobs, say)
        _repair_layout(store, say)
        _move_damaged_pins(store, say)
        found = _find_all(store, blobs)
        index = _load_or_rebuild(store, found, say)
        repaired = _repair_tags(index, found, say)
        for digest in index.capsules:
            repaired, blobs = _repair_capsule(store, repaired, digest, blobs, found,
                                              drop=drop, say=say)  # fmt: skip
        if repaired != index or not (store.path / INDEX_NAME).exists():
            store.save_index(repaired)


def _move_damaged_blobs(store: Store, blobs: Blobs, say: Say) -> dict[Digest, BlobState]:
    """Move what is still damaged aside; return the state of what is left."""
    left = dict(blobs)
    for digest, state in blobs.items():
        if state.fault is None:
            continue
        again = read_blob(store, digest)
        if again is not None and again.fault is None:  # somebody has brought it anew
            left[digest] = again
            continue
        del left[digest]
        if again is not None:
            _move_aside(store.path, store.blob_path(digest), say)
    return left


def _move_aside(store: Path, path: Path, say: Say) -> None:
    directory = store / DAMAGED_NAME
    make_directory(directory)
    target, number = directory / path.name, 1
    while target.exists():
        target, number = directory / f"{path.name}.{number}", number + 1
    path.rename(target)
    sync_directory(directory)
    sync_directory(path.parent)
    say(f"moved {path.relative_to(store)} to {target.relative_to(store)}")


def _copy_aside(store: Path, path: Path, data: bytes, say: Say) -> None:
    """Keep a copy of *path*, which stays until a new one takes its place: a repair that is cut
    off in between still finds what it says.
    """
    directory = store / DAMAGED_NAME
    make_directory(directory)
    target, number = directory / path.name, 1
    while target.exists():
        if target.read_bytes() == data:
            return
        target, number = directory / f"{path.name}.{number}", number + 1
    write_atomic(target, data)
    say(f"copied {path.relative_to(store)} to {target.relative_to(store)}")


def _read_whatever(path: Path) -> bytes | None:
    """Return the content of *path*; none, when there is none that could be read."""
    try:
        return read_bounded(path, limit_bytes=MAX_INDEX_BYTES)
    except InputError:
        return None


def _repair_layout(store: Store, say: Say) -> None:
    make_directory(store.path / "blobs/sha256")
    path = store.path / LAYOUT_NAME
    if _read_whatever(path) == LAYOUT:
        return
    if os.path.lexists(path):
        _move_aside(store.path, path, say)
    write_atomic(path, LAYOUT)
    say(f"wrote {LAYOUT_NAME} anew")


def _move_damaged_pins(store: Store, say: Say) -> None:
    for path in list_pin_files(store.path):
        try:
            load_reasons(store.path, path.stem)
        except (VerificationError, InputError):
            _move_aside(store.path, path, say)
            say(f"{PINS_NAME}/{path.name} pins nothing any more: "
                "its owner writes it anew, or vnfsbuild pins add")  # fmt: skip


def _find_all(store: Store, blobs: Blobs) -> _Found:
    """Look into all small blobs that are whole."""
    heads: dict[Digest, Head] = {}
    referrers: dict[Digest, list[tuple[float, Digest, Attachment]]] = {}
    for digest, state in blobs.items():
        if state.fault is not None or state.size_bytes > MAX_METADATA_BYTES:
            continue
        path = store.blob_path(digest)
        with path.open("rb") as file:
            if file.read(len(_MANIFEST_BEGINS)) != _MANIFEST_BEGINS:
                continue
        data = path.read_bytes()
        with contextlib.suppress(VerificationError):
            item = parse_attachment(data, where="blob")
            state_of_blob = blobs.get(item.blob.digest)
            if state_of_blob is not None and state_of_blob.fault is None:
                listed = referrers.setdefault(item.subject.digest, [])
                listed.append((-path.stat().st_mtime, digest, item))
            continue
        with contextlib.suppress(VerificationError, FileNotFoundError):
            config = store.read_metadata(parse_manifest(data).config)
            heads[digest] = make_head(data, config, ())
    newest_first = {
        subject: tuple(item for _, _, item in sorted(items, key=lambda entry: entry[:2]))
        for subject, items in referrers.items()
    }
    return _Found(heads=heads, referrers=newest_first)


def _load_or_rebuild(store: Store, found: _Found, say: Say) -> StoreIndex:
    try:
        return store.load_index()
    except (VerificationError, InputError):
        path = store.path / INDEX_NAME
        tags: dict[str, Digest] = {}
        data = _read_whatever(path)
        if data is not None:
            tags = _salvage_tags(data)
            _copy_aside(store.path, path, data, say)
    index = StoreIndex()
    # Of two with one serial the later one of the loop has the tag: the one built last.
    by_age = sorted(found.heads.values(), key=lambda head: (_serial(head), _epoch(head)))
    for head in by_age:
        index = index.with_capsule(head, current=False)
        index = _with_referrers(store, index, head, found)
        index = index.with_tag(head.name, CURRENT, head.capsule.digest)
    say(f"wrote {INDEX_NAME} anew: {len(index.capsules)} capsules by what the blobs say")
    for name, digest in sorted(tags.items()):
        if digest in found.heads and _fits(name, found.heads[digest]):
            base, _, tag = name.partition(":")
            index = index.with_tag(base, tag, digest)
    for name, digest in sorted(index.tags.items()):
        if name.endswith(f":{CURRENT}") and name not in tags:
            say(
                f"{name} means {name_of(index, digest)}, the highest serial: nothing says what "
                f"it was; vnfsbuild promote {name.partition(':')[0]}:SERIAL sets it"
            )
    store.save_index(index)
    return index


def _serial(head: Head) -> int:
    return head.capsule.config.serial


def _epoch(head: Head) -> int:
    return head.capsule.config.epoch


def _salvage_tags(data: bytes) -> dict[str, Digest]:
    """Return the tags that a damaged index still says, as far as it is JSON."""
    tags: dict[str, Digest] = {}
    with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
        for entry in json.loads(data)["manifests"]:
            name = entry.get("annotations", {}).get(REF_NAME, "")
            if ":" in name:
                tags[name] = Digest(str(entry["digest"]))
    return tags


def _fits(name: str, head: Head) -> bool:
    """Tell whether the capsule may have the tag *name*."""
    with contextlib.suppress(InputError):
        parse_reference(name)
        return fits_tag(name, head.capsule.config)
    return False


def _repair_tags(index: StoreIndex, found: _Found, say: Say) -> StoreIndex:
    for digest, head in found.heads.items():
        if digest in index.capsules:
            index = index.with_type(digest, head.capsule.manifest.artifact_type)
    for name, digest in sorted(index.tags.items()):
        if digest in found.heads and not _fits(name, found.heads[digest]):
            base, _, tag = name.partition(":")
            index = index.without_tag(base, tag)
            say(f"{name}: taken away from a capsule that calls itself {found.heads[digest].name}:"
                f"{_serial(found.heads[digest])}")  # fmt: skip
    return index


def _repair_capsule(
    store: Store,
    index: StoreIndex,
    digest: Digest,
    blobs: dict[Digest, BlobState],
    found: _Found,
    *,
    drop: bool,
    say: Say,
) -> tuple[StoreIndex, dict[Digest, BlobState]]:
    """Mend what refers to a capsule; or, with *drop*, forget what cannot be mended."""
    name = name_of(index, digest)
    own, referrers = list_parts(store, index, digest, blobs)
    if digest not in found.heads or any(fault_of(part, blobs) for part in own):
        if drop:
            index = index.without_capsule(digest)
            say(f"forgot {name}: it cannot be saved; its other blobs are garbage now")
        return index, blobs
    faults = [part for part in referrers if fault_of(part, blobs)]
    is_list_lost = any(part.role in LISTING for part in faults) or (
        not faults and not _can_be_loaded(store, index, digest)
    )
    if not (is_list_lost or (faults and drop)):
        return index, blobs
    index = _with_referrers(store, index, found.heads[digest], found)
    say(f"{name}: put together anew what refers to it: "
        f"{len(found.referrers.get(digest, ()))} referrers are whole")  # fmt: skip
    for part in _just_written(store, index, digest):
        blobs[part.digest] = BlobState(size_bytes=part.size_bytes, fault=None)
    return index, blobs


def _can_be_loaded(store: Store, index: StoreIndex, digest: Digest) -> bool:
    try:
        store.load_untagged(index, digest)
    except (VerificationError, FileNotFoundError):
        return False
    return True


def _with_referrers(store: Store, index: StoreIndex, head: Head, found: _Found) -> StoreIndex:
    """Return *index* in which all whole referrers of a capsule refer to it; of two signatures by
    one key, and of two attachments of one type, the newest. Writes the list of them.
    """
    items = found.referrers.get(head.capsule.digest, ())
    carried: dict[str, dict[str, bytes]] = {kind: {} for kind in CARRIED}
    others: dict[str, Attachment] = {}
    for item in items:
        if item.artifact_type in CARRIED:
            with contextlib.suppress(VerificationError):
                envelope = store.read_metadata(item.blob)
                carried[item.artifact_type].setdefault(signer_of(envelope), envelope)
        else:
            others.setdefault(item.artifact_type, item)
    index = index.without_referrers(head.capsule.digest)
    try:
        whole = make_head(
            head.manifest_bytes,
            head.config_bytes,
            carried[SIGNATURE].values(),
            carried[PROVENANCE].values(),
        )
    except VerificationError:
        # Somebody's envelope in our blobs that is not about this capsule: signatures come back
        # with the capsule's file.
        whole = head
    entries = [attachment_entry(item) for item in others.values()]
    if whole.envelopes or whole.attestations or entries:
        _write_blob(store, b"{}")
        _write_blob(store, make_store_referrers(whole, entries))
    return index.with_referrers(whole, entries)


def _write_blob(store: Store, data: bytes) -> None:
    write_atomic(store.blob_path(digest_of(data)), data)


def _just_written(store: Store, index: StoreIndex, digest: Digest) -> Iterator[Descriptor]:
    if digest in index.referrers:
        yield from (EMPTY, index.referrers[digest])
