"""Tools trees: the programs that make bytes, from locked packages and not from the host.

A tree is unpacked from Debian packages by libarchive, so that any host can make it; it is used in
place, never installed. "build" is what mkosi and the packers need, "lab" is what virtual nodes do.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vnfsbuild.digest import Digest, digest_of, render_json
from vnfsbuild.errors import VnfsbuildError
from vnfsbuild.files import locked, write_atomic
from vnfsbuild.lock import LockedPackage, sort_packages
from vnfsbuild.packages import fetch_locked, package_path, save_stanza
from vnfsbuild.sandbox import sandbox_argv
from vnfsbuild.sandbox import tree_argv as tree_argv  # part of what this module offers
from vnfsbuild.sources import deb
from vnfsbuild.sources.apt import Choice
from vnfsbuild.sources.metadata import Verifier, fetch_metadata
from vnfsbuild.sources.mirror import capture_proxies, find_archive
from vnfsbuild.sources.origin import Origin
from vnfsbuild.sources.repository import make_repositories
from vnfsbuild.sources.solution import Solver, Supply, Wish, find_kept, find_solution

logger = logging.getLogger(__name__)

RELEASE = "trixie"
ARCHITECTURE = "amd64"
GPGV = "usr/bin/gpgv"
ABANDONED_SECONDS = 24 * 3600


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


# udev: in trixie systemd-hwdb is there, and images without hwdb.bin come out otherwise.
_BUILD = (
    "apt", "base-files", "bash", "busybox-static", "coreutils", "cpio", "dash",
    "debian-archive-keyring", "debianutils", "diffutils", "dpkg", "erofs-utils",
    "findutils", "gpgv", "grep", "gzip", "kmod", "libc-bin", "libseccomp2", "mawk",
    "mount", "openssl", "passwd", "sed", "squashfs-tools", "systemd", "tar", "udev",
    "util-linux", "xz-utils", "zstd",
)  # fmt: skip
_RPM = ("createrepo-c", "distribution-gpg-keys", "dnf", "rpm")
_LINKS = (("usr/bin/awk", "mawk"), ("usr/bin/sh", "dash"))

KINDS = {
    "build": Kind(packages=_BUILD, alone=("mkosi", "ubuntu-keyring"), links=_LINKS),
    "build-rpm": Kind(packages=(*_BUILD, *_RPM), alone=("mkosi",), links=_LINKS),
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
            packages = _choose_today(name, cache, progress)
            _save_packages(note, kind, packages)
        return _ensure(name, cache, packages, Origin(), progress)


def ensure_locked_tree(
    name: str,
    cache: Path,
    packages: Sequence[LockedPackage],
    *,
    origin: Origin | None = None,
    progress: Callable[[str], None] = logger.info,
) -> Path:
    """Return a tools tree of exactly *packages*, made when *cache* has none.

    Raises:
        VnfsbuildError: packages cannot be had; nothing half-made is left.
    """
    with locked(cache / "tools" / f".{name}.lock"):
        return _ensure(name, cache, packages, origin or Origin(), progress)


def renew_tools_tree(
    name: str,
    cache: Path,
    supply: Supply,
    *,
    origin: Origin,
    progress: Callable[[str], None] = logger.info,
) -> tuple[tuple[LockedPackage, ...], Path]:
    """Return the packages of the tree *name* as *supply* has them, and the tree of them.

    It is the one that :func:`ensure_tools_tree` returns from then on.

    Raises:
        VnfsbuildError: packages cannot be had; nothing half-made is left.
    """
    with locked(cache / "tools" / f".{name}.lock"):
        packages, tree = _renew(name, cache, supply, origin, progress)
        _save_packages(cache / "tools" / f"{name}.json", KINDS[name], packages)
        return packages, tree


def load_tools(name: str, cache: Path) -> tuple[LockedPackage, ...]:
    """Return the packages that the tree *name* in *cache* consists of; empty when there is none."""
    return _load_packages(cache / "tools" / f"{name}.json", KINDS[name]) or ()


def find_kept_tools(
    name: str, kept: tuple[Choice, ...], *, tree: Path, cache: Path
) -> tuple[LockedPackage, ...] | None:
    """Return which packages of a lock make the tree *name*; None where they are not enough."""
    found = find_kept(_wish(KINDS[name]), Supply(kept=kept), make_solver(cache, ARCHITECTURE, tree))
    return sort_packages(item.package for item in found) if found else None


def find_programs_tree(cache: Path) -> Path | None:
    """Return a tree "build" that is there already, and has what metadata is verified with."""
    packages = _load_packages(cache / "tools" / "build.json", KINDS["build"])
    tree = _tree_path("build", cache, packages) if packages else None
    return tree if tree and tree.is_dir() else None


def make_verifier(tree: Path | None) -> Verifier:
    """Return what signatures are verified with: programs and keyrings of *tree*, or the host's."""
    if tree and (tree / GPGV).is_file():
        return Verifier(gpgv=tuple(tree_argv(tree, "gpgv")), root=tree)
    return Verifier(gpgv=("gpgv",), root=Path("/"))


