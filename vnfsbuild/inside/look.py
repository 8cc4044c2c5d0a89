"""Looking inside a capsule: its files as a node will see them, without root and without a mount."""

from __future__ import annotations

import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vnfsbuild.digest import Digest
from vnfsbuild.errors import InputError
from vnfsbuild.inside.opened import Opened
from vnfsbuild.inside.union import Placed, make_union, plain, resolve, shown, sort_key, type_of
from vnfsbuild.layer import Entry
from vnfsbuild.manifest import BOOTSTRAP
from vnfsbuild.unpack.archives import Archive
from vnfsbuild.unpack.layers import Layer, open_layer

ARCHIVES = ("source", "initrd", "drivers")
"""The payloads besides layers that consist of files."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tree:
    """Files of a capsule: of all layers as one tree, of one layer, or of an archive."""

    where: str
    names: tuple[str, ...]
    """of the layers, the undermost first; or of the one payload"""
    digests: tuple[Digest, ...]
    """of these"""
    union: dict[str, Placed]
    """with a directory above everything"""
    listed: tuple[Placed, ...]
    """what is really there, sorted"""
    _images: tuple[Layer | Archive, ...]

    def find_file(self, path: str) -> Placed:
        """Return the file that *path* leads to, through links of this tree alone.

        Raises:
            InputError: there is nothing, or something that has no content.
        """
        try:
            found = resolve(self.union, path)
        except InputError as error:
            raise InputError(f"{self.where}: {plain(path)}: {error.message}") from error
        if not stat.S_ISREG(found.entry.mode):
            told = shown(found.entry.path)
            raise InputError(
                f"{self.where}: {told}: found a {type_of(found.entry)}, expected a file",
                hint=f"vnfsbuild files --long {self.where} {told}",
            )
        return found

    def read_file(self, placed: Placed) -> Iterator[bytes]:
        """Return the content of a file.

        Raises:
            VerificationError: the payload is damaged.
            VnfsbuildError: a program that it takes cannot be had.
        """
        return self._images[placed.layer].read_file(placed.entry.path)

    def digest_files(self, paths: Collection[str]) -> dict[str, Digest]:
        """Return the digests of the contents of the files *paths*.

        Raises:
            VerificationError: a layer is damaged.
            VnfsbuildError: a program that it takes cannot be had.
        """
        found: dict[str, Digest] = {}
        for number, image in enumerate(self._images):
            mine = [path for path in paths if self.union[path].layer == number]
            found |= image.digest_files(mine)
        return found


def open_root(opened: Opened, *, find_tools: Callable[[], Path]) -> Tree:
    """Return the root file system of a capsule as a node will see it.

    *find_tools* returns the tools tree "build"; it is called only for contents of an erofs.

    Raises:
        InputError: it is a bootstrap, which has none.
        VerificationError: a layer is damaged.
    """
    if opened.head.capsule.manifest.artifact_type == BOOTSTRAP:
        raise InputError(
            f"{opened.name}: a bootstrap has no layers",
            hint=f"vnfsbuild files --payload initrd {opened.name} tells what is in it",
        )
    layers = {name: layer for name, layer in opened.payloads.items() if name.startswith("layer ")}
    images = tuple(
        open_layer(opened.open_payload(layer), layer.media_type, find_tools=find_tools)
        for layer in layers.values()
    )
    union = make_union([image.entries for image in images])
    return Tree(
        where=opened.name,
        names=tuple(name.removeprefix("layer ") for name in layers),
        digests=tuple(layer.digest for layer in layers.values()),
        union=union,
        listed=tuple(union.values()),
        _images=images,
    )


def open_layer_alone(opened: Opened, name: str, *, find_tools: Callable[[], Path]) -> Tree:
    """Return the layer *name* by itself, whiteouts among its entries.

    Raises:
        InputError: there is no such layer.
        VerificationError: it is damaged.
    """
    layer = opened.payloads.get(f"layer {name}")
    if layer is None:
        raise InputError(
            f"{opened.name}: has no layer {name!r}, "
            f"expected one of: {', '.join(opened.head.capsule.config.layers) or 'none'}"
        )
    image = open_layer(opened.open_payload(layer), layer.media_type, find_tools=find_tools)
    return _open_alone(opened.name, name, layer.digest, image, image.entries)


def open_archive(opened: Opened, name: str) -> Tree:
    """Return what is in the payload *name*, one of :data:`ARCHIVES`.

    Raises:
        InputError: it has no such payload.
        VerificationError: it is damaged.
    """
    payload = opened.payloads.get(name)
    if payload is None:
        raise InputError(
            f"{opened.name}: has no payload {name!r}, "
            f"expected one of: {', '.join(item for item in opened.payloads if item in ARCHIVES)}"
        )
    archive = Archive(opened.open_payload(payload), payload.media_type)
    return _open_alone(opened.name, name, payload.digest, archive, archive.entries)


def _open_alone(
    where: str, name: str, digest: Digest, image: Layer | Archive, entries: Sequence[Entry]
) -> Tree:
    # Of two members with one name the last counts, as it does when they are unpacked.
    found = {entry.path: Placed(entry=entry, layer=0) for entry in entries}
    listed = tuple(sorted(found.values(), key=lambda placed: sort_key(placed.entry.path)))
    union = {path: above for path in found for path, above in _directories_above(path)}
    return Tree(
        where=where,
        names=(name,),
        digests=(digest,),
        union=union | found,
        listed=listed,
        _images=(image,),
    )


def _directories_above(path: str) -> Iterator[tuple[str, Placed]]:
    """Return directories for those that an archive takes for granted."""
    parts = path.split("/")
    for count in range(len(parts)):
        above = "/".join(parts[:count]) or "."
        entry = Entry(path=above, mode=stat.S_IFDIR | 0o755, uid=0, gid=0, mtime=0, size_bytes=0)
        yield above, Placed(entry=entry, layer=0)
