"""Keeping a store: tags, pins, deleting, and collecting what nothing names.

Each change is one new index, written as a whole, or one file of pins. Blobs are removed last, when
the index that names them no more is durable. docs/store.md has the reasoning.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from vnfsbuild.capsule import INDEX_NAME, LAYOUT_NAME
from vnfsbuild.digest import Digest
from vnfsbuild.errors import InputError, VerificationError
from vnfsbuild.files import list_directory
from vnfsbuild.reference import CURRENT, Reference, parse_reference
from vnfsbuild.store.blobs import find_abandoned
from vnfsbuild.store.index import MOVED, PREVIOUS, StoredCapsule, StoreIndex
from vnfsbuild.store.leases import find_void_leases
from vnfsbuild.store.pins import PINS_NAME, Pin, Reasons, load_pins, load_reasons, save_reasons
from vnfsbuild.store.retention import Deleted, choose_old, describe_deleted, find_reasons
from vnfsbuild.store.writer import LOCK_NAME, StoreWriter

logger = logging.getLogger(__name__)

DAMAGED_NAME = "damaged"
"""Where repairs put what is damaged."""


class PinnedError(InputError):
    """What was to be deleted must stay; the message says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Removed:
    """What went, or would go."""

    capsules: tuple[Deleted, ...] = ()
    blobs: tuple[Digest, ...] = ()
    """that nothing names any more"""
    leftovers: tuple[str, ...] = ()
    """paths, below the store, of what killed writers left"""
    size_bytes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Promotion:
    """What a bare name means, and meant."""

    name: str
    current: Digest
    previous: Digest | None


