"""Capsules out of archives that other programs wrote: an OCI image layout, a directory or a tar.

Nothing of the archive is believed but what is signed, and nothing of it is unpacked: its names are
compared with those of blobs, and never become names here. Members may stand in any order, with
others between them; what is a link, a device or leads out of the archive makes all of it refused.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from vnfsbuild.capsule import (
    INDEX_NAME,
    LAYOUT_NAME,
    REF_NAME,
    Advance,
    Head,
    blob_name,
    payloads_after,
    read_chunks,
    verify_payload,
)
from vnfsbuild.digest import Digest, digest_of
from vnfsbuild.errors import InputError, VerificationError, quote_untrusted
from vnfsbuild.manifest import (
    MAX_METADATA_BYTES,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    IndexEntry,
    parse_descriptor,
)
from vnfsbuild.registry.foreignjson import parse_foreign_index, parse_foreign_json
from vnfsbuild.registry.gather import gather, hint_unsigned, is_capsule
from vnfsbuild.store.blobs import Incoming
from vnfsbuild.store.index import StoredCapsule
from vnfsbuild.store.store import Store
from vnfsbuild.trust import Trust

MAX_MEMBERS = 10_000
MAX_HEADER_BYTES = 64 * 1024
"""The headers of one member: no program writes so many."""
MAX_HEADERS_BYTES = 64 * 1024 * 1024
"""The headers of all members."""
MAX_MANIFESTS = 1000
MAX_DEPTH = 4
"""of indexes within indexes"""


class Layout(Protocol):
    """The files of an OCI image layout."""

    @property
    def place(self) -> str:
        """How messages call it."""

    def open(self, name: str) -> BinaryIO | None:
        """Open the file *name*, if there is one."""


class DirectoryLayout:
    """A layout in a directory; no link in it is followed."""

    def __init__(self, path: Path) -> None:
        self.place = str(path)
        self._path = path

    def open(self, name: str) -> BinaryIO | None:
        """Open the file *name*, if there is one.

        Raises:
            VerificationError: a link or something else than a file stands there.
        """
        opened = [os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)]
        try:
            *directories, last = name.split("/")
            for part in directories:
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
                opened.append(os.open(part, flags, dir_fd=opened[-1]))
            # Not blocking: it could be a pipe that nobody writes to.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            descriptor = os.open(last, flags, dir_fd=opened[-1])
        except FileNotFoundError:
            return None
        except OSError as error:
            raise VerificationError(
                f"{self.place}: {name}: {error.strerror}, expected a file, and no link on the way"
            ) from error
        finally:
            for number in opened:
                os.close(number)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise VerificationError(f"{self.place}: {name}: not a file")
        return os.fdopen(descriptor, "rb")


class TarLayout:
    """A layout in a tar archive, whose members were looked at once, and are read where they are."""

    def __init__(self, file: BinaryIO, place: str) -> None:
        """Look at all members of *file*, which must stay open.

        Raises:
            InputError: it is no tar archive, or a compressed one.
            VerificationError: there is something in it that has no business there.
        """
        self.place = place
        self._file = file
        self._members: dict[str, tuple[int, int]] = {}
        self._end = 0
        try:
            self._end = file.seek(0, io.SEEK_END)
            file.seek(0)
            self._scan()
        except (tarfile.TarError, ValueError, RecursionError, OverflowError) as error:
            raise InputError(
                f"{place}: not a tar archive: {quote_untrusted(str(error))}",
                hint="a compressed one: unpack it first",
            ) from error
        except OSError as error:
            raise InputError(
                f"{place}: cannot be read at any place: {error.strerror}",
                hint="one that comes out of a pipe: write it to a file first",
            ) from error

    def _scan(self) -> None:
        headers = cast(BinaryIO, _Sparing(self._file, self.place))
        with tarfile.open(fileobj=headers, mode="r:") as archive:
            for number, member in enumerate(archive):
                if number >= MAX_MEMBERS:
                    raise VerificationError(f"{self.place}: more than {MAX_MEMBERS} members")
                self._take(member)

    def _take(self, member: tarfile.TarInfo) -> None:
        name = member.name.removeprefix("./")
        if member.size < 0 or member.offset_data + member.size > self._end:
            raise VerificationError(
                f"{self.place}: {name!r}: found {member.size} bytes, and the archive ends before"
            )
        if name.startswith("/") or ".." in name.split("/"):
            raise VerificationError(f"{self.place}: {name!r}: a path that leads out of the archive")
        if member.isdir():
            return
        if not member.isreg() or member.issparse():
            raise VerificationError(
                f"{self.place}: {name!r}: found no plain file, expected only those"
            )
        if name in (INDEX_NAME, LAYOUT_NAME) or name.startswith("blobs/sha256/"):
            if name in self._members:
                raise VerificationError(f"{self.place}: {name!r}: stands there twice")
            self._members[name] = (member.offset_data, member.size)

    def open(self, name: str) -> BinaryIO | None:
        """Open the member *name*, if there is one."""
        if name not in self._members:
            return None
        return cast(BinaryIO, _Member(self._file, *self._members[name]))


class _Sparing(io.RawIOBase):
    """A file of which only headers are read: the reader of archives would believe any size."""

    def __init__(self, file: BinaryIO, place: str) -> None:
        self._file = file
        self._place = place
        self._left_bytes = MAX_HEADERS_BYTES

    def read(self, size: int = -1, /) -> bytes:
        if not 0 <= size <= min(MAX_HEADER_BYTES, self._left_bytes):
            raise VerificationError(f"{self._place}: found too long a header: {size} bytes")
        self._left_bytes -= size
        return self._file.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


class _Member(io.RawIOBase):
    """A part of a file."""

    def __init__(self, file: BinaryIO, first_byte: int, size_bytes: int) -> None:
        self._file = file
        self._position = first_byte
        self._left = size_bytes

    def read(self, size: int = -1, /) -> bytes:
        self._file.seek(self._position)
        data = self._file.read(self._left if size < 0 else min(size, self._left))
        self._position += len(data)
        self._left -= len(data)
        return data


class LayoutSource:
    """The manifests of a layout, as a place that capsules come from."""

    def __init__(self, layout: Layout) -> None:
        """Read its index.

        Raises:
            InputError: it is no OCI image layout.
            VerificationError: it is a broken one.
        """
        self._layout = layout
        self.place = layout.place
        data = self._read(INDEX_NAME)
        if data is None or self._read(LAYOUT_NAME) is None:
            raise InputError(
                f"{self.place}: found no {INDEX_NAME} and {LAYOUT_NAME}, "
                "expected an OCI image layout"
            )
        self._manifests: dict[Digest, IndexEntry] = {}
        self._tags: dict[str, set[Digest]] = {}
        self._seen: set[Digest] = set()
        self._add(data, INDEX_NAME, MAX_DEPTH)
        self._capsules, self._referrers = self._sort()

    def choose(self, tag: str | None) -> Digest:
        """Return the capsule that is called *tag*, or the only one.

        Raises:
            InputError: there is none, or more than one.
        """
        named = self._tags.get(tag, set()) if tag else set(self._capsules)
        found = [digest for digest in self._capsules if digest in named]
        if len(found) == 1:
            return found[0]
        names = sorted(tag for tag, held in self._tags.items() if held & set(self._capsules))
        told = f"with the tag {tag!r}" if tag else "in it"
        raise InputError(
            f"{self.place}: found {len(found)} capsules {told}, expected one",
            hint=f"its tags are {', '.join(names)}: put :TAG behind it" if names else None,
        )

    def get_manifest(self, wanted: str) -> bytes | None:
        """Return the manifest with the digest *wanted*, if there is one."""
        entry = self._manifests.get(Digest(wanted))
        return self._blob(entry[0]) if entry else None

    def get_blob(self, blob: Descriptor) -> bytes:
        """Return a small blob, verified.

        Raises:
            VerificationError: it is not there, or is another one.
        """
        data = self._blob(blob)
        if data is None:
            raise VerificationError(f"{self.place}: {blob.digest} is named, and not there")
        return data

    def list_referrers(self, digest: Digest) -> list[IndexEntry]:
        """Return what refers to the manifest *digest*."""
        return self._referrers.get(digest, [])

    def open_payload(self, payload: Descriptor) -> Iterator[bytes]:
        """Read *payload*; raises before its end unless it is what was signed.

        Raises:
            VerificationError: it is not there, or is another one.
        """
        file = self._layout.open(blob_name(payload.digest))
        if file is None:
            raise VerificationError(f"{self.place}: the payload {payload.digest} is not there")
        with file:
            yield from verify_payload(read_chunks(file), payload, where=self.place)

    def _add(self, data: bytes, name: str, depth: int) -> None:
        """Note all manifests that the index *data* lists, and those of indexes in it."""
        for descriptor, kind, notes in parse_foreign_index(data, where=f"{self.place}: {name}"):
            tag = notes.get(REF_NAME, "")
            self._tags.setdefault(tag.rpartition(":")[2], set()).add(descriptor.digest)
            if descriptor.media_type == OCI_MANIFEST:
                self._manifests[descriptor.digest] = (descriptor, kind, {})
            elif (
                descriptor.media_type == OCI_INDEX and depth and descriptor.digest not in self._seen
            ):
                self._seen.add(descriptor.digest)
                inner = self._blob(descriptor)
                if inner is not None:
                    self._add(inner, descriptor.digest, depth - 1)
            if len(self._manifests) > MAX_MANIFESTS:
                raise VerificationError(f"{self.place}: more than {MAX_MANIFESTS} manifests")

    def _sort(self) -> tuple[list[Digest], dict[Digest, list[IndexEntry]]]:
        """Return which manifests are capsules, and which refer to what."""
        capsules: list[Digest] = []
        referrers: dict[Digest, list[IndexEntry]] = {}
        for digest, (descriptor, _, _) in sorted(self._manifests.items()):
            data = self._blob(descriptor)
            if data is None:
                continue
            document = parse_foreign_json(data, where=f"{self.place}: {digest}")
            if document.get("subject") is not None:
                where = f"{self.place}: {digest}: subject"
                subject = parse_descriptor(document["subject"], where=where)
                kind = document.get("artifactType")
                typed = kind if isinstance(kind, str) else None
                referrers.setdefault(subject.digest, []).append((descriptor, typed, {}))
            elif is_capsule(document):
                capsules.append(digest)
        return capsules, referrers

    def _blob(self, blob: Descriptor) -> bytes | None:
        data = self._read(blob_name(blob.digest))
        if data is not None and (digest_of(data), len(data)) != (blob.digest, blob.size_bytes):
            raise VerificationError(f"{self.place}: the blob {blob.digest} has other bytes")
        return data

    def _read(self, name: str) -> bytes | None:
        file = self._layout.open(name)
        if file is None:
            return None
        with file:
            data = file.read(MAX_METADATA_BYTES + 1)
        if len(data) > MAX_METADATA_BYTES:
            raise VerificationError(f"{self.place}: {name}: more than {MAX_METADATA_BYTES} bytes")
        return data


@contextlib.contextmanager
def open_layout(path: Path) -> Iterator[Layout]:
    """Open the layout *path*, a directory or a tar archive.

    Raises:
        InputError: it is neither.
        VerificationError: there is something in it that has no business there.
    """
    if path.is_dir():
        yield DirectoryLayout(path)
        return
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    with file:
        yield TarLayout(file, str(path))


def import_layout(
    path: Path,
    tag: str | None,
    store: Store,
    *,
    trust: Trust,
    now: int,
    current: bool = True,
    show: Callable[[Head], contextlib.AbstractContextManager[Advance]],
) -> StoredCapsule:
    """Add the capsule that is called *tag*, or the only one, in the layout *path* to *store*.

    The store is as it was until all of it has been verified. *show* shows how far it is.

    Raises:
        InputError: there is no such capsule.
        VerificationError: it is damaged, or not signed as it must be.
        VnfsbuildError: it cannot be written.
    """
    with open_layout(path) as layout:
        source = LayoutSource(layout)

        def bring(incoming: Incoming, admit: Callable[[Head], None]) -> Head:
            head = gather(source, source.choose(tag), trust=trust).head
            with hint_unsigned(head):
                admit(head)
            with show(head) as advance:
                for payload in payloads_after(head):
                    incoming.take(payload, source.open_payload(payload), advance)
            return head

        return store.import_from(bring, trust=trust, now=now, current=current)
