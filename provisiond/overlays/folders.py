"""Overlays as folders: read those that come with us, and the site's."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from provisiond.overlays.files import Entry, Overlay, OverlayFile, make_overlay
from provisiond.overlays.render import MAX_OVERLAY_BYTES
from vnfsbuild.errors import InputError

BUILT_IN = Path(__file__).resolve().parent.parent / "builtin"
DESCRIPTION = "overlay.toml"
FILES = "files"
SCRIPTS = "scripts"
PLAIN_FILES = "overlay.files"
"""What the overlay of the configured directory of plain files is called."""
_DIRECTORY_MODE = 0o755
_MAX_TOML_BYTES = 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """The overlays that there are."""

    overlays: dict[str, Overlay] = field(default_factory=dict)
    """By name. A folder of the site stands in place of a built-in one of its name."""
    plain: Overlay | None = None
    """Those of the directory ``overlay.files``: for all nodes."""
    faults: dict[str, str] = field(default_factory=dict)
    """Why an overlay of this name is not there, or not as its folder is now."""
    stamp: tuple[Any, ...] = field(default=(), compare=False)
    """Of the files that it was read from: while it is the same, they need not be read again."""


def load_overlays(directory: Path | None, plain: Path | None, *, before: Loaded) -> Loaded:
    """Return the overlays of *directory*, of the directory *plain*, and the built-in ones.

    One that cannot be read stays as it was *before*, and its fault is told.
    """
    stamp = (_stamp(directory), _stamp(plain))
    if stamp == before.stamp:
        return before
    built_in, built_in_faults = _load_built_in()
    overlays, faults = dict(built_in), dict(built_in_faults)
    if directory is not None and directory.is_dir():
        own, own_faults = _load_all(directory, built_in=False)
        for name in own_faults:
            if name in before.overlays:
                own[name] = before.overlays[name]
            else:
                overlays.pop(name, None)
        overlays |= own
        faults |= own_faults
    try:
        found = None if plain is None else _load_plain(plain)
    except InputError as error:
        found, faults[PLAIN_FILES] = before.plain, error.message
    return Loaded(overlays=dict(sorted(overlays.items())), plain=found, faults=faults,
                  stamp=stamp)  # fmt: skip


def load_overlay_files(directory: Path) -> tuple[OverlayFile, ...]:
    """Return the files and links below *directory*, sorted; directories that are as they are made.

    Raises:
        InputError: it cannot be read, holds anything else, or is too large for an overlay.
    """
    return tuple(file for file in _load_files(directory) if not file.is_directory)


@cache
def _load_built_in() -> tuple[dict[str, Overlay], dict[str, str]]:
    """Return those that come with us: they do not change while we run."""
    return _load_all(BUILT_IN, built_in=True)


def _stamp(directory: Path | None) -> tuple[Any, ...]:
    """Return what changes when anything below *directory* does."""
    if directory is None:
        return ()
    found: list[Any] = [str(directory)]
    for folder, names, files in os.walk(directory):
        names.sort()
        for name in (".", *sorted(files)):
            try:
                status = os.lstat(os.path.join(folder, name))  # noqa: PTH118 - a thousand times
            except OSError:
                continue
            found.append((folder, name, status.st_mode, status.st_ino, status.st_size,
                          status.st_mtime_ns))  # fmt: skip
    return tuple(found)


def _load_all(directory: Path, *, built_in: bool) -> tuple[dict[str, Overlay], dict[str, str]]:
    found: dict[str, Overlay] = {}
    faults: dict[str, str] = {}
    try:
        folders = sorted(path for path in directory.iterdir() if path.is_dir())
    except OSError as error:
        return {}, {str(directory): f"{error.filename}: {error.strerror}"}
    for folder in folders:
        if folder.name.startswith((".", "_")):
            continue
        try:
            found[folder.name] = load_overlay(folder, built_in=built_in)
        except InputError as error:
            faults[folder.name] = error.message
    return found, faults


def load_overlay(folder: Path, *, built_in: bool = False) -> Overlay:
    """Return the overlay that *folder* is.

    Raises:
        InputError: with every fault that it has.
    """
    description = folder / DESCRIPTION
    files = folder / FILES
    scripts = folder / SCRIPTS
    try:
        if not description.is_file() and not files.is_dir():
            raise InputError(f"{folder}: found neither {DESCRIPTION} nor {FILES}/, expected an "
                             "overlay")  # fmt: skip
        toml = ""
        if description.is_file():
            if description.stat().st_size > _MAX_TOML_BYTES:
                raise InputError(f"{description}: more than {_MAX_TOML_BYTES} bytes")
            toml = description.read_text(encoding="utf-8")
        return make_overlay(
            folder.name,
            toml,
            _load_files(files, whatever_umask=built_in) if files.is_dir() else (),
            {path.name: path.read_bytes() for path in scripts.iterdir() if path.is_file()}
            if scripts.is_dir() else {},
            built_in=built_in,
            where=str(folder),
        )  # fmt: skip
    except OSError as error:
        raise InputError(f"{error.filename}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{description}: found bytes that are not UTF-8") from error


def _load_plain(directory: Path) -> Overlay:
    entries = tuple(Entry(file=file, where=file.path) for file in load_overlay_files(directory))
    return Overlay(name=PLAIN_FILES, description="plain files for all nodes", entries=entries,
                   where=str(directory))  # fmt: skip


def _load_files(directory: Path, *, whatever_umask: bool = False) -> Iterator[OverlayFile]:
    """Yield what is below *directory*, sorted.

    *whatever_umask*: of modes only counts whether the owner may execute the file.
    """
    size_bytes = 0
    try:
        for path in sorted(directory.rglob("*")):
            status = path.lstat()
            name = path.relative_to(directory).as_posix()
            mode = stat.S_IMODE(status.st_mode)
            if stat.S_ISLNK(status.st_mode):
                yield OverlayFile(path=name, mode=0o777, link=str(path.readlink()))
            elif stat.S_ISREG(status.st_mode):
                size_bytes += status.st_size
                if size_bytes > MAX_OVERLAY_BYTES:
                    raise InputError(
                        f"{directory}: more than {MAX_OVERLAY_BYTES} bytes, too large to lay over"
                    )
                if whatever_umask:
                    mode = 0o755 if mode & stat.S_IXUSR else 0o644
                yield OverlayFile(path=name, data=path.read_bytes(), mode=mode)
            elif stat.S_ISDIR(status.st_mode):
                yield OverlayFile(path=name, mode=_DIRECTORY_MODE, is_directory=True)
            else:
                raise InputError(f"{path}: found a special file, expected files and links")
    except OSError as error:
        raise InputError(f"{error.filename}: {error.strerror}") from error
