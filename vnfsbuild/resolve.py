"""The lock beside a recipe: loaded, made where there is none, renewed on demand."""

from __future__ import annotations

import difflib
import errno
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from vnfsbuild.builder import verify_builder
from vnfsbuild.errors import InputError, VnfsbuildError
from vnfsbuild.files import read_bounded, write_atomic
from vnfsbuild.inputs import find_stale
from vnfsbuild.lock import MAX_BYTES, Lock, parse_lock, render_lock
from vnfsbuild.newlock import KEEP, Request, Update, make_lock
from vnfsbuild.recipefiles import LoadedRecipe as LoadedRecipe  # part of what this module offers
from vnfsbuild.recipefiles import load_recipe as load_recipe
from vnfsbuild.recipefiles import source_paths as source_paths

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
    stale = find_stale(lock, recipe=loaded.digest, files=loaded.files, keys=loaded.keys)
    reasons = [f"{path}: made from another recipe: {reason}" for reason in stale]
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
    if not path.exists():
        return save_new_lock(loaded, cache=cache, progress=progress)
    lock = load_lock(path)
    stale = find_stale(lock, recipe=loaded.digest, files=loaded.files, keys=loaded.keys)
    if stale:
        raise InputError(
            f"{path}: made from another recipe: {'; '.join(stale)}",
            hint=f"vnfsbuild lock {loaded.directory}",
        )
    verify_builder(lock.builder, where=str(path), recipe=str(loaded.directory))
    return lock


def save_new_lock(
    loaded: LoadedRecipe, *, cache: Path, progress: Callable[[str], None] = logger.info
) -> Lock:
    """Write a new lock beside the recipe and return it; see :func:`make_lock`.

    Raises:
        VnfsbuildError: a mirror fails, or the packages do not go together; the old lock stays.
    """
    request = make_request(loaded, cache=cache, progress=progress)
    lock = make_lock(request)
    if lock != request.before:
        save_lock(lock, loaded)
    return lock


def make_request(
    loaded: LoadedRecipe,
    *,
    cache: Path,
    update: Update = KEEP,
    allow_older: bool = False,
    progress: Callable[[str], None] = logger.info,
) -> Request:
    """Return what a new lock of *loaded* is made from today, the lock beside it among that.

    Raises:
        InputError: the lock is none; or *update* names a package that is nowhere in it.
    """
    path = loaded.lock_path
    before = load_lock(path) if path.exists() else None
    verify_names(update.names, before, where=str(path))
    return Request(
        loaded=loaded,
        cache=cache,
        before=before,
        update=update,
        allow_older=allow_older,
        now=int(time.time()),
        progress=progress,
    )


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
