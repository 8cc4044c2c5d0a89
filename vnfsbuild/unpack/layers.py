"""Layers of either format, opened: entries, contents, digests of contents."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Protocol

from vnfsbuild import tools
from vnfsbuild.digest import Digest, digest_of_stream
from vnfsbuild.errors import VerificationError
from vnfsbuild.layer import Entry
from vnfsbuild.manifest import LAYER_SQUASHFS
from vnfsbuild.sandbox import tree_argv
from vnfsbuild.unpack.erofs import Erofs
from vnfsbuild.unpack.piece import Piece
from vnfsbuild.unpack.squashfs import Squashfs


class Layer(Protocol):
    """A layer, verified and open."""

    @property
    def entries(self) -> list[Entry]:
        """What is in it, the root first, a directory before what is in it."""

    def read_file(self, path: str) -> Iterator[bytes]:
        """Return the content of the file *path*.

        Raises:
            VerificationError: the layer is damaged.
            VnfsbuildError: a program that it takes cannot be had.
        """

    def digest_files(self, paths: Collection[str]) -> dict[str, Digest]:
        """Return the digests of the contents of the files *paths*.

        Raises:
            VerificationError: the layer is damaged.
            VnfsbuildError: a program that it takes cannot be had.
        """


def open_layer(piece: Piece, media_type: str, *, find_tools: Callable[[], Path]) -> Layer:
    """Return the layer in *piece*.

    *find_tools* returns the tools tree "build"; it is called only for contents of an erofs.

    Raises:
        VerificationError: it is not what *media_type* says, or damaged.
    """
    if media_type == LAYER_SQUASHFS:
        return SquashfsLayer(piece)
    return ErofsLayer(piece, find_tools)


class SquashfsLayer:
    """A layer as squashfs, which is read here."""

    def __init__(self, piece: Piece) -> None:
        self._image = Squashfs(piece)
        self.entries = self._image.list_entries()

    def read_file(self, path: str) -> Iterator[bytes]:
        """Return the content of the file *path*."""
        return self._image.read_file(path)

    def digest_files(self, paths: Collection[str]) -> dict[str, Digest]:
        """Return the digests of the contents of the files *paths*."""
        found = {}
        for path in sorted(paths):  # as they were packed: neighbours share blocks
            hasher = hashlib.sha256()
            for data in self._image.read_file(path):
                hasher.update(data)
            found[path] = Digest(f"sha256:{hasher.hexdigest()}")
        return found


class ErofsLayer:
    """A layer as erofs: the programs of a tools tree know how its contents are compressed."""

    def __init__(self, piece: Piece, find_tools: Callable[[], Path]) -> None:
        self._piece = piece
        self._find_tools = find_tools
        self.entries = Erofs(piece).list_entries()

    def read_file(self, path: str) -> Iterator[bytes]:
        """Return the content of the file *path*."""
        (entry,) = (entry for entry in self.entries if entry.path == path)
        argv = [f"--offset={self._piece.offset}", "--cat", f"--nid={entry.inode}", self._path()]
        data = tools.capture(tree_argv(self._find_tools(), "dump.erofs", argv))
        if len(data) != entry.size_bytes:
            raise self._piece.damaged(f"{path}: {len(data)} bytes of {entry.size_bytes}")
        yield data

    def digest_files(self, paths: Collection[str]) -> dict[str, Digest]:
        """Return the digests of the contents of the files *paths*."""
        if not paths:
            return {}
        with tempfile.TemporaryDirectory(prefix="vnfs-erofs.") as name:
            root = Path(name, "root")
            argv = [f"--offset={self._piece.offset}", "--no-preserve", f"--extract={root}"]
            program = tree_argv(self._find_tools(), "fsck.erofs", [*argv, self._path()])
            # An ordinary user cannot make devices, which ends with status 1; nobody asks for them.
            tools.capture(program, statuses=(0, 1))
            return {path: self._digest(root / path, path) for path in paths}

    def _digest(self, file: Path, path: str) -> Digest:
        try:
            file.chmod(stat.S_IRUSR)
            with file.open("rb") as content:
                return digest_of_stream(content)[0]
        except OSError as error:
            raise VerificationError(
                f"{self._piece.where}: {path}: cannot be unpacked: {error.strerror}"
            ) from error

    def _path(self) -> str:
        # The very file that was verified, whatever is at its name by now.
        return f"/proc/{os.getpid()}/fd/{self._piece.descriptor}"
