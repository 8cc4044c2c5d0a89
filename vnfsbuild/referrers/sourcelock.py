"""The lock inside a source payload: what a capsule was made of."""

from __future__ import annotations

import tarfile
from typing import BinaryIO

from vnfsbuild.errors import InputError, VerificationError
from vnfsbuild.lock import MAX_BYTES, Lock, digest_of_lock, lay_over, parse_lock
from vnfsbuild.manifest import Config
from vnfsbuild.recipe import BASE_FOLDER, LOCK_FILE


def read_source_lock(source: BinaryIO, config: Config, *, where: str) -> Lock:
    """Return the lock in the source payload that *source* holds, whose bytes are verified.

    Raises:
        VerificationError: there is none in it, or it is that of another capsule than the one with
            this *config*; *where* names the capsule.
    """
    where = f"{where}: source"
    try:
        with tarfile.open(fileobj=source, mode="r:") as tar:
            locks = [_read_lock(tar, LOCK_FILE, where=where)]
            name = LOCK_FILE
            while base := locks[-1].base:
                name = f"{BASE_FOLDER}/{name}"
                locks.append(_read_lock(tar, name, where=where))
                if digest_of_lock(locks[-1]) != base.digest:
                    raise VerificationError(f"{where}: {name}: not the lock that is built upon")
    except (tarfile.TarError, EOFError) as error:
        raise VerificationError(f"{where}: found no {LOCK_FILE}: {error}") from error
    lock = lay_over(locks[::-1])
    found = (lock.serial, lock.epoch, f"{lock.distribution} {lock.release}", lock.architecture)
    expected = (config.serial, config.epoch, config.distribution, config.architecture)
    if found != expected:
        raise VerificationError(
            f"{where}: {LOCK_FILE}: found serial, epoch, distribution, architecture {found}, "
            f"expected {expected} as in the config"
        )
    return lock


def _read_lock(tar: tarfile.TarFile, name: str, *, where: str) -> Lock:
    try:
        member = tar.extractfile(name)
        data = member.read(MAX_BYTES + 1) if member else b""
    except KeyError as error:
        raise VerificationError(f"{where}: found no {name}: {error}") from error
    if not data or len(data) > MAX_BYTES:
        raise VerificationError(f"{where}: {name}: not a file of at most {MAX_BYTES} bytes")
    try:
        return parse_lock(data.decode("utf-8", "replace"), where=f"{where}: {name}")
    except InputError as error:
        first, _, more = error.message.partition("\n")
        raise VerificationError(first + (" (and more)" if more else "")) from error
