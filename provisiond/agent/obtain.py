"""From a plan to a capsule that may run: documents first, the verdict, and only then payloads.

The verdict is :func:`vnfsbuild.verify.verify_capsule`, the same as on the servers.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Iterator, List, Optional, Protocol, Tuple

from provisiond.agent.fetch import Fetcher
from provisiond.agent.landing import write_all
from provisiond.agent.memory import Load
from provisiond.agent.papers import Papers, judge
from provisiond.protocol import PROTOCOL, PlannedCapsule, PlannedOverlay
from vnfsbuild import newc
from vnfsbuild.digest import Digest, short, verify_stream
from vnfsbuild.dsse import VerifyEd25519
from vnfsbuild.errors import VerificationError
from vnfsbuild.manifest import (
    CAPSULE,
    INITRD,
    KERNEL,
    LAYER_TYPES,
    MAX_METADATA_BYTES,
    Descriptor,
    parse_manifest,
)
from vnfsbuild.trust import Trust, verify_trust
from vnfsbuild.verify import VerifiedCapsule

INITRD_PADDING = 512
"""The kernel skips zeros between archives; compressed ones want this alignment."""

MODE_PUBLIC = 0o100644
MODE_SECRET = 0o100600


class Fetches(Protocol):
    """What brings a blob into a file: a :class:`Fetcher`, or who has parts of it already."""

    def fetch_into(self, file: BinaryIO, blob: Descriptor, *, where: str) -> None:
        """Append *blob* to *file*, which has no buffer and can be read."""


@dataclass(frozen=True)
class SmallFile:
    """A file of the site or of the node, below /vnfs of the capsule's initramfs."""

    name: str
    mode: int
    data: bytes


@dataclass(frozen=True)
class Overlay:
    """The node's own files, verified: so few bytes that they are held."""

    planned: PlannedOverlay
    data: bytes


