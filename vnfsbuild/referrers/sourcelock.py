"""The lock inside a source payload: what a capsule was made of."""

from __future__ import annotations

import tarfile
from typing import BinaryIO

from vnfsbuild.errors import InputError, VerificationError
from vnfsbuild.lock import MAX_BYTES, Lock, parse_lock
from vnfsbuild.manifest import Config
from vnfsbuild.recipe import LOCK_FILE


def read_source_lock(source: BinaryIO, config: Config, *, where: str) -> Lock:
    """Return the lock in the source payload that *source* holds, whose bytes are verified.

    Raises:
        VerificationError: there is none in it, or it is that of another capsule than the one with
            this *config*; *where* names the capsule.
    """
    where = f"{where}: source"
    try:
        with tarfile.open(fileobj=source, mode="r:") as tar:
            member = tar.extractfile(LOCK_FILE)
            data = member.read(MAX_BYTES + 1) if member else b""
    except (tarfile.TarError, KeyError, EOFError) as error:
        raise VerificationError(f"{where}: found no {LOCK_FILE}: {error}") from error
    if not data or len(data) > MAX_BYTES:
        raise VerificationError(f"{where}: {LOCK_FILE}: not a file of at most {MAX_BYTES} bytes")
    try:
        lock = parse_lock(data.decode("utf-8", "replace"), where=f"{where}: {LOCK_FILE}")
    except InputError as error:
        first, _, more = error.message.partition("\n")
        raise VerificationError(first + (" (and more)" if more else "")) from error
    found = (lock.serial, lock.epoch, f"{lock.distribution} {lock.release}", lock.architecture)
    expected = (config.serial, config.epoch, config.distribution, config.architecture)
    if found != expected:
        raise VerificationError(
            f"{where}: {LOCK_FILE}: found serial, epoch, distribution, architecture {found}, "
            f"expected {expected} as in the config"
        )
    return lock
