"""Vendored repositories: a directory with exactly the packages of a lock, in a mirror's places.

It serves ``fetch`` and ``build`` of that lock as a mirror, from a disk or by any web server, and
apt too: its Release files are not signed, since the lock vouches for every package.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path

from vnfsbuild.digest import digest_of
from vnfsbuild.distributions import tools_kind
from vnfsbuild.errors import InputError, VnfsbuildError
from vnfsbuild.lock import Lock, LockedPackage, LockedRepository
from vnfsbuild.packages import is_rpm_file, load_stanza, package_path
from vnfsbuild.packageset import list_packages
from vnfsbuild.sources.apt import DEBIAN_ARCHITECTURES
from vnfsbuild.sources.createrepo import index_directory
from vnfsbuild.sources.origin import distribution_of, vendored_path
from vnfsbuild.sources.repository import LOCAL
from vnfsbuild.toolstree import ensure_locked_tree


@dataclass(frozen=True, kw_only=True, slots=True)
class Shelf:
    """One suite of the vendored repository."""

    base: str
    """where the repository is: empty for the distribution's"""
    suite: str
    components: tuple[str, ...]


def write_vendored(lock: Lock, directory: Path, *, cache: Path) -> int:
    """Make *directory* a repository of the packages of *lock*, which are in *cache*.

    Returns how many there are. The same lock gives the same bytes.

    Raises:
        InputError: *directory* is there and not empty.
        VnfsbuildError: it cannot be written; nothing is left then.
    """
    if directory.is_dir() and any(directory.iterdir()):
        raise InputError(
            f"{directory}: not empty, expected a new directory",
            hint="name another one, or remove it: it can be made again from the lock",
        )
    packages = list_packages(lock)
    directory.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}."))
    try:
        for item in packages:
            target = work / vendored_path(item)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(package_path(cache, item.sha256), target)
        debs = [item for item in packages if not is_rpm_file(item)]
        stanzas = {item: load_stanza(cache, item) for item in debs}
        for path, text in render_metadata(lock, stanzas).items():
            target = work / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        if len(debs) < len(packages):
            _index_rpms(lock, work, cache=cache)
        work.chmod(0o755)
        work.rename(directory)
    except OSError as error:
        raise VnfsbuildError(f"{directory}: cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return len(packages)


def _index_rpms(lock: Lock, work: Path, *, cache: Path) -> None:
    """Make the directories of RPM packages below *work* repositories."""
    tree = ensure_locked_tree(tools_kind(lock.distribution), cache, lock.tools)
    suites = {item.id: item.suite for item in lock.repositories}
    directories = set()
    for item in lock.packages:
        path = work / vendored_path(item)
        # It stands in the metadata.
        os.utime(path, (lock.epoch, lock.epoch))
        base = "" if distribution_of(item.repository) else item.repository
        directories.add(work / base / suites.get(item.repository, "./"))
    for directory in sorted(directories):
        index_directory(directory, tree=tree, epoch=lock.epoch)


def render_metadata(lock: Lock, stanzas: Mapping[LockedPackage, str]) -> dict[str, str]:
    """Return the Packages and Release files of a vendored repository: path → text."""
    shelves = {item.id: _make_shelf(item) for item in lock.repositories}
    shelves[LOCAL] = Shelf(base=LOCAL, suite="./", components=())
    architecture = DEBIAN_ARCHITECTURES[lock.architecture]
    texts: dict[str, str] = {}
    by_repository = defaultdict(list)
    for item in stanzas:
        by_repository[item.repository].append(item)
    for name in sorted(by_repository):
        shelf = shelves[name]
        indexes: dict[str, list[str]] = {
            _index(shelf, part, architecture): [] for part in shelf.components
        }
        for item in sorted(by_repository[name], key=lambda found: (found.name, found.sha256)):
            index = _index(shelf, _component(item, shelf), architecture)
            indexes.setdefault(index, []).append(_place(stanzas[item], item))
        folder = _folder(shelf)
        rendered = {path: "\n".join(found) for path, found in sorted(indexes.items())}
        texts.update({f"{folder}{path}": text for path, text in rendered.items()})
        texts[f"{folder}Release"] = _render_release(lock, shelf, architecture, rendered)
    return texts


def _make_shelf(item: LockedRepository) -> Shelf:
    base = "" if distribution_of(item.id) else item.id
    return Shelf(base=base, suite=item.suite, components=item.components)


def _folder(shelf: Shelf) -> str:
    base = f"{shelf.base}/" if shelf.base else ""
    if shelf.suite.endswith("/"):
        inner = shelf.suite.removeprefix("./").strip("/")
        return f"{base}{inner}/" if inner else base
    return f"{base}dists/{shelf.suite}/"


def _index(shelf: Shelf, component: str, architecture: str) -> str:
    if not shelf.components:
        return "Packages"
    return f"{component}/binary-{architecture}/Packages"


def _component(item: LockedPackage, shelf: Shelf) -> str:
    """Return which component *item* is of: its path tells, where it is as usual."""
    parts = item.path.split("/")
    named = [part for part in parts[1:3] if part in shelf.components]
    return named[0] if named else next(iter(shelf.components), "")


def _place(stanza: str, item: LockedPackage) -> str:
    lines = [
        f"Filename: {item.path}" if line.startswith("Filename:") else line
        for line in stanza.rstrip("\n").split("\n")
    ]
    return "\n".join(lines) + "\n"


def _render_release(lock: Lock, shelf: Shelf, architecture: str, indexes: Mapping[str, str]) -> str:
    lines = ["Origin: vnfsbuild", "Label: the packages of a lock"]
    if not shelf.suite.endswith("/"):
        lines += [f"Suite: {shelf.suite}", f"Codename: {shelf.suite}"]
    lines.append(f"Date: {formatdate(lock.epoch, usegmt=True).replace('GMT', 'UTC')}")
    lines.append(f"Architectures: all {architecture}")
    if shelf.components:
        lines.append(f"Components: {' '.join(shelf.components)}")
    lines.append("SHA256:")
    for path, text in indexes.items():
        data = text.encode()
        lines.append(f" {digest_of(data).removeprefix('sha256:')} {len(data)} {path}")
    return "\n".join([*lines, ""])