def newer_trust(
    text: str, pinned: Trust, *, now: int, verify_ed25519: VerifyEd25519
) -> Tuple[Trust, bytes]:
    """Return the trust that an answer brought in base64, vouched for by *pinned*, and its text.

    Raises:
        VerificationError: it is not, or is older.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise VerificationError(f"trust.json of the answer: not base64: {error}") from error
    trust = verify_trust(
        data,
        pinned=pinned,
        now=now,
        verify_ed25519=verify_ed25519,
        where="trust.json of the answer",
    )
    return trust, data


def hold_overlay(planned: PlannedOverlay, chunks: Iterator[bytes]) -> Overlay:
    """Return the overlay that *chunks* are.

    Raises:
        VerificationError: it is not the one that was planned.
    """
    verified = verify_stream(
        chunks, digest=planned.digest, size_bytes=planned.size_bytes, where="overlay"
    )
    return Overlay(planned, b"".join(verified))


def obtain_papers(planned: PlannedCapsule, fetcher: Fetcher) -> Papers:
    """Fetch manifest, config and signatures of *planned*.

    Raises:
        VerificationError: what it names is no capsule.
        NetworkError: a document cannot be had.
    """

    def small(digest: Digest, where: str) -> bytes:
        return fetcher.fetch_small(digest, limit_bytes=MAX_METADATA_BYTES, where=where)

    manifest_bytes = small(planned.digest, "manifest")
    manifest = parse_manifest(manifest_bytes)
    if manifest.artifact_type != CAPSULE:
        raise VerificationError(f"found {manifest.artifact_type}, expected a capsule")
    return Papers(
        manifest=manifest_bytes,
        config=small(manifest.config.digest, "config"),
        envelopes=tuple(small(digest, "signature") for digest in planned.signatures),
    )


def judge_planned(
    planned: PlannedCapsule,
    papers: Papers,
    *,
    trust: Trust,
    now: int,
    verify_ed25519: VerifyEd25519,
) -> VerifiedCapsule:
    """Return *planned* when it may run here.

    Raises:
        VerificationError: it may not.
    """
    capsule = judge(papers, planned.digest, trust=trust, now=now, verify_ed25519=verify_ed25519)
    if capsule.config.name != planned.name:
        raise VerificationError(
            f"found the capsule {capsule.config.name!r}, the plan says {planned.name!r}"
        )
    if capsule.config.bootstrap_protocol > PROTOCOL:
        raise VerificationError(
            f"needs a bootstrap of protocol {capsule.config.bootstrap_protocol}, "
            f"this one speaks {PROTOCOL}",
            hint="boot the node with a newer bootstrap",
        )
    return capsule


def told_name(planned: PlannedCapsule) -> str:
    """Return how *planned* is called on the console."""
    return f"{planned.name}@{short(planned.digest)}"


def payload_bytes(capsule: VerifiedCapsule, *, with_kernel: bool) -> int:
    """Return how many bytes a node downloads of *capsule*."""
    sizes = [layer.size_bytes for layer in capsule.manifest.layers]
    if with_kernel:
        sizes += [capsule.manifest.payload(kind).size_bytes for kind in (KERNEL, INITRD)]
    return sum(sizes)


def load_of(capsule: VerifiedCapsule, overlay: Optional[Overlay]) -> Load:
    """Return what booting *capsule* with *overlay* puts into memory."""
    manifest = capsule.manifest
    return Load(
        kernel_bytes=manifest.payload(KERNEL).size_bytes,
        initrd_bytes=manifest.payload(INITRD).size_bytes,
        layers_bytes=sum(layer.size_bytes for layer in manifest.layers),
        other_bytes=overlay.planned.size_bytes if overlay else 0,
    )


def layer_files(capsule: VerifiedCapsule) -> List[Tuple[str, str, Descriptor]]:
    """Return (file name, what it is called when told, blob) of each layer, the undermost first."""
    found = []
    for number, layer in enumerate(capsule.manifest.layers):
        name = capsule.config.layers[number].replace("/", "_")
        file = f"{number:02d}-{name}.{LAYER_TYPES[layer.media_type]}"
        found.append((file, f"layer {number} ({name})", layer))
    return found


def write_kernel(path: Path, capsule: VerifiedCapsule, fetcher: Fetches) -> None:
    """Fetch the kernel of *capsule* to *path*."""
    with open_raw(path) as file:
        fetcher.fetch_into(file, capsule.manifest.payload(KERNEL), where="kernel")


def write_combined_initrd(
    path: Path,
    capsule: VerifiedCapsule,
    fetcher: Fetches,
    *,
    overlay: Optional[Overlay],
    files: "List[SmallFile]",
) -> None:
    """Write the initrd that carries all of *capsule* and of this node, as it downloads.

    Its own initrd, then an uncompressed archive of layers, overlay and *files* below ``vnfs/``.

    Raises:
        VerificationError: a payload is not what was signed; *path* is then gone.
        NetworkError: a payload cannot be had; likewise.
    """
    try:
        with open_raw(path) as file:
            fetcher.fetch_into(file, capsule.manifest.payload(INITRD), where="initrd")
            write_all(file, b"\0" * (-file.tell() % INITRD_PADDING), where="initrd")
            for directory in ("vnfs/layers/", "vnfs/site/"):
                write_all(file, newc.render_directories(directory), where="initrd")
            for name, where, layer in layer_files(capsule):
                header = newc.entry_header(f"vnfs/layers/{name}", MODE_PUBLIC, layer.size_bytes)
                write_all(file, header, where=where)
                fetcher.fetch_into(file, layer, where=where)
                write_all(file, newc.padding(layer.size_bytes), where=where)
            if overlay:
                size_bytes = overlay.planned.size_bytes
                header = newc.entry_header("vnfs/overlay.tar", MODE_SECRET, size_bytes)
                write_all(file, header, where="overlay")
                write_all(file, overlay.data, where="overlay")
                write_all(file, newc.padding(size_bytes), where="overlay")
            for small in files:
                entry = newc.render_entry(f"vnfs/{small.name}", small.mode, small.data)
                write_all(file, entry, where=small.name)
            write_all(file, newc.render_trailer(), where="initrd")
    except BaseException:
        path.unlink()
        raise


def write_capsule_directory(
    directory: Path,
    capsule: VerifiedCapsule,
    fetcher: Fetches,
    *,
    overlay: Optional[Overlay],
    files: "List[SmallFile]",
) -> None:
    """Write what a combined initrd has below ``vnfs/`` into *directory*, for a pivot.

    Raises:
        VerificationError: a payload is not what was signed.
        NetworkError: a payload cannot be had.
    """
    (directory / "layers").mkdir(parents=True)
    (directory / "site").mkdir()
    for name, where, layer in layer_files(capsule):
        with open_raw(directory / "layers" / name) as file:
            fetcher.fetch_into(file, layer, where=where)
    if overlay:
        with open_raw(directory / "overlay.tar", mode=MODE_SECRET) as file:
            write_all(file, overlay.data, where="overlay")
    for small in files:
        with open_raw(directory / small.name, mode=small.mode) as file:
            write_all(file, small.data, where=small.name)


def open_raw(path: Path, *, mode: int = MODE_SECRET) -> BinaryIO:
    """Open the new file *path* without a buffer: what does not fit is told where it happens."""
    path.touch(mode=mode & 0o777)
    return path.open("w+b", buffering=0)
