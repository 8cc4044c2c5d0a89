"""Blobs of a store, found by digest, and how new ones come in: whole, durable, in one step.

What comes in is first written to a directory of its own below ``.incoming``, which is removed
however the writer ends; what a killed writer leaves, the next one removes. Which blobs belong to
which capsule is the business of :mod:`vnfsbuild.store`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from vnfsbuild.capsule import Advance, blob_name, verify_payload
from vnfsbuild.digest import Digest, copy_stream, digest_of, digest_of_stream, parse_digest
from vnfsbuild.errors import VnfsbuildError
from vnfsbuild.files import open_atomic, sync_directory
from vnfsbuild.manifest import MAX_METADATA_BYTES, Descriptor


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

    def open_blob(self, digest: str) -> BinaryIO:
        """Open the blob *digest*; its content is not verified.

        Raises:
            VnfsbuildError: the store has no such blob.
        """
        try:
            return self.blob_path(digest).open("rb")
        except FileNotFoundError as error:
            raise self.missing(digest) from error

    def read_metadata(self, descriptor: Descriptor) -> bytes:
        """Return a small blob, verified.

        Raises:
            VerificationError: it is not what *descriptor* says.
            FileNotFoundError: there is none: it was deleted, perhaps just now.
        """
        with self.blob_path(descriptor.digest).open("rb") as file:
            data = file.read(MAX_METADATA_BYTES + 1)
        return b"".join(verify_payload(iter([data]), descriptor, where=f"{self.path}: blob"))

    def holds(self, descriptor: Descriptor) -> bool:
        """Tell whether the blob is there and undamaged; a damaged one is to be written anew."""
        try:
            with self.blob_path(descriptor.digest).open("rb") as file:
                return digest_of_stream(file) == (descriptor.digest, descriptor.size_bytes)
        except FileNotFoundError:
            return False

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
            if self._blobs.holds(blob):
                # The link keeps the content even if what brought it is deleted meanwhile.
                os.link(self._blobs.blob_path(blob.digest), self._path(blob.digest))
            else:
                file = stack.enter_context(open_atomic(self._path(blob.digest)))
            for chunk in chunks:
                if file:
                    file.write(chunk)
                if advance:
                    advance(len(chunk))

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


@contextlib.contextmanager
def open_incoming(
    blobs: Blobs, *, lock: contextlib.AbstractContextManager[None]
) -> Iterator[Incoming]:
    """Make a place for blobs on their way in; it goes when the block ends.

    *lock* is the store's: it is held while the place is made, not while it is used.
    """
    with lock:
        above = blobs.path / ".incoming"
        above.mkdir(exist_ok=True)
        _remove_abandoned(above)
        directory = Path(tempfile.mkdtemp(dir=above))
        held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(held, fcntl.LOCK_EX)
    try:
        yield Incoming(blobs, directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(held)


def _remove_abandoned(above: Path) -> None:
    """Remove what killed writers left: directories that nobody holds locked."""
    for directory in above.iterdir():
        with contextlib.suppress(OSError):  # held by a writer, or its writer just removed it
            held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory, ignore_errors=True)
            finally:
                os.close(held)
