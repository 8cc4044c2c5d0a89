"""Writing to a store: one writer at a time, blobs before the index, and what nothing names goes.

The order in which things reach the disk is in docs/store.md; the rest of the writing relies on
what is here.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterable, Iterator
from pathlib import Path

from vnfsbuild.capsule import INDEX_NAME, LAYOUT, LAYOUT_NAME
from vnfsbuild.digest import Digest
from vnfsbuild.errors import InputError, VerificationError, VnfsbuildError
from vnfsbuild.files import locked, make_directory, read_bounded, write_atomic
from vnfsbuild.manifest import EMPTY, MAX_METADATA_BYTES, parse_manifest
from vnfsbuild.store.index import StoreIndex, render_store_index
from vnfsbuild.store.leases import Lease, read_leases
from vnfsbuild.store.reader import StoreReader

LOCK_NAME = ".lock"


class StoreWriter(StoreReader):
    """The store in the directory *path*, which the first write makes.

    Blobs that were added through this object, and that no capsule names yet, stay for as long as
    the object lives: nobody's garbage collection takes them.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._lease: Lease | None = None

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the store's lock, in a store that is there.

        Raises:
            InputError: the directory is something else.
            VerificationError: its index is gone.
        """
        with locked(self.path / LOCK_NAME):
            layout = self.path / LAYOUT_NAME
            if not layout.exists():
                self._make()
            elif read_bounded(layout, limit_bytes=MAX_METADATA_BYTES) != LAYOUT:
                raise InputError(f"{layout}: found another layout than ours, expected a store")
            yield

    def _make(self) -> None:
        """Make the store; the file with the layout comes last, and says that it is whole."""
        index = self.load_index()
        make_directory(self.path / "blobs/sha256")
        self.save_index(index)
        write_atomic(self.path / LAYOUT_NAME, LAYOUT)

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Tell what the system refused as what happened to this store."""
        try:
            yield
        except OSError as error:
            raise VnfsbuildError(
                f"store {self.path}: {error.strerror}; it is as it was before",
                hint=world_hint(error, self.path),
            ) from error

    def save_index(self, index: StoreIndex) -> None:
        """Make *index* what the store holds, durably. The lock is held."""
        write_atomic(self.path / INDEX_NAME, render_store_index(index))

    def rely_on(self, digest: Digest) -> None:
        """Keep a blob that no capsule names yet. The lock is held."""
        if self._lease is None:
            self._lease = Lease(self.path)
        self._lease.add(digest)

    def rely_no_more(self, digests: Iterable[Digest]) -> None:
        """Let go of blobs, each as often as it stands there. The lock is held."""
        if self._lease is not None and not self._lease.drop(digests):
            self._lease = None

    def needed_blobs(self, index: StoreIndex) -> set[Digest]:
        """Return all blobs that are to stay: those of the capsules in *index*, and those that
        writers rely on. The lock is held.

        Raises:
            VerificationError: what describes a capsule is damaged or gone: nobody knows what else
                it needs.
        """
        needed = read_leases(self.path)
        for digest in index.capsules:
            try:
                needed |= self.blobs_of(index, digest)
            except (VerificationError, FileNotFoundError) as error:
                names = [name for name, held in index.tags.items() if held == digest]
                told = str(error) if isinstance(error, VerificationError) else "a blob is missing"
                raise VerificationError(
                    f"store {self.path}: what describes {min(names, default=digest)} is damaged: "
                    f"{told}; nothing was removed, for it is not known what it needs",
                    hint=self.fsck_hint,
                ) from error
        return needed

    def blobs_of(self, index: StoreIndex, digest: Digest) -> set[Digest]:
        """Return all blobs that a capsule needs.

        Raises:
            VerificationError: what describes it is damaged.
            FileNotFoundError: it is gone.
        """
        manifest = parse_manifest(self.read_metadata(index.capsules[digest][0]))
        blobs = {digest, *(blob.digest for blob in manifest.blobs)}
        if digest in index.referrers:
            blobs |= {EMPTY.digest, index.referrers[digest].digest}
            for manifest_of, item in self.referrers(index, digest):
                blobs |= {manifest_of.digest, item.blob.digest}
        return blobs


def world_hint(error: OSError, path: Path) -> str | None:
    """Return what to do against what the system refused at *path*."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"make space: df -h {path} shows how much there is; vnfsbuild gc --dry-run, delete"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"ls -ld {path} shows whose it is; or --store DIR"
    return None
