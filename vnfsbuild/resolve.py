"""The lock beside a recipe: loaded, made where there is none, renewed on demand."""

from __future__ import annotations

import difflib
import errno
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vnfsbuild.builder import verify_builder
from vnfsbuild.errors import InputError, VnfsbuildError
from vnfsbuild.files import read_bounded, write_atomic
from vnfsbuild.inputs import find_stale, find_stale_base
from vnfsbuild.lock import (
    MAX_BYTES,
    Lock,
    LockedBase,
    digest_of_lock,
    lay_over,
    parse_lock,
    render_lock,
)
from vnfsbuild.recipefiles import LoadedRecipe as LoadedRecipe  # part of what this module offers
from vnfsbuild.recipefiles import load_recipe as load_recipe
from vnfsbuild.recipefiles import source_paths as source_paths

if TYPE_CHECKING:
    from vnfsbuild.newlock import Request, Update

logger = logging.getLogger(__name__)


def find_unfit(loaded: LoadedRecipe) -> list[str]:
    """Return why a build would not take the lock beside the recipe as it is; nothing: it would.

    Raises:
        InputError: what is there is no lock.
    """
    path = loaded.lock_path
    if not path.exists():
        return [f"{path}: there is none"]
    lock = load_lock(path)
    reasons = find_unfit(loaded.base) if loaded.base else []
    stale = _find_stale(lock, loaded)
    reasons += [f"{path}: made from another recipe: {reason}" for reason in stale]
    reasons += [f"{path}: {reason}" for reason in _find_stale_base(lock, loaded)]
    try:
        verify_builder(lock.builder, where=str(path), recipe=str(loaded.directory))
    except InputError as error:
        reasons.append(error.message)
    return reasons


def load_or_make_lock(
    loaded: LoadedRecipe, *, cache: Path, progress: Callable[[str], None] = logger.info
) -> Lock:
    """Return the lock beside the recipe; when there is none, make one.

    Raises:
        InputError: the lock is of another recipe, and the message says what was changed; or it is
            for another builder than this program.
        VnfsbuildError: it cannot be made: a mirror fails.
    """
    path = loaded.lock_path
    if loaded.base:
        load_or_make_lock(loaded.base, cache=cache, progress=progress)
    if not path.exists():
        return save_new_lock(loaded, cache=cache, progress=progress)
    lock = load_lock(path)
    stale = _find_stale(lock, loaded)
    moved = _find_stale_base(lock, loaded)
    if moved:
        option = "--rebase " if loaded.base else ""
        raise InputError(
            f"{path}: {'; '.join([*moved, *stale])}",
            hint=f"vnfsbuild lock {option}{loaded.directory}",
        )
    if stale:
        raise InputError(
            f"{path}: made from another recipe: {'; '.join(stale)}",
            hint=f"vnfsbuild lock {loaded.directory}",
        )
    verify_builder(lock.builder, where=str(path), recipe=str(loaded.directory))
    return lock


def load_locks(loaded: LoadedRecipe) -> tuple[Lock, ...]:
    """Return the locks of *loaded* and all that it is built upon, the undermost first.

    Raises:
        InputError: one is missing, or none.
    """
    return tuple(load_lock(item.lock_path) for item in loaded.chain)


def fetch_chain(
    loaded: LoadedRecipe, locks: Sequence[Lock], *, cache: Path, mirrors: Sequence[str] = ()
) -> int:
    """Bring all packages of *locks*, tools too, into *cache*; return how many were missing.

    *locks* are those of the chain of *loaded*, the undermost first; *mirrors* are asked first.

    Raises:
        VnfsbuildError: a package cannot be had; what was fetched until then stays.
    """
    from vnfsbuild.packages import fetch_locked
    from vnfsbuild.sources.origin import make_origin

    count = 0
    for item, lock in zip(loaded.chain, locks, strict=True):
        origin = make_origin(item.recipe, item.directory, mirrors=mirrors)
        wanted = {one.sha256: one for one in (*lock.packages, *lock.tools)}
        count += fetch_locked(list(wanted.values()), cache=cache, origin=origin)
    return count


def find_locked_base(loaded: LoadedRecipe) -> LockedBase | None:
    """Return what a lock of *loaded* has to say of its base today; None where it has none.

    Raises:
        InputError: the base has no lock.
    """
    if loaded.base is None:
        return None
    lock = load_lock(loaded.base.lock_path)
    return LockedBase(name=loaded.base.recipe.name, serial=lock.serial, digest=digest_of_lock(lock))


