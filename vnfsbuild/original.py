"""A capsule to look into, wherever it is: in the store, or a ``.vnfs`` file.

Nobody need have signed it: that is for those who run it. Every byte is what its digest says.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vnfsbuild.capsule import Head, load_capsule, payloads_after, read_chunks, verify_payload
from vnfsbuild.digest import Digest
from vnfsbuild.files import open_atomic
from vnfsbuild.manifest import Descriptor
from vnfsbuild.reference import parse_reference
from vnfsbuild.referrers.attachment import PACKAGE_SET as PACKAGES
from vnfsbuild.store.store import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class Original:
    """A capsule, and where its payloads are as files."""

    head: Head
    blob_path: Callable[[Digest], Path]
    packages: Path | None = None
    """its package set, where the store has one"""

    @property
    def name(self) -> str:
        """Return the capsule's name."""
        return self.head.name

    @property
    def digest(self) -> Digest:
        """Return the capsule's digest."""
        return self.head.capsule.digest


def is_file(text: str) -> bool:
    """Tell whether *text* names a file, and not a capsule of the store."""
    return os.sep in text or text.endswith(".vnfs")


def open_original(text: str, store: Store, *, work: Path) -> Original:
    """Return the capsule that *text* names, verified; payloads of a file are unpacked to *work*.

    Raises:
        InputError: there is none.
        VerificationError: it is damaged.
    """
    if is_file(text):
        return _unpack(Path(text), work)
    found = store.get(parse_reference(text))
    for payload in payloads_after(found.head):
        with store.open_blob(payload.digest) as blob:
            for _ in verify_payload(read_chunks(blob), payload, where=text):
                pass
    attached = found.attached(PACKAGES)
    return Original(
        head=found.head,
        blob_path=store.blob_path,
        packages=store.blob_path(attached.digest) if attached else None,
    )


def _unpack(path: Path, work: Path) -> Original:
    work.mkdir(parents=True)

    def blob_path(digest: Digest) -> Path:
        return work / digest.removeprefix("sha256:")

    def take(payload: Descriptor, chunks: Iterator[bytes]) -> None:
        with open_atomic(blob_path(payload.digest)) as file:
            file.writelines(chunks)

    head = load_capsule(path, admit=lambda _: None, take=take)
    return Original(head=head, blob_path=blob_path)
