"""Tools trees: the programs that make bytes, from locked packages and not from the host.

A tree is unpacked from Debian packages by libarchive, so that any host can make it; it is used in
place, never installed. "build" is what mkosi and the packers need, "lab" is what virtual nodes do.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vnfsbuild.digest import Digest, digest_of, render_json
from vnfsbuild.errors import VnfsbuildError
from vnfsbuild.files import locked, write_atomic
from vnfsbuild.lock import LockedPackage, sort_packages
from vnfsbuild.packages import fetch_locked, package_path
from vnfsbuild.sandbox import tree_argv as tree_argv  # part of what this module offers
from vnfsbuild.sources import deb
from vnfsbuild.sources.apt import Apt, find_downloads, prepare, solve, update
from vnfsbuild.sources.mirror import (
    capture_network_settings,
    find_archive,
    make_repositories,
)

logger = logging.getLogger(__name__)

RELEASE = "trixie"
ARCHITECTURE = "amd64"


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """What a named tree holds."""

    packages: tuple[str, ...]
    """with all that they depend on"""
    alone: tuple[str, ...] = ()
    """without"""
    links: tuple[tuple[str, str], ...] = ()
    """path → target: what the alternatives system would have made"""
    format: int = 1
    """grows when trees are unpacked in another way"""


KINDS = {
    "build": Kind(
        # udev: in trixie systemd-hwdb is there, and images without hwdb.bin come out otherwise.
        packages=(
            "apt", "base-files", "bash", "busybox-static", "coreutils", "cpio", "dash",
            "debianutils", "diffutils", "dpkg", "erofs-utils", "findutils", "grep", "gzip", "kmod",
            "libc-bin", "libseccomp2", "mawk", "mount", "openssl", "passwd", "sed",
            "squashfs-tools", "systemd", "tar", "udev", "util-linux", "xz-utils", "zstd",
        ),
        alone=("mkosi",),
        links=(("usr/bin/awk", "mawk"), ("usr/bin/sh", "dash")),
    ),
    "lab": Kind(
        packages=("ipxe", "ipxe-qemu", "ovmf", "qemu-system-x86", "seabios"),
    ),
}  # fmt: skip


def ensure_tools_tree(
    name: str, cache: Path, *, progress: Callable[[str], None] = logger.info
) -> Path:
    """Return the tools tree *name*, made from today's packages when *cache* has none.

    Raises:
        VnfsbuildError: packages cannot be had; nothing half-made is left.
    """
    kind = KINDS[name]
    note = cache / "tools" / f"{name}.json"
    with locked(cache / "tools" / f".{name}.lock"):
        packages = _load_packages(note, kind)
        if packages is None:
            progress(f"tools tree {name}: choosing packages")
            packages = resolve_tools(name, cache)
            found = {"kind": kind_digest(kind), "packages": [asdict(item) for item in packages]}
            write_atomic(note, render_json(found))
        return _ensure(name, cache, packages, progress)


def load_tools(name: str, cache: Path) -> tuple[LockedPackage, ...]:
    """Return the packages that the tree *name* in *cache* consists of; empty when there is none."""
    return tuple(_load_packages(cache / "tools" / f"{name}.json", KINDS[name]) or ())


def ensure_locked_tree(
    name: str,
    cache: Path,
    packages: Sequence[LockedPackage],
    *,
    progress: Callable[[str], None] = logger.info,
) -> Path:
    """Return a tools tree of exactly *packages*, made when *cache* has none.

    Raises:
        VnfsbuildError: packages cannot be had; nothing half-made is left.
    """
    with locked(cache / "tools" / f".{name}.lock"):
        return _ensure(name, cache, packages, progress)


def resolve_tools(name: str, cache: Path) -> list[LockedPackage]:
    """Return the packages that a new tree *name* would have, as the mirror stands today.

    Raises:
        VnfsbuildError: the mirror fails, or the host has no apt.
    """
    kind = KINDS[name]
    archive = find_archive()
    apt = Apt(
        directory=cache / "apt" / f"tools-{name}",
        repositories=make_repositories(archive, RELEASE, ("main",)),
        architecture=ARCHITECTURE,
    )
    with locked(cache / "apt" / f".tools-{name}.lock"):
        prepare(apt, settings=capture_network_settings())
        update(apt)
        chosen = solve(apt, kind.packages)
        chosen += find_downloads(apt, kind.alone) if kind.alone else []
    return list(sort_packages(choice.package for choice in chosen))


def kind_digest(kind: Kind) -> Digest:
    """Return the digest of what a tree shall hold: another one means another tree."""
    return digest_of(render_json(asdict(kind)))


def _ensure(
    name: str, cache: Path, packages: Sequence[LockedPackage], progress: Callable[[str], None]
) -> Path:
    kind = KINDS[name]
    wanted = {"kind": kind_digest(kind), "packages": sorted(item.sha256 for item in packages)}
    digest = digest_of(render_json(wanted))
    tree = cache / "tools" / f"{name}-{digest[7:19]}"
    # The directory gets its name when it is whole: that it is there says enough.
    if tree.is_dir():
        return tree
    size_bytes = sum(item.size_bytes for item in packages)
    progress(f"tools tree {name}: {len(packages)} packages, {size_bytes / 1e6:.0f} MB")
    fetch_locked(packages, cache=cache, release=RELEASE)
    work = Path(tempfile.mkdtemp(dir=tree.parent, prefix=f".{name}."))
    try:
        _unpack(cache, packages, work, kind)
        work.chmod(0o755)
        work.rename(tree)
    except OSError as error:
        raise VnfsbuildError(f"{tree}: cannot be made: {error.strerror}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    progress(f"tools tree {name}: {tree}")
    return tree


def _unpack(cache: Path, packages: Sequence[LockedPackage], root: Path, kind: Kind) -> None:
    deb.link_merged(root)
    for item in packages:
        deb.unpack(package_path(cache, item.sha256), root)
    for path, target in kind.links:
        if not (root / path).is_symlink():
            (root / path).symlink_to(target)


def _load_packages(note: Path, kind: Kind) -> list[LockedPackage] | None:
    try:
        found: dict[str, Any] = json.loads(note.read_bytes())
        if found["kind"] != kind_digest(kind):
            return None
        return [LockedPackage(**item) for item in found["packages"]]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        # No note, or one of another version of this program: choose again.
        return None
