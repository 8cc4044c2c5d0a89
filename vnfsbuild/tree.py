"""Root trees: what is in one, and how what time, chance and the host left there is taken out."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from vnfsbuild.layer import CAPABILITY
from vnfsbuild.layer import Entry as Entry  # what lists consist of

# What is left behind, as globs of paths. Made again at boot, or by the next package run, where
# anybody needs it.
LEFT_BEHIND = (
    "boot/initrd*",  # nodes boot by an initrd of ours
    "etc/*-",  # backups of passwd, shadow and the like
    "etc/.pwd.lock",
    "etc/apt/sources.list.d/*.sources",  # names mkosi's mirrors
    "etc/lvm/archive/*",
    "etc/lvm/backup/*",
    "root/.*_history",
    "root/.cache",
    "root/.lesshst",
    "root/.viminfo",
    "root/.wget-hsts",
    "usr/share/fonts/*/.uuid",
    "usr/share/fonts/*/*/.uuid",
    "usr/share/icons/*/icon-theme.cache",
    "usr/lib/sysimage/rpm/.rpm.lock",
    "usr/lib/sysimage/rpm/rpmdb.sqlite-*",
    "var/backups/*",
    "var/cache/apt/*",
    "var/cache/debconf/*-old",
    "var/cache/debconf/passwords.dat",
    "var/cache/fontconfig/*",
    "var/cache/dnf/*",
    "var/cache/ldconfig/aux-cache",
    "var/cache/libdnf5/*",
    "var/cache/man/*",
    "var/lib/apt/daily_lock",
    "var/lib/apt/extended_states",
    "var/lib/apt/lists/*",
    "var/lib/apt/periodic/*",
    "var/lib/dnf/*",  # the history of what was installed, and when
    "var/lib/dpkg/*-old",
    "var/lib/dpkg/lock*",
    "var/lib/dpkg/triggers/Lock",
    "var/lib/dpkg/updates/*",
    "var/lib/initramfs-tools/*",
    "usr/lib/sysimage/libdnf5/*",
    "var/lib/libdnf5/*",
    "var/lib/logrotate/logrotate.status",
    "var/lib/logrotate/status",
    "var/lib/mlocate/*",
    "var/lib/plocate/*",
    "var/lib/rpm/.rpm.lock",
    "var/lib/rpm/rpmdb.sqlite-*",
    "var/lib/systemd/timers/*",
    "var/lib/systemd/timesync/*",
    "var/lib/ucf/*.[0-9]",
    "var/log/journal/*",  # named by the machine-id
    "var/mail/*",
)
# What must be every node's own: secrets and names that packages made when they were installed.
# A package that makes one that is not here fails the build, since it looks like a secret.
NODES_OWN = (
    "boot/loader/random-seed",
    "etc/bind/rndc.key",
    "etc/cups/ssl/*",
    "etc/dovecot/private/*",
    "etc/exim4/exim.key",
    "etc/hostid",
    "etc/iscsi/initiatorname.iscsi",
    "etc/munge/munge.key",
    "etc/nvme/hostid",
    "etc/nvme/hostnqn",
    "etc/pki/tls/certs/localhost.crt",
    "etc/pki/tls/private/*",
    "etc/ssh/ssh_host_*",
    "etc/ssl/certs/ssl-cert-snakeoil.pem",
    "etc/ssl/private/*",
    "etc/unbound/unbound_*.key",
    "etc/unbound/unbound_*.pem",
    "root/.gnupg",
    "var/lib/NetworkManager/secret_key",
    "var/lib/random-seed",
    "var/lib/systemd/credential.secret",
    "var/lib/systemd/random-seed",
    "var/lib/urandom/random-seed",
)
BACKUPS = (
    ".dpkg-dist", ".dpkg-new", ".dpkg-old", ".dpkg-tmp", ".rpmnew", ".rpmorig", ".rpmsave",
    ".ucf-dist", ".ucf-old", "~",
)  # fmt: skip
"""How the names of files below /etc end that editors and packages put aside."""
EMPTIED = ("run", "tmp", "var/tmp")
"""Directories of which nothing stays."""
UPDATED = ("etc/.updated", "var/.updated")
"""Files whose time tells systemd that nothing is to be brought up to date at boot."""
LOGS = "var/log"
"""A directory of which only directories stay."""

_DAY_SECONDS = 86400
_ACL = "system.posix_acl_"
_OVERLAY = ("trusted.overlay.", "user.overlay.")


def list_tree(root: Path) -> list[Entry]:
    """Return what is in the tree *root*, sorted by path, the root itself first."""
    return [_make_entry(root, "."), *(_make_entry(root, path) for path in _walk(root, ""))]


def normalise(root: Path, *, epoch: int, keep: Sequence[str] = ()) -> None:
    """Take out of the tree *root* what differs between two builds of the same, and secrets.

    Times are cut to *epoch*. What a node makes on its own at boot, it makes. What the globs *keep*
    name stays: a recipe says so of what only looks like a secret.
    """
    for glob in (*LEFT_BEHIND, *NODES_OWN):
        for path in sorted(root.glob(glob)):
            if not is_named(str(path.relative_to(root)), keep):
                _remove(path)
    for name in EMPTIED:
        if (root / name).is_dir() and not (root / name).is_symlink():
            for path in sorted((root / name).iterdir()):
                _remove(path)
    _remove_logs(root / LOGS)
    _remove_backups(root / "etc")
    _remove_snakeoil(root / "etc/ssl/certs")
    _clear_machine_id(root)
    _set_password_days(root / "etc/shadow", epoch)
    for name in UPDATED:
        if (root / name).parent.is_dir():
            (root / name).write_bytes(b"")
            (root / name).chmod(0o644)
            os.utime(root / name, (epoch, epoch))
    _remove_stale_caches(root, epoch)
    _strip_xattrs(root)
    cut_times(root, epoch=epoch)


def settle(root: Path) -> None:
    """Take out of the tree *root* what no list of a tree has, so that a list tells all of it.

    Sockets, extended attributes that no layer keeps, and fractions of seconds.
    """
    for path in ("", *_walk(root, "")):
        full = root / path
        found = full.lstat()
        if stat.S_ISSOCK(found.st_mode):
            full.unlink()
            continue
        for name in os.listxattr(full, follow_symlinks=False):
            if name != CAPABILITY and not name.startswith("security."):
                os.removexattr(full, name, follow_symlinks=False)
        if found.st_mtime_ns % 10**9:
            os.utime(full, (int(found.st_mtime), int(found.st_mtime)), follow_symlinks=False)


def is_named(path: str, globs: Iterable[str]) -> bool:
    """Tell whether one of *globs* names *path*, or a directory that it is in.

    A ``*`` stays within one part of a path.
    """
    parts = path.split("/")
    wanted = [glob.split("/") for glob in globs]
    return any(len(one) <= len(parts) and all(map(fnmatchcase, parts, one)) for one in wanted)


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
    # Strings, not paths: a tree has tens of thousands of them.
    full = f"{root}/{path}"
    found = os.lstat(full)
    return Entry(
        path=path,
        mode=found.st_mode,
        uid=found.st_uid,
        gid=found.st_gid,
        mtime=int(found.st_mtime),
        size_bytes=found.st_size if stat.S_ISREG(found.st_mode) else 0,
        # As it is spelled: a Path would tidy "./x" and "x//y" up.
        target=os.readlink(full) if stat.S_ISLNK(found.st_mode) else "",  # noqa: PTH115
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


def _remove_backups(directory: Path) -> None:
    for path in sorted(directory.rglob("*")) if directory.is_dir() else []:
        if path.name.endswith(BACKUPS) and path.is_file() and not path.is_symlink():
            path.unlink()


def _remove_snakeoil(directory: Path) -> None:
    """Remove the links to the certificate that is gone; they are named by its digest."""
    for path in sorted(directory.iterdir()) if directory.is_dir() else []:
        if path.is_symlink() and path.readlink().name == "ssl-cert-snakeoil.pem":
            path.unlink()


def _set_password_days(shadow: Path, epoch: int) -> None:
    """Say of all accounts that they were made on the day of *epoch*, whatever the clock said."""
    if not shadow.is_file() or shadow.is_symlink():
        return
    rows = [line.split(":") for line in shadow.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        if len(row) > 2 and row[2]:
            row[2] = str(epoch // _DAY_SECONDS)
    text = "".join(f"{':'.join(row)}\n" for row in rows)
    if text != shadow.read_text(encoding="utf-8"):
        shadow.write_text(text, encoding="utf-8")


def _remove_stale_caches(root: Path, epoch: int) -> None:
    """Remove Python's caches that Python would not take: made from what is gone, or has new times.

    A cache names the time of its source, which is cut to *epoch*; packages are older than that.
    """
    for path in _walk(root, ""):
        if not path.endswith(".pyc"):
            continue
        cache = root / path
        if cache.parent.name != "__pycache__" or cache.is_symlink():
            continue
        source = cache.parent.parent / f"{cache.name.partition('.')[0]}.py"
        with cache.open("rb") as file:
            head = file.read(16)
        made_by_digest = len(head) == 16 and bool(head[4] & 1)
        if not os.path.lexists(source):
            cache.unlink()
        elif not made_by_digest and not source.is_symlink():
            time = min(int(source.stat().st_mtime), epoch) & 0xFFFFFFFF
            if head[8:12] != time.to_bytes(4, "little"):
                cache.unlink()


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
