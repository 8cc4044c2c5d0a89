"""Capsules that are mounted to be looked at: verified first, pinned as long as they are there.

Which ones are mounted, and where, is read from the kernel's own list and from nowhere else: a mount
that is gone, by whatever, cannot be believed to be there.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from vnfsbuild.capsule import Head, payloads_after, verify_head, verify_payload
from vnfsbuild.digest import Digest, parse_digest
from vnfsbuild.errors import InputError, VnfsbuildError
from vnfsbuild.files import locked
from vnfsbuild.inside.mounting import Part, mount_union, unmount
from vnfsbuild.inside.opened import Opened, open_capsule_at
from vnfsbuild.manifest import BOOTSTRAP, LAYER_TYPES, Descriptor
from vnfsbuild.reference import Reference
from vnfsbuild.store.pins import PINS_NAME, load_reasons
from vnfsbuild.store.store import Store
from vnfsbuild.trust import Trust
from vnfsbuild.unpack.piece import Piece

logger = logging.getLogger(__name__)

OWNER = "mount"
"""Who pins what is mounted."""
MOUNTINFO = Path("/proc/self/mountinfo")
COPIES = "/var/tmp"
"""Where layers lie that had to be copied: on a disk, and not in memory as perhaps /tmp."""
_MARK = "vnfs:"
_OCTAL = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mount:
    """A capsule that is mounted."""

    digest: Digest
    place: str
    """the store or the file that it comes from"""
    directory: Path


def mount_capsule(text: str, directory: Path, store: Store, *, trust: Trust, now: int) -> Mount:
    """Mount the capsule that *text* names read-only on the empty *directory*, when all of it is
    signed as *trust* wants.

    Raises:
        InputError: there is no such capsule, or *directory* is not empty.
        VerificationError: it is damaged, or not signed as it must be.
        VnfsbuildError: the kernel refuses; nothing is left behind.
    """
    require_root("mount")
    target = _require_empty(directory)

    def admit(head: Head) -> None:
        verify_head(head, trust=trust, now=now)
        if head.capsule.manifest.artifact_type == BOOTSTRAP:
            raise InputError(
                f"{text}: a bootstrap has no layers to mount",
                hint=f"vnfsbuild files --payload initrd {text} tells what is in it",
            )

    with open_capsule_at(text, store, admit=admit) as opened, contextlib.ExitStack() as stack:
        pieces = {item.digest: opened.open_payload(item) for item in payloads_after(opened.head)}
        parts = [
            _make_part(pieces[layer.digest], layer, stack)
            for layer in opened.head.capsule.manifest.layers
        ]
        mount = Mount(digest=opened.digest, place=os.path.realpath(opened.place), directory=target)
        with _pinned(opened, mount, store):
            mount_union(parts, target, source=render_source(mount))
    return mount


def unmount_capsule(directory: Path, store: Store) -> Mount | None:
    """Undo the mount on *directory*, and its pin; None when only the pin was left.

    Raises:
        InputError: no capsule is mounted there.
        VnfsbuildError: it is in use.
    """
    require_root("umount")
    target = Path(os.path.realpath(directory))
    here = [mount for mount in find_mounts() if mount.directory == target]
    if here:
        unmount(target)
        drop_stale_pins(_store_of(here[-1], store))
        return here[-1]
    if not drop_stale_pins(store):
        raise InputError(
            f"{target}: no capsule is mounted there",
            hint="findmnt --types overlay shows what is mounted",
        )
    return None


def drop_stale_pins(store: Store) -> bool:
    """Take back the pins of mounts that are gone; tell whether there were any.

    A store that the caller may not write to stays as it is.
    """
    pinned = load_reasons(store.path, OWNER)
    if not pinned or pinned == _reasons(find_mounts(), store):
        return False
    try:
        with _changing_mounts(store):
            store.change_pins(OWNER, lambda _: _reasons(find_mounts(), store))
    except (OSError, VnfsbuildError) as error:
        logger.debug("pins of mounts stay as they are: %s", error)
        return False
    return True


def find_mounts(data: bytes | None = None) -> tuple[Mount, ...]:
    """Return the capsules that are mounted in this mount namespace; *data* is its mountinfo."""
    if data is None:
        data = MOUNTINFO.read_bytes()
    return tuple(found for line in data.splitlines() if (found := _parse_line(line)))


def render_source(mount: Mount) -> str:
    """Return what the kernel's list of mounts shows as the source of *mount*."""
    return f"{_MARK}{mount.digest}:{mount.place}"


