"""The stages in their order: recipe and lock become a root tree that is ready to be packed."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vnfsbuild import namespace
from vnfsbuild.agentzip import render_agent
from vnfsbuild.distributions import tools_kind
from vnfsbuild.errors import InputError
from vnfsbuild.idmap import Ids, make_ids
from vnfsbuild.inputs import StageInputs
from vnfsbuild.lock import Lock
from vnfsbuild.packages import fetch_locked
from vnfsbuild.places import Places
from vnfsbuild.recipe import Recipe
from vnfsbuild.resolve import LoadedRecipe, source_paths
from vnfsbuild.secrets import verify_no_secrets_in_sources
from vnfsbuild.sources.origin import make_origin
from vnfsbuild.stagecache import STAGES, StageCache
from vnfsbuild.timings import Timings
from vnfsbuild.toolstree import ensure_locked_tree
from vnfsbuild.trees import Line, make_final, make_parts

logger = logging.getLogger(__name__)

# A tree takes three to four times what its packages take, and there are two of them for a while.
WORKSPACE_FACTOR = 8
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
    locks: tuple[Lock, ...] = ()
    """of the chain of recipes, the undermost first; empty where *lock* is the only one"""
    use_cache: bool = False
    """whether stages are taken from the cache, and kept in it"""
    agent: bytes | None = None
    """the agent's zipapp; None: that of this program"""


@dataclass(frozen=True, kw_only=True, slots=True)
class MadeLayer:
    """A layer of a capsule, as a file."""

    name: str
    media_type: str
    path: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """What came out of a job, as files in its workspace that its user can read."""

    kernel_version: str
    kernel: Path
    initrd: Path
    layers: tuple[MadeLayer, ...]
    """the undermost first"""
    seconds: Mapping[str, float]
    """by stage"""
    inputs: tuple[StageInputs, ...] = ()
    """of all its stages"""
    told: Mapping[str, str] = field(default_factory=dict)
    """key of a stage, or name of a payload → ``made`` or ``reused``"""
    drivers: Path | None = None
    """of a bootstrap: the archive of those that are not in its initrd"""


def recipe_ids(loaded: LoadedRecipe) -> Ids:
    """Return the ids of a recipe and its bases that an ordinary user's namespace lacks."""
    recipes: list[Recipe] = [item.recipe for item in loaded.chain]
    users = [item.uid for recipe in recipes for item in recipe.users]
    groups = [item.gid for recipe in recipes for item in recipe.users]
    written = [item for recipe in recipes for item in recipe.write]
    users += [int(item.user) for item in written if item.user.isdigit()]
    groups += [int(item.group) for item in written if item.group.isdigit()]
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
    tools_tree = fetch_inputs(loaded, [lock], places=places, timings=timings)
    job = Job(
        loaded=loaded,
        lock=lock,
        places=places,
        workspace=workspace,
        tools_tree=tools_tree,
        agent=agent,
    )
    return make_tree(job, timings=timings)


def fetch_inputs(
    loaded: LoadedRecipe, locks: Sequence[Lock], *, places: Places, timings: Timings
) -> Path:
    """Bring the packages of *locks*, the undermost first, into the cache; return the tools tree.

    The only stage that has a network, and one that needs no privilege.

    Raises:
        InputError: a file of the recipe looks like a secret.
        VnfsbuildError: a package cannot be had.
    """
    for item in loaded.chain:
        recipe = item.recipe
        verify_no_secrets_in_sources(
            source_paths(replace(item, base=None)),
            allow=recipe.allowed_secrets,
            copied=recipe.copy,
        )
    with timings.stage("fetch"):
        for item, lock in zip(loaded.chain, locks, strict=True):
            origin = make_origin(item.recipe, item.directory)
            fetch_locked(lock.packages, cache=places.cache, origin=origin)
        undermost = loaded.chain[0]
        origin = make_origin(undermost.recipe, undermost.directory)
        kind = tools_kind(locks[0].distribution)
        return ensure_locked_tree(kind, places.cache, locks[0].tools, origin=origin)


@contextlib.contextmanager
def open_line(job: Job, timings: Timings) -> Iterator[Line]:
    """Give what the trees of *job* are made by, in its workspace. Whoever calls must be root there.

    Raises:
        VnfsbuildError: a package is not in the cache.
    """
    locks = job.locks or (job.lock,)
    parts = make_parts(job.loaded, locks, packages=job.places.cache)
    agent = render_agent() if any(part.loaded.recipe.agent for part in parts) else None
    # Beside the packages, for hard links; what it is called gets into no byte of the tree.
    with work_directory(job.places.cache / "work") as scratch:
        yield Line(
            parts=parts,
            packages=job.places.cache,
            tools_tree=job.tools_tree,
            workspace=job.workspace,
            scratch=scratch,
            logs=job.places.cache / "logs",
            agent=agent if job.agent is None else job.agent,
            cache=StageCache(job.places.cache / STAGES) if job.use_cache else None,
            timings=timings,
        )


def make_tree(job: Job, *, timings: Timings) -> Path:
    """Return the root tree of *job*, made in its workspace. Whoever calls must be root there.

    Raises:
        InputError: the recipe names what is not there, or a secret got into the tree.
        VnfsbuildError: mkosi or a script failed.
    """
    with open_line(job, timings) as line:
        return make_final(line, len(line.parts) - 1).root


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