def _find_stale(lock: Lock, loaded: LoadedRecipe) -> list[str]:
    # The base is told apart: another command helps.
    return find_stale(
        lock, recipe=loaded.digest, files=loaded.files, keys=loaded.keys, base=lock.base
    )


def _find_stale_base(lock: Lock, loaded: LoadedRecipe) -> list[str]:
    if loaded.base and not loaded.base.lock_path.exists():
        return [f"its base has no lock: {loaded.base.lock_path}"]
    return find_stale_base(lock, find_locked_base(loaded))


def save_new_lock(
    loaded: LoadedRecipe, *, cache: Path, progress: Callable[[str], None] = logger.info
) -> Lock:
    """Write a new lock beside the recipe and return it; see :func:`make_lock`.

    Raises:
        VnfsbuildError: a mirror fails, or the packages do not go together; the old lock stays.
    """
    # Most builds find a lock: solvers and what they take are loaded when there is none.
    from vnfsbuild.childlock import make_lock

    if loaded.base:
        load_or_make_lock(loaded.base, cache=cache, progress=progress)
    request = make_request(loaded, cache=cache, progress=progress)
    lock = make_lock(request)
    if lock != request.before:
        save_lock(lock, loaded)
    return lock


def make_request(
    loaded: LoadedRecipe,
    *,
    cache: Path,
    update: Update | None = None,
    allow_older: bool = False,
    rebase: bool = False,
    progress: Callable[[str], None] = logger.info,
) -> Request:
    """Return what a new lock of *loaded* is made from today, the lock beside it among that.

    *rebase*: its base may be another than it was.

    Raises:
        InputError: the lock is none; or *update* names a package that is nowhere in it; or the base
            cannot be built upon, or is another than it was.
    """
    from vnfsbuild.newlock import KEEP, Request

    update = update or KEEP
    path = loaded.lock_path
    before = load_lock(path) if path.exists() else None
    bases = _load_bases(loaded, before, rebase=rebase)
    known = lay_over([*bases, before]) if bases and before else before
    verify_names(update.names, known, where=str(path))
    return Request(
        loaded=loaded,
        bases=bases,
        base=find_locked_base(loaded),
        cache=cache,
        before=before,
        update=update,
        allow_older=allow_older,
        now=int(time.time()),
        progress=progress,
    )


def _load_bases(loaded: LoadedRecipe, before: Lock | None, *, rebase: bool) -> tuple[Lock, ...]:
    if loaded.base is None:
        if rebase:
            raise InputError(f"{loaded.directory}: has no base to be laid upon anew")
        return ()
    unfit = find_unfit(loaded.base)
    if unfit:
        hint = f"vnfsbuild lock {loaded.base.directory}"
        raise InputError(f"its base cannot be built upon: {'; '.join(unfit)}", hint=hint)
    if before and not rebase and (moved := _find_stale_base(before, loaded)):
        hint = f"vnfsbuild lock --rebase {loaded.directory}"
        raise InputError(f"{loaded.lock_path}: {'; '.join(moved)}", hint=hint)
    return load_locks(loaded.base)


def verify_names(names: Sequence[str], before: Lock | None, *, where: str) -> None:
    """Raise unless *names* are of packages that *before* locks.

    Raises:
        InputError: they are not; near names are told.
    """
    if names and before is None:
        raise InputError(f"{where}: no such lock, expected one to update {', '.join(names)} in")
    known = {item.name for item in (*before.packages, *before.tools)} if before else set()
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), 3)
            meant = f"; near: {', '.join(near)}" if near else ""
            raise InputError(f"{where}: locks no package {name!r}{meant}")


def save_lock(lock: Lock, loaded: LoadedRecipe) -> None:
    """Write *lock* beside its recipe.

    Raises:
        InputError: it may not be written there.
        VnfsbuildError: the disk is full.
    """
    try:
        write_atomic(loaded.lock_path, render_lock(lock).encode())
    except OSError as error:
        told = f"{loaded.lock_path}: cannot be written: {error.strerror}"
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            hint = f"copy the recipe to a place of yours: cp -r {loaded.directory} ."
            raise InputError(told, hint=hint) from error
        raise VnfsbuildError(told) from error


def load_lock(path: Path) -> Lock:
    """Return the lock in the file *path*.

    Raises:
        InputError: it is none.
    """
    data = read_bounded(path, limit_bytes=MAX_BYTES)
    return parse_lock(data.decode("utf-8", "replace"), where=str(path))