class StoreKeeper(StoreWriter):
    """The store in the directory *path*, which the first write makes."""

    def tag(self, reference: Reference, tag: str) -> StoredCapsule:
        """Let ``NAME:TAG`` mean the capsule of *reference* from now on.

        ``current`` is moved as :meth:`promote` does.

        Raises:
            InputError: there is no such capsule, or *tag* cannot be one: numbers are serials, and
                ``previous`` is what ``current`` was.
        """
        if tag == CURRENT:
            self.promote(reference)
            return self.get(reference)
        _require_own_tag(reference.name, tag)
        with self.told(), self.writing():
            index = self.load_index()
            capsule = self._capsule(index, reference)
            self.save_index(index.with_tag(capsule.name, tag, capsule.digest))
        return capsule

    def untag(self, reference: Reference) -> None:
        """Let ``NAME:TAG`` mean nothing from now on; the capsule stays.

        Raises:
            InputError: there is no such tag, or it is not one that :meth:`tag` sets.
        """
        if reference.digest is not None:
            raise InputError(f"{reference}: expected NAME:TAG, without a digest")
        _require_own_tag(reference.name, reference.tag)
        with self.told(), self.writing():
            index = self.load_index()
            self.resolve(index, reference)
            self.save_index(index.without_tag(reference.name, reference.tag))

    def promote(self, reference: Reference) -> Promotion:
        """Let a bare name mean the capsule of *reference*; ``previous`` is what it meant before.

        Raises:
            InputError: there is no such capsule.
            VerificationError: what describes it is damaged.
        """
        with self.told(), self.writing():
            index = self.load_index()
            capsule = self._capsule(index, reference)
            return self._move(index, capsule.name, capsule.digest)

    def rollback(self, name: str) -> Promotion:
        """Let ``NAME:current`` and ``NAME:previous`` change places.

        Raises:
            InputError: there is no such capsule, or nothing before it.
            VerificationError: what describes the previous one is damaged.
        """
        with self.told(), self.writing():
            index = self.load_index()
            self.resolve(index, Reference(name))
            previous = Reference(name, PREVIOUS)
            if index.resolve(previous) is None:
                raise InputError(
                    f"{name}: nothing was current before what is current now",
                    hint=f"vnfsbuild promote {name}:SERIAL; vnfsbuild list shows the serials",
                )
            return self._move(index, name, self._capsule(index, previous).digest)

    def _move(self, index: StoreIndex, name: str, digest: Digest) -> Promotion:
        moved = index.with_current(name, digest)
        if moved is not index:
            self.save_index(moved)
        previous = moved.resolve(Reference(name, PREVIOUS))
        return Promotion(name=name, current=digest, previous=previous)

    def delete(self, *references: Reference, force: bool = False) -> Removed:
        """Delete capsules with their tags, and the blobs that nothing else names; all or none.

        With *force* also those that must stay; the answer says what was overridden.

        Raises:
            InputError: the store has no such capsule.
            PinnedError: one of them must stay: it is pinned, or a bare name means it and there are
                others.
            VerificationError: what describes another capsule was damaged, so that it is not known
                which blobs it needs; or it is not known what somebody pins.
        """
        with self.told(), self.writing():
            index = self.load_index()
            doomed = [self.resolve(index, reference) for reference in references]
            for reference, digest in zip(references, doomed, strict=True):
                self._require_name(index, reference, digest)
            return self._delete(index, dict.fromkeys(doomed), force=force)

    def delete_old(self, names: Iterable[str], *, keep: int, dry_run: bool = False) -> Removed:
        """Delete all capsules of *names* but the newest *keep* of each name.

        What is pinned, and what has a tag besides its serial (``current``, ``previous``, one that
        somebody set), stays on top of those.

        Raises:
            InputError: there is no capsule of such a name.
            VerificationError: as :meth:`delete`; also when a capsule is damaged, since its name is
                not known.
        """
        with self.told(), self.writing():
            index = self.load_index()
            pins = load_pins(self.path)
            capsules = [self._load_known(index, digest) for digest in index.capsules]
            doomed: dict[Digest, None] = {}
            for name in names:
                named = [capsule for capsule in capsules if capsule.name == name]
                if not named:
                    raise InputError(f"{name}: no such capsule in the store {self.path}",
                                     hint="vnfsbuild list shows what there is")  # fmt: skip
                old = choose_old(named, keep=keep, pins=pins)
                doomed.update(dict.fromkeys(item.digest for item in old))
            return self._delete(index, doomed, force=False, dry_run=dry_run)

    def _delete(
        self, index: StoreIndex, doomed: Iterable[Digest], *, force: bool, dry_run: bool = False
    ) -> Removed:
        doomed = list(doomed)
        reasons = find_reasons(index, doomed, self._pins_for_deleting(force=force))
        capsules = tuple(describe_deleted(index, digest, reasons) for digest in doomed)
        if reasons and not force:
            raise _pinned_error(capsules)
        rest, candidates = index, set[Digest]()
        for digest in doomed:
            rest = rest.without_capsule(digest)
            candidates |= self._blobs_of_perhaps_damaged(index, digest)
        # Manifests first: what is left when this is cut short is no capsule to anybody.
        gone = sorted(candidates - self.needed_blobs(rest), key=lambda blob: blob not in doomed)
        size_bytes = sum(map(self._size_of, gone))
        if doomed and not dry_run:
            self.save_index(rest)
            self._unlink(gone)
        return Removed(capsules=capsules, blobs=tuple(gone), size_bytes=size_bytes)

    def _pins_for_deleting(self, *, force: bool) -> tuple[Pin, ...]:
        try:
            return load_pins(self.path)
        except VerificationError as error:
            if not force:
                raise
            logger.warning("%s", error)
            return ()

    def gc(self, *, dry_run: bool = False) -> Removed:
        """Remove all blobs that nothing names, and what killed writers left.

        Blobs of a writer that still lives stay, and every capsule does. With *dry_run* nothing
        goes; the answer says what would.

        Raises:
            VerificationError: what describes a capsule was damaged, so that it is not known which
                blobs it needs.
        """
        if not (self.path / LOCK_NAME).exists() and self.load_index() == StoreIndex():
            return Removed()  # nobody ever wrote here
        with self.told(), self.writing():
            needed = self.needed_blobs(self.load_index())
            garbage = [blob for blob in self.list_blobs() if blob not in needed]
            leftovers = find_leftovers(self.path)
            paths = (*map(self.blob_path, garbage), *leftovers)
            size_bytes = sum(map(_size_below, paths))
            if not dry_run:
                self._unlink(garbage)
                for path in leftovers:
                    _remove(path)
        names = tuple(str(path.relative_to(self.path)) for path in leftovers)
        return Removed(blobs=tuple(garbage), leftovers=names, size_bytes=size_bytes)

    def pins(self) -> tuple[Pin, ...]:
        """Return all pins.

        Raises:
            VerificationError: the file of an owner cannot be read.
        """
        return load_pins(self.path)

    def pin(self, reference: Reference, *, owner: str, reason: str) -> Digest:
        """Let *owner* pin the capsule of *reference*, so that nobody deletes it.

        Raises:
            InputError: there is no such capsule.
            VerificationError: *reason* is not a line of text.
        """
        with self.told(), self.writing():
            index = self.load_index()
            digest = self.resolve(index, reference)
            self._require_name(index, reference, digest)
            reasons = load_reasons(self.path, owner)
            save_reasons(self.path, owner, {**reasons, digest: reason})
        return digest

    def unpin(self, digest: Digest, *, owner: str) -> bool:
        """Let *owner* pin *digest* no more; tell whether it did. The capsule need not be there."""

        def change(reasons: Reasons) -> Reasons:
            return {key: text for key, text in reasons.items() if key != digest}

        before = load_reasons(self.path, owner)
        if digest not in before:
            return False
        self.change_pins(owner, change)
        return True

    def replace_pins(self, owner: str, reasons: Reasons) -> None:
        """Let *owner* pin exactly what *reasons* say, whatever its file said before.

        Raises:
            VnfsbuildError: it cannot be written; the pins are as they were.
        """
        with self.told(), self.writing():
            save_reasons(self.path, owner, reasons)

    def change_pins(self, owner: str, change: Callable[[Reasons], Reasons]) -> None:
        """Let *owner* pin what *change* makes of what it pins now.

        Nobody deletes anything, or changes these pins, in between.

        Raises:
            VerificationError: the file of *owner* is damaged.
            VnfsbuildError: it cannot be written; the pins are as they were.
        """
        with self.told(), self.writing():
            save_reasons(self.path, owner, change(load_reasons(self.path, owner)))

    def _capsule(self, index: StoreIndex, reference: Reference) -> StoredCapsule:
        """Return the capsule that *reference* means in *index*; the lock is held."""
        digest = self.resolve(index, reference)
        capsule = self._load_known(index, digest)
        if capsule.name != reference.name:
            raise InputError(
                f"{reference}: the capsule with this digest is called {capsule.name!r}",
                hint=f"{capsule.name}@{capsule.digest}",
            )
        return capsule

    def _load_known(self, index: StoreIndex, digest: Digest) -> StoredCapsule:
        try:
            return self.load(index, digest)
        except FileNotFoundError as error:
            raise self.missing(f"sha256:{Path(error.filename).name}") from error

    def _require_name(self, index: StoreIndex, reference: Reference, digest: Digest) -> None:
        """Refuse a digest under another name; what is damaged may be called anything."""
        with contextlib.suppress(VerificationError, FileNotFoundError):
            name = self.load(index, digest).name
            if name != reference.name:
                raise InputError(
                    f"{reference}: the capsule with this digest is called {name!r}",
                    hint=f"{name}@{digest}",
                )

    def _blobs_of_perhaps_damaged(self, index: StoreIndex, digest: Digest) -> set[Digest]:
        try:
            return self.blobs_of(index, digest)
        except (VerificationError, FileNotFoundError):
            return {digest}

    def _size_of(self, digest: Digest) -> int:
        return _size_below(self.blob_path(digest))

    def _unlink(self, blobs: Iterable[Digest]) -> None:
        for blob in blobs:
            self.blob_path(blob).unlink(missing_ok=True)


