"""The package database of an RPM tree: what it says is compared with the lock, and how it is laid
out follows from what it says.

rpm writes it page by page as packages come in, with a log beside it. It is written anew, in one
piece, by the rpm of the tools tree.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vnfsbuild import tools
from vnfsbuild.errors import VnfsbuildError
from vnfsbuild.lock import LockedPackage
from vnfsbuild.sandbox import sandbox_argv

DATABASES = ("usr/lib/sysimage/rpm", "var/lib/rpm")
"""Where distributions keep it."""
FILE = "rpmdb.sqlite"
LEFT_BEHIND = (".rpm.lock", f"{FILE}-shm", f"{FILE}-wal")

_FORMAT = "%{NAME}\\t%|EPOCH?{%{EPOCH}:}|%{VERSION}-%{RELEASE}\\t%{ARCH}\\n"


def settle_database(root: Path, packages: Iterable[LockedPackage], *, tree: Path) -> None:
    """Bring the package database of the tree *root* into order, by rpm of the tools tree *tree*.

    Raises:
        VnfsbuildError: there is none, or what is installed is not *packages*.
    """
    database = find_database(root)
    verify_installed(_list_installed(root, database, tree), packages)
    inside = f"/{database.relative_to(root)}"
    tools.run(
        [*_rpm_argv(root, tree), "rpmdb", f"--root={root}", f"--dbpath={inside}", "--rebuilddb"],
        env=_ENV,
    )
    for name in LEFT_BEHIND:
        (database / name).unlink(missing_ok=True)


def find_database(root: Path) -> Path:
    """Return the directory of the package database of the tree *root*.

    Raises:
        VnfsbuildError: it has none that we can bring into order.
    """
    for name in DATABASES:
        directory = root / name
        # One of them is often a link to the other.
        if not directory.is_symlink() and (directory / FILE).is_file():
            return directory
    raise VnfsbuildError(
        f"install: the tree has no package database {' or '.join(DATABASES)} with {FILE}",
        hint="its release is older than 9: rpm kept the database in another form then",
    )


def verify_installed(
    rows: Iterable[tuple[str, str, str]], packages: Iterable[LockedPackage]
) -> None:
    """Raise unless *rows*, of name, version and architecture, are *packages* and nothing else.

    Raises:
        VnfsbuildError: a package is missing, or one too many, or another version.
    """
    there = {row for row in rows if row[0] != "gpg-pubkey"}
    wanted = {(item.name, item.version, item.architecture) for item in packages}
    missing, more = sorted(wanted - there), sorted(there - wanted)
    if missing or more:
        told = [f"not installed: {_render(missing)}"] if missing else []
        told += [f"installed: {_render(more)}"] if more else []
        raise VnfsbuildError(
            f"install: not what the lock says: {'; '.join(told)}",
            hint="vnfsbuild lock RECIPE asks the solver again; when that does not help, report it",
        )


_ENV = {"RPM_FORCE_DEBIAN": "1", "HOME": "/tmp"}


def _rpm_argv(root: Path, tree: Path) -> list[str]:
    return sandbox_argv(tree, writable=[root])


def _list_installed(root: Path, database: Path, tree: Path) -> list[tuple[str, str, str]]:
    inside = f"/{database.relative_to(root)}"
    argv = [
        *_rpm_argv(root, tree),
        *("rpm", f"--root={root}", f"--dbpath={inside}", "--query", "--all"),
        f"--queryformat={_FORMAT}",
    ]
    rows = [line.split("\t") for line in tools.capture(argv, env=_ENV).decode().splitlines()]
    return [(name, _plain(version), architecture) for name, version, architecture in rows]


def _plain(version: str) -> str:
    return version.removeprefix("0:")


def _render(rows: Iterable[tuple[str, str, str]]) -> str:
    found = [f"{name} {version}" for name, version, _ in rows]
    return ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