def require_root(verb: str) -> None:
    """Refuse anybody but root, before any work is done.

    Raises:
        VnfsbuildError: only root may mount.
    """
    if os.geteuid() != 0:
        raise VnfsbuildError(
            f"{verb}: found an ordinary user: the kernel lets only root mount layers",
            hint="sudo; or look inside without root: vnfsbuild files, vnfsbuild cat",
        )


def _parse_line(line: bytes) -> Mount | None:
    """Return the mount of a line of mountinfo (proc(5)), when it is one of ours."""
    words, _, rest = line.partition(b" - ")
    fields, ends = words.split(b" "), rest.split(b" ")
    if len(fields) < 5 or len(ends) < 2 or ends[0] != b"overlay":
        return None
    source = _unescape(ends[1])
    kind, colon, place = source.removeprefix(_MARK)[:71], source[76:77], source[77:]
    if not source.startswith(_MARK) or colon != ":":
        return None
    try:
        digest = parse_digest(kind)
    except InputError:
        return None
    return Mount(digest=digest, place=place, directory=Path(_unescape(fields[4])))


def _unescape(word: bytes) -> str:
    return os.fsdecode(_OCTAL.sub(lambda found: bytes([int(found[1], 8)]), word))


def _require_empty(directory: Path) -> Path:
    """Return the real path of *directory*, which must be an empty directory."""
    try:
        target = directory.resolve(strict=True)
        found = sorted(entry.name for entry in target.iterdir())
    except OSError as error:
        hint = f"mkdir {directory}" if isinstance(error, FileNotFoundError) else None
        raise InputError(f"{directory}: {error.strerror}", hint=hint) from error
    if target.is_mount():
        raise InputError(
            f"{directory}: something is mounted there already",
            hint=f"vnfsbuild umount {directory}",
        )
    if found:
        raise InputError(f"{directory}: found {found[0]!r} in it, expected an empty directory")
    return target


def _make_part(piece: Piece, layer: Descriptor, stack: contextlib.ExitStack) -> Part:
    """Return the layer in *piece*, of a file that nobody but root can write to from now on."""
    found = os.fstat(piece.descriptor)
    if found.st_uid == 0 and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return _part(piece, layer)
    # Its owner could change what was verified. A copy without a name, of which each byte is
    # verified while it is written, is out of reach; it goes with the mount.
    copy = os.open(COPIES, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    stack.callback(os.close, copy)
    with os.fdopen(copy, "wb", closefd=False) as file:
        file.writelines(verify_payload(piece.chunks(), layer, where=piece.where))
    return _part(replace(piece, descriptor=copy, offset=0), layer)


def _part(piece: Piece, layer: Descriptor) -> Part:
    return Part(
        descriptor=piece.descriptor,
        offset=piece.offset,
        size_bytes=piece.size_bytes,
        format=LAYER_TYPES[layer.media_type],
    )


@contextlib.contextmanager
def _pinned(opened: Opened, mount: Mount, store: Store) -> Iterator[None]:
    """Pin the capsule while it is being mounted, and from then on if that goes well."""
    if opened.is_file:
        yield
        return
    with _changing_mounts(store):
        # First, under the store's lock: it must be there, and nobody deletes it from here on.
        store.pin(
            Reference(opened.name, digest=opened.digest),
            owner=OWNER,
            reason=_reason([*_others(store, mount.digest), mount]),
        )
        try:
            yield
        finally:
            store.change_pins(OWNER, lambda _: _reasons(find_mounts(), store))


def _others(store: Store, digest: Digest) -> list[Mount]:
    return [mount for mount in find_mounts() if mount.digest == digest and _is_of(mount, store)]


def _reasons(mounts: Iterable[Mount], store: Store) -> dict[Digest, str]:
    """Return what is to be pinned in *store* for *mounts*."""
    by_digest: dict[Digest, list[Mount]] = {}
    for mount in mounts:
        if _is_of(mount, store):
            by_digest.setdefault(mount.digest, []).append(mount)
    return {digest: _reason(found) for digest, found in by_digest.items()}


def _reason(mounts: Iterable[Mount]) -> str:
    names = sorted({ascii(str(mount.directory))[1:-1] for mount in mounts})
    return f"mounted on {', '.join(names)}"[:1000]


def _is_of(mount: Mount, store: Store) -> bool:
    return mount.place == os.path.realpath(store.path)


def _store_of(mount: Mount, store: Store) -> Store:
    """Return the store that *mount* comes from; for a file, which pins nothing, *store*."""
    place = Path(mount.place)
    return store if _is_of(mount, store) or not place.is_dir() else Store(place)


@contextlib.contextmanager
def _changing_mounts(store: Store) -> Iterator[None]:
    """Let nobody else mount, or drop pins of mounts: one would not know of the other's."""
    with locked(store.path / PINS_NAME / ".mount.lock"):
        yield
