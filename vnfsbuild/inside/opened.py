"""A capsule that is open for looking inside: in the store, or a ``.vnfs`` file.

What is read is read by the very descriptors that its bytes were verified through: whoever replaces
or deletes the file meanwhile changes nothing. Who signed it is another question: see *admit*.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vnfsbuild.capsule import Head, read_capsule, verify_payload
from vnfsbuild.digest import Digest
from vnfsbuild.errors import InputError, VerificationError
from vnfsbuild.manifest import LAYER_TYPES, ROLES, Descriptor
from vnfsbuild.original import is_file
from vnfsbuild.reference import parse_reference
from vnfsbuild.store.store import Store
from vnfsbuild.unpack.piece import Piece


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """A capsule, and how to get at its payloads."""

    head: Head
    place: Path
    """the store, or the file"""
    is_file: bool
    _open_payload: Callable[[Descriptor], Piece]

    @property
    def name(self) -> str:
        """Return the capsule's name."""
        return self.head.name

    @property
    def digest(self) -> Digest:
        """Return the capsule's digest."""
        return self.head.capsule.digest

    @property
    def payloads(self) -> dict[str, Descriptor]:
        """Return source, kernel, initrd, then the layers by name, the undermost first."""
        names = iter(self.head.capsule.config.layers)
        return {
            f"layer {next(names)}"
            if payload.media_type in LAYER_TYPES
            else ROLES[payload.media_type]: payload
            for payload in self.head.capsule.manifest.payloads
        }

    def open_payload(self, payload: Descriptor) -> Piece:
        """Return the bytes of *payload*, every one of them verified.

        Raises:
            VerificationError: they are not what the manifest says.
            VnfsbuildError: they are not there.
        """
        return self._open_payload(payload)


@contextlib.contextmanager
def open_capsule_at(
    text: str, store: Store, *, admit: Callable[[Head], None] = lambda _: None
) -> Iterator[Opened]:
    """Open the capsule that *text* means: a ``.vnfs`` file or a reference.

    *admit* sees the head before any payload is read, and raises to refuse it.

    Raises:
        InputError: there is none.
        VerificationError: it is damaged.
    """
    with contextlib.ExitStack() as stack:
        yield (_open_file if is_file(text) else _open_stored)(text, store, admit, stack)


def _open_stored(
    text: str, store: Store, admit: Callable[[Head], None], stack: contextlib.ExitStack
) -> Opened:
    head = store.get(parse_reference(text)).head
    admit(head)
    pieces: dict[Digest, Piece] = {}

    def open_payload(payload: Descriptor) -> Piece:
        if payload.digest not in pieces:
            file = stack.enter_context(store.open_blob(payload.digest))
            piece = Piece(
                descriptor=file.fileno(),
                offset=0,
                size_bytes=payload.size_bytes,
                where=f"{head.name}: {payload.digest[:19]}",
            )
            if os.fstat(file.fileno()).st_size != payload.size_bytes:
                raise VerificationError(
                    f"{piece.where}: found {os.fstat(file.fileno()).st_size} bytes, "
                    f"expected {payload.size_bytes}"
                )
            for _ in verify_payload(piece.chunks(), payload, where=f"{head.name}: blob"):
                pass
            pieces[payload.digest] = piece
        return pieces[payload.digest]

    return Opened(head=head, place=store.path, is_file=False, _open_payload=open_payload)


def _open_file(
    text: str, store: Store, admit: Callable[[Head], None], stack: contextlib.ExitStack
) -> Opened:
    path = Path(text)
    try:
        file = stack.enter_context(path.open("rb"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        raise InputError(f"{path}: no regular file: it is read more than once")
    pieces: dict[Digest, Piece] = {}

    def take(payload: Descriptor, chunks: Iterator[bytes]) -> None:
        pieces[payload.digest] = Piece(
            descriptor=file.fileno(),
            offset=file.tell(),
            size_bytes=payload.size_bytes,
            where=f"{text}: {payload.digest[:19]}",
        )
        for _ in chunks:
            pass

    def open_payload(payload: Descriptor) -> Piece:
        try:
            return pieces[payload.digest]
        except KeyError as error:
            raise VerificationError(f"{text}: {payload.digest[:19]} is no payload") from error

    head = read_capsule(file, where=text, admit=admit, take=take)
    return Opened(head=head, place=path, is_file=True, _open_payload=open_payload)
