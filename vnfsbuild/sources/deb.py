"""Debian package files, read by libarchive: no dpkg on the host, and no maintainer script runs."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import libarchive

from vnfsbuild.errors import VnfsbuildError

MERGED = ("bin", "lib", "lib64", "sbin")
"""Directories of the root that are links into /usr on a merged system."""


def unpack(deb: Path, root: Path) -> None:
    """Unpack the files of *deb* below *root*, whose /bin, /lib and so on are links into /usr.

    Owners and the bits of special modes are left out: what is run from here runs as the caller.

    Raises:
        VnfsbuildError: not a Debian package, or a path that leaves *root*.
    """
    with _open_member(deb, "data.tar") as archive:
        for entry in archive:
            path = _place(entry.pathname, deb)
            if path:
                _write_entry(entry, root, path, deb)


def read_files(deb: Path, paths: Collection[str]) -> dict[str, bytes]:
    """Return the content of the files *paths* of *deb*: path below the root → bytes.

    Raises:
        VnfsbuildError: not a Debian package, or one without such a file.
    """
    found: dict[str, bytes] = {}
    with _open_member(deb, "data.tar") as archive:
        for entry in archive:
            path = _place(entry.pathname, deb)
            if path in paths and entry.isreg:
                found[path] = b"".join(entry.get_blocks())
    for path in paths:
        if path not in found:
            raise VnfsbuildError(f"{deb}: holds no file {path}")
    return found


def make_stanza(deb: Path) -> str:
    """Return the stanza of a Packages file that *deb* would have, with Filename ``./FILE``."""
    with _open_member(deb, "control.tar") as archive:
        for entry in archive:
            if _place(entry.pathname, deb) == "control":
                control = b"".join(entry.get_blocks()).decode("utf-8").strip("\n")
                break
        else:
            raise VnfsbuildError(f"{deb}: holds no control file")
    with deb.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    size_bytes = deb.stat().st_size
    return f"{control}\nFilename: ./{deb.name}\nSize: {size_bytes}\nSHA256: {sha256}\n"


def link_merged(root: Path) -> None:
    """Make /usr below *root* and the links into it."""
    for name in MERGED:
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(f"usr/{name}")


@contextmanager
def _open_member(deb: Path, stem: str) -> Iterator[Any]:
    """Open the compressed tar *stem* inside *deb*."""
    try:
        with libarchive.file_reader(str(deb), "ar") as outer:
            for member in outer:
                if member.pathname.rstrip("/").startswith(stem):
                    data = b"".join(member.get_blocks())
                    break
            else:
                raise VnfsbuildError(f"{deb}: not a Debian package: holds no {stem}")
        with libarchive.memory_reader(data, "tar") as archive:
            yield archive
    except libarchive.ArchiveError as error:
        raise VnfsbuildError(f"{deb}: not a Debian package: {error}") from error


def _place(name: str, deb: Path) -> str:
    """Return *name* as a path below the root, through the links of a merged /usr."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise VnfsbuildError(f"{deb}: path {name!r} leaves the tree")
    if parts and parts[0] in MERGED:
        # base-files brings the links themselves, which are there already.
        parts = ["usr", *parts] if len(parts) > 1 else []
    return "/".join(parts)


def _write_entry(entry: Any, root: Path, name: str, deb: Path) -> None:
    path = root / name
    if entry.isdir:
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if entry.issym:
        path.symlink_to(entry.linkpath)
    elif entry.islnk:
        os.link(root / _place(entry.linkpath, deb), path)
    elif entry.isreg:
        with path.open("wb") as file:
            for block in entry.get_blocks():
                file.write(block)
            os.fchmod(file.fileno(), stat.S_IMODE(entry.mode) & 0o755)
        os.utime(path, (entry.mtime, entry.mtime))
