"""Root trees: what is in one, and how what time, chance and the host left there is taken out."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

# What is left behind, as globs of paths, and secrets, which every node would share. Made again at
# boot or by the next package run where anybody needs it.
REMOVED = (
    "etc/*-",  # backups of passwd, shadow and the like
    "etc/.pwd.lock",
    "etc/apt/sources.list.d/*.sources",  # names mkosi's mirrors
    "etc/munge/munge.key",
    "etc/ssh/ssh_host_*_key",
    "etc/ssh/ssh_host_*_key.pub",
    "etc/ssl/certs/ssl-cert-snakeoil.pem",
    "etc/ssl/private/*",
    "root/.bash_history",
    "root/.wget-hsts",
    "var/cache/apt/*",
    "var/cache/debconf/*-old",
    "var/cache/fontconfig/*",
    "var/cache/ldconfig/aux-cache",
    "var/cache/man/*",
    "var/lib/apt/extended_states",
    "var/lib/apt/lists/*",
    "var/lib/dpkg/*-old",
    "var/lib/dpkg/lock*",
    "var/lib/dpkg/triggers/Lock",
    "var/lib/dpkg/updates/*",
    "var/lib/systemd/credential.secret",
    "var/lib/systemd/random-seed",
)
EMPTIED = ("run", "tmp", "var/tmp")
"""Directories of which nothing stays."""
UPDATED = ("etc/.updated", "var/.updated")
"""Files whose time tells systemd that nothing is to be brought up to date at boot."""
LOGS = "var/log"
"""A directory of which only directories stay."""

_ACL = "system.posix_acl_"
_OVERLAY = ("trusted.overlay.", "user.overlay.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A path of a tree, without its content."""

    path: str
    """relative to the root; the root itself is ``.``"""
    mode: int
    """with the bits of the file's type, as :mod:`stat` reads them"""
    uid: int
    gid: int
    mtime: int
    size_bytes: int
    target: str = ""
    """of a symbolic link"""
    device: int = 0
    """of a device node"""
    inode: int = 0
    """the same number: the same file by another name"""
    xattrs: Mapping[str, bytes] = field(default_factory=dict)


def list_tree(root: Path) -> list[Entry]:
    """Return what is in the tree *root*, sorted by path, the root itself first."""
    return [_make_entry(root, "."), *(_make_entry(root, path) for path in _walk(root, ""))]


def normalise(root: Path, *, epoch: int) -> None:
    """Take out of the tree *root* what differs between two builds of the same, and secrets.

    Times are cut to *epoch*. What a node makes on its own at boot, it makes.
    """
    for glob in REMOVED:
        for path in sorted(root.glob(glob)):
            _remove(path)
    for name in EMPTIED:
        if (root / name).is_dir() and not (root / name).is_symlink():
            for path in sorted((root / name).iterdir()):
                _remove(path)
    _remove_logs(root / LOGS)
    _clear_machine_id(root)
    for name in UPDATED:
        if (root / name).parent.is_dir():
            (root / name).write_bytes(b"")
            (root / name).chmod(0o644)
            os.utime(root / name, (epoch, epoch))
    _strip_xattrs(root)
    cut_times(root, epoch=epoch)


def cut_times(root: Path, *, epoch: int) -> None:
    """Give directories and links below *root* the time *epoch*; files too, unless theirs is older.

    A file keeps an older time: Python compares its caches with it.
    """
    for path in _walk(root, ""):
        _cut_time(root / path, epoch)
    _cut_time(root, epoch)


def _cut_time(path: Path, epoch: int) -> None:
    found = path.lstat()
    time = min(int(found.st_mtime), epoch) if stat.S_ISREG(found.st_mode) else epoch
    if found.st_mtime_ns != time * 10**9:
        os.utime(path, (time, time), follow_symlinks=False)


def _walk(root: Path, below: str) -> Iterator[str]:
    with os.scandir(root / below) as found:
        entries = sorted(found, key=lambda entry: os.fsencode(entry.name))
    for entry in entries:
        path = f"{below}/{entry.name}" if below else entry.name
        yield path
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(root, path)


def _make_entry(root: Path, path: str) -> Entry:
    full = root / path
    found = full.lstat()
    return Entry(
        path=path,
        mode=found.st_mode,
        uid=found.st_uid,
        gid=found.st_gid,
        mtime=int(found.st_mtime),
        size_bytes=found.st_size if stat.S_ISREG(found.st_mode) else 0,
        target=str(full.readlink()) if stat.S_ISLNK(found.st_mode) else "",
        device=found.st_rdev,
        inode=found.st_ino,
        xattrs={
            name: os.getxattr(full, name, follow_symlinks=False)
            for name in sorted(os.listxattr(full, follow_symlinks=False))
        },
    )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _remove_logs(directory: Path) -> None:
    for path in sorted(directory.rglob("*")) if directory.is_dir() else []:
        if path.is_symlink() or not path.is_dir():
            path.unlink()


def _clear_machine_id(root: Path) -> None:
    # Empty, and not "uninitialized": that would mean a first boot, with its questions.
    path = root / "etc/machine-id"
    if path.parent.is_dir():
        path.unlink(missing_ok=True)
        path.write_bytes(b"")
        path.chmod(0o444)
    dbus = root / "var/lib/dbus/machine-id"
    if dbus.is_file() and not dbus.is_symlink():
        dbus.unlink()


def _strip_xattrs(root: Path) -> None:
    # squashfs stores no POSIX ACLs; overlayfs' own marks would mean other things on a node.
    for path in _walk(root, ""):
        for name in os.listxattr(root / path, follow_symlinks=False):
            if name.startswith((_ACL, *_OVERLAY)):
                os.removexattr(root / path, name, follow_symlinks=False)