def make_solver(cache: Path, architecture: str, tree: Path | None) -> Solver:
    """Return the apt that is asked: that of *tree*, in its sandbox, or the host's."""

    def make_prefix(directory: Path) -> tuple[str, ...]:
        return tuple(sandbox_argv(tree, writable=[directory])) if tree else ()

    directory = cache / "apt"
    directory.mkdir(parents=True, exist_ok=True)
    remove_abandoned(directory)
    return Solver(architecture=architecture, directory=directory, make_prefix=make_prefix)


def remove_abandoned(directory: Path) -> None:
    """Remove what solvers that were killed left: nearly 100 MB each."""
    oldest = time.time() - ABANDONED_SECONDS
    for path in directory.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if path.is_dir() and path.stat().st_mtime < oldest:
                shutil.rmtree(path, ignore_errors=True)


def _choose_today(
    name: str, cache: Path, progress: Callable[[str], None]
) -> tuple[LockedPackage, ...]:
    progress(f"tools tree {name}: choosing packages")
    tree = find_programs_tree(cache)
    archive = find_archive(release=RELEASE, roots=(tree,) if tree else ())
    verified = fetch_metadata(
        make_repositories(archive, RELEASE, ("main",)),
        architecture=ARCHITECTURE,
        cache=cache,
        verifier=make_verifier(tree),
        now=int(time.time()),
        least_epochs={},
        proxies=capture_proxies(),
        progress=progress,
    )
    return _renew(name, cache, Supply(verified=verified), Origin(), progress)[0]


def _renew(
    name: str, cache: Path, supply: Supply, origin: Origin, progress: Callable[[str], None]
) -> tuple[tuple[LockedPackage, ...], Path]:
    tree = find_programs_tree(cache)
    packages = _solve(name, cache, supply, tree)
    made = _ensure(name, cache, packages, origin, progress)
    # The answer shall be that of one apt, not of whichever the host has.
    if tree is None and name == "build":
        packages = _solve(name, cache, supply, made)
        made = _ensure(name, cache, packages, origin, progress)
    return packages, made


def _solve(name: str, cache: Path, supply: Supply, tree: Path | None) -> tuple[LockedPackage, ...]:
    found = find_solution(_wish(KINDS[name]), supply, make_solver(cache, ARCHITECTURE, tree))
    for item in found:
        save_stanza(cache, item.package, item.stanza)
    return sort_packages(item.package for item in found)


def _wish(kind: Kind) -> Wish:
    return Wish(steps=(kind.packages,), alone=kind.alone)


def _ensure(
    name: str,
    cache: Path,
    packages: Sequence[LockedPackage],
    origin: Origin,
    progress: Callable[[str], None],
) -> Path:
    tree = _tree_path(name, cache, packages)
    # The directory gets its name when it is whole: that it is there says enough.
    if tree.is_dir():
        return tree
    size_bytes = sum(item.size_bytes for item in packages)
    progress(f"tools tree {name}: {len(packages)} packages, {size_bytes / 1e6:.0f} MB")
    fetch_locked(packages, cache=cache, origin=origin)
    work = Path(tempfile.mkdtemp(dir=tree.parent, prefix=f".{name}."))
    try:
        _unpack(cache, packages, work, KINDS[name])
        work.chmod(0o755)
        work.rename(tree)
    except OSError as error:
        raise VnfsbuildError(f"{tree}: cannot be made: {error.strerror}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    progress(f"tools tree {name}: {tree}")
    return tree


def _tree_path(name: str, cache: Path, packages: Sequence[LockedPackage]) -> Path:
    kind = KINDS[name]
    made_by = {
        "format": kind.format,
        "links": kind.links,
        "packages": sorted(item.sha256 for item in packages),
    }
    return cache / "tools" / f"{name}-{digest_of(render_json(made_by))[7:19]}"


def _unpack(cache: Path, packages: Sequence[LockedPackage], root: Path, kind: Kind) -> None:
    deb.link_merged(root)
    for item in packages:
        deb.unpack(package_path(cache, item.sha256), root)
    for path, target in kind.links:
        if not (root / path).is_symlink():
            (root / path).symlink_to(target)


def _load_packages(note: Path, kind: Kind) -> tuple[LockedPackage, ...] | None:
    try:
        found: dict[str, Any] = json.loads(note.read_bytes())
        if found["kind"] != _kind_digest(kind):
            return None
        return tuple(LockedPackage(**item) for item in found["packages"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        # No note, or one of another version of this program: choose again.
        return None


def _save_packages(note: Path, kind: Kind, packages: Sequence[LockedPackage]) -> None:
    found = {"kind": _kind_digest(kind), "packages": [asdict(item) for item in packages]}
    write_atomic(note, render_json(found))


def _kind_digest(kind: Kind) -> Digest:
    """Return the digest of what a tree shall hold: another one means choosing again."""
    return digest_of(render_json(asdict(kind)))