def find_leftovers(store: Path) -> list[Path]:
    """Return what killed writers left besides blobs.

    The caller holds the lock of the store, so that no writer lives that is about to use one.
    """
    return [
        *find_abandoned(store),
        *find_void_leases(store),
        *sorted(store.glob(f".{INDEX_NAME}.*")),
        *sorted(store.glob(f".{LAYOUT_NAME}.*")),
        *_find(store / PINS_NAME, ".*.json.*"),
        *_find(store / "blobs/sha256", ".*"),
        *_find(store / DAMAGED_NAME, ".*"),
    ]


def _find(directory: Path, pattern: str) -> list[Path]:
    return [path for path in list_directory(directory) if path.match(pattern)]


def _require_own_tag(name: str, tag: str) -> None:
    """Refuse tags that are not for administrators to set."""
    parse_reference(f"{name}:{tag}")
    if tag.isdigit():
        raise InputError(f"tag {tag!r}: numbers are serials, which are given by building")
    if tag in MOVED:
        raise InputError(
            f"tag {tag!r}: moves with what a bare {name} means",
            hint=f"vnfsbuild promote {name}:SERIAL; vnfsbuild rollback {name}",
        )


def _pinned_error(capsules: Iterable[Deleted]) -> PinnedError:
    told = [f"{item.name} must stay: {'; '.join(item.overridden)}"
            for item in capsules if item.overridden]  # fmt: skip
    return PinnedError(
        " and ".join(told), hint="see to the reasons; or --force, which overrides them"
    )


def _size_below(path: Path) -> int:
    """Return how many bytes are in the file *path*, or in the files of that directory."""
    try:
        if path.is_dir() and not path.is_symlink():
            return sum(_size_below(inner) for inner in path.iterdir())
        return path.lstat().st_size
    except FileNotFoundError:
        return 0


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
