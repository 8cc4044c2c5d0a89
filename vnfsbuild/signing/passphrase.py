"""Passphrases of keys: from the file that was named, or from whoever sits at the terminal.

Never from the command line, which every user of the machine can read, and never asked for where
there is no terminal.
"""

from __future__ import annotations

import getpass
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from vnfsbuild.errors import InputError
from vnfsbuild.files import read_bounded

FILE_VARIABLE = "VNFS_PASSPHRASE_FILE"
"""Names the file. ``--passphrase-file`` sets it."""

MAX_BYTES = 1024
TRIES = 3
"""How often a person may mistype."""

_HINT = f"vnfsbuild --passphrase-file FILE, or {FILE_VARIABLE}"
_read_before: dict[str, bytes] = {}
"""What came out of pipes, which can be read only once."""


def offer_passphrases(where: str) -> Iterator[bytes]:
    """Yield what may be the passphrase of the key in the file *where*, until one opened it.

    Raises:
        InputError: no file was named, and there is no terminal; or the file cannot be used.
    """
    path = os.environ.get(FILE_VARIABLE)
    if path:
        yield _read_file(Path(path))
        return
    _require_terminal(where)
    for _ in range(TRIES):
        yield getpass.getpass(f"passphrase of {where}: ").encode()


def choose_passphrase(name: str) -> bytes:
    """Return the passphrase for the new key *name*; at the terminal it is asked for twice.

    Raises:
        InputError: no file was named, and there is no terminal; or it is empty, or mistyped.
    """
    path = os.environ.get(FILE_VARIABLE)
    if path:
        return _read_file(Path(path))
    _require_terminal(f"key {name}")
    chosen = getpass.getpass(f"new passphrase for the key {name}: ")
    if not chosen:
        raise InputError(f"key {name}: the passphrase is empty", hint="or leave --passphrase out")
    if getpass.getpass("once more: ") != chosen:
        raise InputError(f"key {name}: the two passphrases differ; no key was made")
    return chosen.encode()


def _require_terminal(where: str) -> None:
    if not sys.stdin.isatty():
        raise InputError(
            f"{where}: needs a passphrase, and there is no terminal to ask at", hint=_HINT
        )


def _read_file(path: Path) -> bytes:
    known = _read_before.get(os.fspath(path))
    if known is not None:
        return known
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", hint=_HINT) from error
    if stat.S_ISREG(mode) and mode & 0o077:
        raise InputError(
            f"{path}: found mode {mode & 0o777:04o}, expected 0600: others can read the passphrase",
            hint=f"chmod 600 {path}",
        )
    found = read_bounded(path, limit_bytes=MAX_BYTES).removesuffix(b"\n").removesuffix(b"\r")
    if not found or b"\n" in found:
        raise InputError(f"{path}: expected one line, the passphrase")
    if not stat.S_ISREG(mode):
        _read_before[os.fspath(path)] = found
    return found
