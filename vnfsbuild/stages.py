"""The stages in their order: recipe and lock become a root tree that is ready to be packed."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vnfsbuild import namespace
from vnfsbuild.errors import InputError
from vnfsbuild.idmap import Ids, make_ids
from vnfsbuild.inputs import make_install_inputs
from vnfsbuild.install import build_install, umask, write_repository
from vnfsbuild.local import apply_local
from vnfsbuild.lock import Lock
from vnfsbuild.mkosi_config import MkosiPlaces
from vnfsbuild.packages import fetch_locked, load_stanza, package_path
from vnfsbuild.places import Places
from vnfsbuild.recipe import Recipe
from vnfsbuild.resolve import LoadedRecipe, source_paths
from vnfsbuild.scripts import run_scripts
from vnfsbuild.secrets import verify_no_secrets, verify_no_secrets_in_sources
from vnfsbuild.sources.origin import make_origin
from vnfsbuild.timings import Timings
from vnfsbuild.toolstree import ensure_locked_tree
from vnfsbuild.tree import normalise
from vnfsbuild.users import make_skeleton

logger = logging.getLogger(__name__)

# A tree takes four to five times what its packages take; the rest is for what is made from it.
WORKSPACE_FACTOR = 6
SHARED_MEMORY = Path("/dev/shm")
PREFIX = "vnfsbuild."
ABANDONED_SECONDS = 60
"""A directory that nobody holds is this old before it is taken for abandoned: it may be new."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """All that making a tree takes, once the network is done with."""

    loaded: LoadedRecipe
    lock: Lock
    places: Places
    workspace: Path
    tools_tree: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """What came out of a job, as files in its workspace that its user can read."""

    kernel_version: str
    kernel: Path
    initrd: Path
    layers: tuple[Path, ...]
    seconds: Mapping[str, float]
    """by stage"""


def recipe_ids(recipe: Recipe) -> Ids:
    """Return the ids of *recipe* that an ordinary user's namespace does not have by itself."""
    users = [item.uid for item in recipe.users]
    groups = [item.gid for item in recipe.users]
    users += [int(item.user) for item in recipe.write if item.user.isdigit()]
    groups += [int(item.group) for item in recipe.write if item.group.isdigit()]
    return make_ids(users, groups)


def build_tree(
    loaded: LoadedRecipe,
    lock: Lock,
    *,
    places: Places,
    workspace: Path,
    agent: bytes | None,
    timings: Timings,
) -> Path:
    """Return the root tree that *lock* stands for, made in *workspace*: fetched and built, as root.

    *agent* is the agent's zipapp, for recipes that want it.

    Raises:
        VnfsbuildError: packages cannot be had, mkosi failed, the recipe names what is not there.
    """
    tools_tree = fetch_inputs(loaded, lock, places=places, timings=timings)
    job = Job(loaded=loaded, lock=lock, places=places, workspace=workspace, tools_tree=tools_tree)
    return make_tree(job, agent=agent, timings=timings)


def fetch_inputs(loaded: LoadedRecipe, lock: Lock, *, places: Places, timings: Timings) -> Path:
    """Bring the packages of *lock* into the cache; return the tools tree to build with.

    The only stage that has a network, and one that needs no privilege.

    Raises:
        InputError: a file of the recipe looks like a secret.
        VnfsbuildError: a package cannot be had.
    """
    recipe = loaded.recipe
    verify_no_secrets_in_sources(
        source_paths(loaded), allow=recipe.allowed_secrets, copied=recipe.copy
    )
    origin = make_origin(recipe, loaded.directory)
    with timings.stage("fetch"):
        fetch_locked(lock.packages, cache=places.cache, origin=origin)
        return ensure_locked_tree("build", places.cache, lock.tools, origin=origin)


def make_tree(job: Job, *, agent: bytes | None, timings: Timings) -> Path:
    """Return the root tree of *job*, made in its workspace. Whoever calls must be root there.

    *agent* is the agent's zipapp, which the tree is given.

    Raises:
        InputError: the recipe names what is not there, or a secret got into the tree.
        VnfsbuildError: mkosi or a script failed.
    """
    loaded, lock, places = job.loaded, job.lock, job.places
    recipe, tools_tree, workspace = loaded.recipe, job.tools_tree, job.workspace
    # Beside the packages, for hard links; what it is called gets into no byte of the tree.
    with work_directory(places.cache / "work") as scratch:
        mkosi = MkosiPlaces(
            tools=tools_tree, repository=scratch / "repository", workspace=workspace
        )
        with timings.stage("install"):
            packages = {
                item: (package_path(places.cache, item.sha256), load_stanza(places.cache, item))
                for item in lock.packages
            }
            write_repository(mkosi.repository, packages)
            skeleton = make_skeleton(recipe.users, packages)
            inputs = make_install_inputs(recipe, lock)
            with _log(job, "install") as log:
                root = build_install(inputs, mkosi, log=log, skeleton=skeleton)
    with timings.stage("local"), umask(0o022):
        apply_local(root, recipe, directory=loaded.directory, tools_tree=tools_tree, agent=agent)
        with _log(job, "scripts") as log:
            run_scripts(
                root,
                recipe.scripts,
                directory=loaded.directory,
                tools_tree=tools_tree,
                scratch=workspace,
                epoch=lock.epoch,
                log=log,
            )
    with timings.stage("normalise"):
        normalise(root, epoch=lock.epoch, keep=recipe.allowed_secrets)
        verify_no_secrets(root, allow=recipe.allowed_secrets, exclude=recipe.exclude)
    return root


@contextlib.contextmanager
def _log(job: Job, stage: str) -> Iterator[Path]:
    """Name the file that programs of *stage* write to; after a good end it has a lasting name.

    Until then the name is this build's alone: another of the same recipe may run beside it.
    """
    lasting = job.places.cache / "logs" / f"{job.loaded.recipe.name}-{stage}.log"
    own = lasting.with_name(f"{lasting.stem}-{job.workspace.name.rpartition('.')[2]}.log")
    yield own
    if own.exists():
        own.replace(lasting)


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
        parent = SHARED_MEMORY if fits_memory(lock) else places.cache / "work"
    logger.debug("workspace below %s", parent)
    with work_directory(parent) as workspace:
        yield workspace


def fits_memory(lock: Lock) -> bool:
    """Tell whether this host has memory to spare for all that building *lock* needs."""
    needed_bytes = WORKSPACE_FACTOR * sum(item.size_bytes for item in lock.packages)
    return needed_bytes <= min(_free_bytes(SHARED_MEMORY), _available_memory_bytes() // 2)


@contextlib.contextmanager
def work_directory(parent: Path) -> Iterator[Path]:
    """Make a directory in *parent*, and remove it in the end, however that is."""
    parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(parent)
    path = Path(tempfile.mkdtemp(dir=parent, prefix=PREFIX))
    # Programs that run as another user, inside the tree, pass through here.
    path.chmod(0o755)
    try:
        with _held(path, fcntl.LOCK_SH):
            yield path
    finally:
        namespace.remove(path)


def _remove_abandoned(parent: Path) -> None:
    """Remove the directories of builds that were killed: in memory they would cost dearly."""
    for path in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), _held(path, fcntl.LOCK_EX | fcntl.LOCK_NB):
            found = path.stat()
            ours = os.geteuid() in (0, found.st_uid)
            if ours and time.time() - found.st_mtime > ABANDONED_SECONDS:
                logger.info("%s: left by a build that was killed, removed", path)
                namespace.remove(path)


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
