"""The stages in their order: recipe and lock become a root tree that is ready to be packed."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from vnfsbuild.errors import InputError
from vnfsbuild.inputs import make_install_inputs
from vnfsbuild.install import build_install, umask, write_repository
from vnfsbuild.local import apply_local
from vnfsbuild.lock import Lock
from vnfsbuild.mkosi_config import MkosiPlaces
from vnfsbuild.packages import fetch_locked, load_stanza, package_path
from vnfsbuild.places import Places
from vnfsbuild.resolve import LoadedRecipe
from vnfsbuild.timings import Timings
from vnfsbuild.toolstree import ensure_locked_tree
from vnfsbuild.tree import normalise

logger = logging.getLogger(__name__)

# A tree takes four to five times what its packages take; the rest is for what is made from it.
WORKSPACE_FACTOR = 6
SHARED_MEMORY = Path("/dev/shm")
PREFIX = "vnfsbuild."
ABANDONED_SECONDS = 60
"""A directory that nobody holds is this old before it is taken for abandoned: it may be new."""


def build_tree(
    loaded: LoadedRecipe,
    lock: Lock,
    *,
    places: Places,
    workspace: Path,
    agent: bytes | None,
    timings: Timings,
) -> Path:
    """Return the root tree that *lock* stands for, made in *workspace*.

    *agent* is the agent's zipapp, for recipes that want it.

    Raises:
        VnfsbuildError: packages cannot be had, mkosi failed, the recipe names what is not there.
    """
    recipe = loaded.recipe
    with timings.stage("fetch"):
        fetch_locked(
            lock.packages,
            cache=places.cache,
            release=lock.release,
            components=recipe.distribution.components,
            mirror=recipe.distribution.mirror,
        )
        tools_tree = ensure_locked_tree("build", places.cache, lock.tools)
    # Beside the packages, for hard links; what it is called gets into no byte of the tree.
    with _directory_in(places.cache / "work") as scratch:
        mkosi = MkosiPlaces(
            tools=tools_tree, repository=scratch / "repository", workspace=workspace
        )
        with timings.stage("install"):
            packages = {
                item: (package_path(places.cache, item.sha256), load_stanza(places.cache, item))
                for item in lock.packages
            }
            write_repository(mkosi.repository, packages)
            log = places.cache / "logs" / f"{recipe.name}-install.log"
            root = build_install(make_install_inputs(recipe, lock), mkosi, log=log)
    with timings.stage("local"), umask(0o022):
        apply_local(root, recipe, directory=loaded.directory, tools_tree=tools_tree, agent=agent)
    with timings.stage("normalise"):
        normalise(root, epoch=lock.epoch)
    return root


@contextlib.contextmanager
def open_workspace(
    lock: Lock, *, places: Places, environment: Mapping[str, str] | None = None
) -> Iterator[Path]:
    """Make a directory to build *lock* in, and remove it in the end, however that is.

    In memory where there is plenty of it: that takes half the time. ``VNFS_WORKSPACE`` names
    another place.

    Raises:
        InputError: ``VNFS_WORKSPACE`` is no directory.
    """
    env = os.environ if environment is None else environment
    named = env.get("VNFS_WORKSPACE")
    if named:
        parent = Path(named).absolute()
        if not parent.is_dir():
            raise InputError(f"VNFS_WORKSPACE: found {named}, expected a directory")
    else:
        needed_bytes = WORKSPACE_FACTOR * sum(item.size_bytes for item in lock.packages)
        fits = needed_bytes <= min(_free_bytes(SHARED_MEMORY), _available_memory_bytes() // 2)
        parent = SHARED_MEMORY if fits else places.cache / "work"
    logger.debug("workspace below %s", parent)
    with _directory_in(parent) as workspace:
        yield workspace


@contextlib.contextmanager
def _directory_in(parent: Path) -> Iterator[Path]:
    parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(parent)
    path = Path(tempfile.mkdtemp(dir=parent, prefix=PREFIX))
    # Programs that run as another user, inside the tree, pass through here.
    path.chmod(0o755)
    try:
        with _held(path, fcntl.LOCK_SH):
            yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _remove_abandoned(parent: Path) -> None:
    """Remove the directories of builds that were killed: in memory they would cost dearly."""
    for path in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), _held(path, fcntl.LOCK_EX | fcntl.LOCK_NB):
            age_seconds = time.time() - path.stat().st_mtime
            if age_seconds > ABANDONED_SECONDS:
                logger.info("%s: left by a build that was killed, removed", path)
                shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _held(path: Path, operation: int) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, operation)
        yield
    finally:
        os.close(descriptor)


def _free_bytes(path: Path) -> int:
    """Return what fits into the file system at *path*; nothing, where programs may not run."""
    try:
        found = os.statvfs(path)
    except OSError:
        return 0
    return 0 if found.f_flag & os.ST_NOEXEC else found.f_bavail * found.f_frsize


def _available_memory_bytes() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
