"""Blobs of a store, found by digest, and how new ones come in: whole, durable, in one step.

What comes in is first written to a directory of its own below ``.incoming``, which is removed
however the writer ends; what a killed writer leaves, the next one removes. Which blobs belong to
which capsule is the business of :mod:`vnfsbuild.store.store`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from vnfsbuild.capsule import Advance, blob_name, read_chunks, verify_payload
from vnfsbuild.digest import Digest, copy_stream, digest_of, digest_of_stream, parse_digest
from vnfsbuild.errors import VerificationError, VnfsbuildError
from vnfsbuild.files import list_directory, open_atomic, sync_directory, sync_file
from vnfsbuild.manifest import MAX_METADATA_BYTES, Descriptor

INCOMING_NAME = ".incoming"

_NOT_OURS = {errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM}

_HEX = re.compile(r"[0-9a-f]{64}\Z")


class Blobs:
    """The blobs of the OCI image layout in the directory *path*."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def blob_path(self, digest: str) -> Path:
        """Return where the blob *digest* is, or would be.

        Raises:
            InputError: *digest* is none.
        """
        return self.path / blob_name(parse_digest(digest, where="blob"))

    def list_blobs(self) -> list[Digest]:
        """Return what there is, by digest; files with other names are passed over."""
        try:
            names = sorted(os.listdir(self.path / "blobs/sha256"))  # noqa: PTH208 - 20 times faster
        except FileNotFoundError:
            return []
        return [Digest(f"sha256:{name}") for name in names if _HEX.match(name)]

    def open_blob(self, digest: str) -> BinaryIO:
        """Open the blob *digest*; its content is not verified.

        Raises:
            VnfsbuildError: the store has no such blob.
        """
        try:
            return self._open(digest)
        except FileNotFoundError as error:
            raise self.missing(digest) from error

    def read_metadata(self, descriptor: Descriptor) -> bytes:
        """Return a small blob, verified.

        Raises:
            VerificationError: it is not what *descriptor* says.
            FileNotFoundError: there is none: it was deleted, perhaps just now.
        """
        with self._open(descriptor.digest) as file:
            try:
                data = file.read(MAX_METADATA_BYTES + 1)
            except OSError as error:
                raise self._unreadable(descriptor.digest, error) from error
        return b"".join(verify_payload(iter([data]), descriptor, where=f"{self.path}: blob"))

    def holds(self, descriptor: Descriptor) -> bool:
        """Tell whether the blob is there and undamaged; a damaged one is to be written anew."""
        try:
            with self.blob_path(descriptor.digest).open("rb") as file:
                return digest_of_stream(file) == (descriptor.digest, descriptor.size_bytes)
        except FileNotFoundError:
            return False

    def _open(self, digest: str) -> BinaryIO:
        try:
            return self.blob_path(digest).open("rb")
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self._unreadable(digest, error) from error

    def _unreadable(self, digest: str, error: OSError) -> VnfsbuildError:
        """Return what it means that a blob cannot be read: damage, but for want of rights."""
        kind = VnfsbuildError if error.errno in _NOT_OURS else VerificationError
        return kind(f"store {self.path}: the blob {digest}: {error.strerror}",
                    hint=f"ls -l {self.blob_path(digest)}")  # fmt: skip

    def missing(self, digest: str) -> VnfsbuildError:
        """Return the error that tells that a blob is not there."""
        return VnfsbuildError(
            f"store {self.path}: the blob {digest} is missing",
            hint="build or import the capsule again",
        )


class Incoming:
    """Blobs on their way into a store: whole and durable, but not yet part of it."""

    def __init__(self, blobs: Blobs, directory: Path) -> None:
        self._blobs = blobs
        self._directory = directory

    def put(self, data: bytes) -> None:
        """Take a small blob."""
        with open_atomic(self._path(digest_of(data))) as file:
            file.write(data)

    def copy(self, stream: BinaryIO) -> tuple[Digest, int]:
        """Take what *stream* holds, whatever it is."""
        nameless = self._directory / "new"
        with open_atomic(nameless) as file:
            digest, size_bytes = copy_stream(stream, file)
        nameless.rename(self._path(digest))
        return digest, size_bytes

    def take(self, blob: Descriptor, chunks: Iterator[bytes], advance: Advance | None) -> None:
        """Take *chunks*, which verify themselves, as *blob*; what the store has is not copied."""
        with contextlib.ExitStack() as stack:
            file = None
            if not self.keep(blob):
                file = stack.enter_context(open_atomic(self._path(blob.digest)))
            for chunk in chunks:
                if file:
                    file.write(chunk)
                if advance:
                    advance(len(chunk))

    def keep(self, blob: Descriptor) -> bool:
        """Take *blob* from the store, when that has it undamaged; tell whether it did.

        The link keeps the content even if what brought it is deleted meanwhile. A file system
        without links is no reason to fail: then the bytes are to be written once more.
        """
        path = self._path(blob.digest)
        try:
            os.link(self._blobs.blob_path(blob.digest), path)
        except FileExistsError:
            return True
        except OSError:
            return False
        with path.open("rb") as file:
            if digest_of_stream(file) == (blob.digest, blob.size_bytes):
                return True
        path.unlink()
        return False

    def adopt(self, blob: Descriptor, path: Path) -> None:
        """Take the file *path*, which the caller has verified to be *blob*; it moves.

        One that somebody else could still write to is copied, and verified once more.

        Raises:
            VerificationError: it had to be copied, and is not *blob*.
        """
        target = self._path(blob.digest)
        try:
            if not _is_ours_alone(path):
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
            path.rename(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            with path.open("rb") as file:
                self.take(blob, verify_payload(read_chunks(file), blob, where=str(path)), None)
            path.unlink()
            return
        target.chmod(0o644)
        sync_file(target)
        sync_directory(self._directory)

    def has(self, blob: Descriptor) -> bool:
        """Tell whether *blob* came in."""
        return self._path(blob.digest).exists()

    def move_to_store(self) -> None:
        """Give all to the store, durably."""
        for path in sorted(self._directory.iterdir()):
            path.replace(self._blobs.blob_path(f"sha256:{path.name}"))
        sync_directory(self._blobs.path / "blobs/sha256")

    def _path(self, digest: Digest) -> Path:
        return self._directory / digest.removeprefix("sha256:")


def _is_ours_alone(path: Path) -> bool:
    """Tell whether *path* is a file of ours that has no other name."""
    found = path.lstat()
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and found.st_nlink == 1


@contextlib.contextmanager
def open_incoming(
    blobs: Blobs, *, lock: contextlib.AbstractContextManager[None]
) -> Iterator[Incoming]:
    """Make a place for blobs on their way in; it goes when the block ends.

    *lock* is the store's: it is held while the place is made, not while it is used.
    """
    with lock:
        above = blobs.path / INCOMING_NAME
        above.mkdir(exist_ok=True)
        for abandoned in find_abandoned(blobs.path):
            shutil.rmtree(abandoned, ignore_errors=True)
        directory = Path(tempfile.mkdtemp(dir=above))
        held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(held, fcntl.LOCK_EX)
    try:
        yield Incoming(blobs, directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(held)


def find_abandoned(store: Path) -> list[Path]:
    """Return what killed writers left of their incoming blobs: directories that nobody holds.

    The caller holds the lock of the store, so that none of them is just being made.
    """
    directories = list_directory(store / INCOMING_NAME)
    return [directory for directory in directories if not _is_held(directory)]


def _is_held(directory: Path) -> bool:
    if directory.is_symlink():
        return False
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:  # its writer just removed it
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
