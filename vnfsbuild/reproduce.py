"""The flow of ``vnfsbuild reproduce``: a capsule is built again from what it carries, elsewhere.

From its source payload and the locked packages alone, in an environment that is varied on purpose,
with no network; then the digests are compared, and where they differ, the payloads.
"""

from __future__ import annotations

import json
import logging
import os
import pwd
import shutil
import socket
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from vnfsbuild import tools
from vnfsbuild.builder import verify_builder
from vnfsbuild.compare import Difference
from vnfsbuild.digest import Digest
from vnfsbuild.distributions import tools_kind
from vnfsbuild.errors import VnfsbuildError
from vnfsbuild.explain import compare_capsules, explain_content
from vnfsbuild.install import umask
from vnfsbuild.lock import Lock, LockedPackage, lay_over
from vnfsbuild.manifest import SOURCE
from vnfsbuild.original import Original, open_original
from vnfsbuild.packages import fetch_locked, find_missing, package_path
from vnfsbuild.packageset import import_package_set
from vnfsbuild.places import Places
from vnfsbuild.rebuild import Order, places_below
from vnfsbuild.recipe import LOCK_FILE
from vnfsbuild.reference import Reference
from vnfsbuild.resolve import LoadedRecipe, load_lock, load_locks, load_recipe
from vnfsbuild.source import unpack_source
from vnfsbuild.sources.origin import make_origin
from vnfsbuild.stages import SHARED_MEMORY, fits_memory, work_directory
from vnfsbuild.store.store import Store
from vnfsbuild.timings import Timings
from vnfsbuild.toolstree import ensure_locked_tree
from vnfsbuild.variation import DIRECTORY, UMASK, Host, Variation, choose_variation

logger = logging.getLogger(__name__)

TRIAL = """\
import os, sys
import vnfsbuild.rebuild
from vnfsbuild.namespace import find_lacking
os.listdir(sys.argv[1])
print("; ".join(item.what for item in find_lacking()), end="")
"""

_LEND = 'mount --bind "$1" /etc/subuid && mount --bind "$1" /etc/subgid && shift && exec "$@"'
LENT = "subordinate-ids"
"""The file in the scratch directory that says so."""
LENT_USER = "nobody"
LENT_IDS = 0x6FFF0000
"""The first of the ids that a user gets for the time being, on a host where nobody has any: the
last block of those that distributions keep for containers.
"""

SUBORDINATE_IDS = Path("/etc/subuid")
ENOUGH_IDS = 65536
"""How many subordinate ids a user needs to build."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reproduction:
    """What came of it."""

    name: str
    digest: Digest
    """of the capsule"""
    rebuilt: Digest
    variation: Variation
    differences: tuple[Difference, ...]
    details: str
    """what diffoscope says of the first file that differs; empty without it"""

    @property
    def same(self) -> bool:
        """Tell whether the very same bytes came out."""
        return self.digest == self.rebuilt


def reproduce(
    capsule: str,
    places: Places,
    *,
    timings: Timings,
    mirror: str | None = None,
    packages: Path | None = None,
    keep: Path | None = None,
) -> Reproduction:
    """Build *capsule*, a reference or the name of a ``.vnfs`` file, again, and compare.

    Packages come from the cache; then from the package set in the file *packages* or in the store;
    then from *mirror*, or whichever one this host uses. When other bytes come out, they are written
    to the file *keep*.

    Raises:
        InputError: there is no such capsule, or it was made by another builder.
        VerificationError: the capsule is damaged.
        VnfsbuildError: packages cannot be had, or a stage failed.
    """
    before = current_umask()
    with umask(0o022), work_directory(places.cache / "work") as scratch:
        original = open_original(capsule, Store(places.store), work=scratch / "original")
        where = f"{original.name}@{original.digest[:19]}: source"
        payload = original.head.capsule.manifest.payload(SOURCE)
        recipe_dir = scratch / DIRECTORY
        unpack_source(original.blob_path(payload.digest).read_bytes(), recipe_dir, where=where)
        loaded = load_recipe(recipe_dir)
        lock = lay_over(load_locks(loaded))
        verify_builder(lock.builder, where=f"{where}: {LOCK_FILE}")
        with timings.stage("fetch"):
            _take_package_set(lock, packages or original.packages, cache=places.cache)
            _fetch(loaded, places, mirror=mirror)
        variation = _choose(lock, scratch, umask_here=before)
        with timings.stage("rebuild"):
            rebuilt = _rebuild(original, lock, variation, places, scratch)
        differences: Sequence[Difference] = ()
        details = ""
        if rebuilt.digest != original.digest:
            with timings.stage("compare"):
                tree = ensure_locked_tree(tools_kind(lock.distribution), places.cache, lock.tools)
                differences = compare_capsules(rebuilt, original, tree=tree)
                details = explain_content(rebuilt, original, differences, tree=tree, work=scratch)
            if keep:
                reference = Reference(rebuilt.name, digest=rebuilt.digest)
                Store(places_below(scratch).store).export(reference, keep)
    return Reproduction(
        name=original.name,
        digest=original.digest,
        rebuilt=rebuilt.digest,
        variation=variation,
        differences=tuple(differences),
        details=details,
    )


def rebuild_argv(order: Order, *, lent: Path | None) -> list[str]:
    """Return the argv of the process that does what *order* says, with subordinate ids *lent*.

    Only root may leave its network and its host name behind without becoming somebody else.
    """
    apart = ["unshare", "--net", "--uts", "--"] if order.host_name is not None else []
    program = [sys.executable, "-B", "-m", "vnfsbuild.rebuild", json.dumps(asdict(order))]
    return [*apart, *lend_argv(lent), *program]


def lend_argv(lent: Path | None) -> list[str]:
    """Return the start of an argv that runs a program which finds the subordinate ids *lent*."""
    if lent is None:
        return []
    return ["unshare", "--mount", "--", "sh", "-c", _LEND, "sh", str(lent)]


def trial_argv(user: pwd.struct_passwd, scratch: Path, *, lent: Path | None) -> list[str]:
    """Return the argv that tells, run as *user*, what they lack to build in *scratch*.

    It fails where programs or *scratch* lie in a directory that they may not enter.
    """
    return [
        *lend_argv(lent),
        "setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--",
        # The first program still has what setpriv itself may do, the second has not.
        "sh", "-c", 'exec "$@"', "sh", sys.executable, "-B", "-c", TRIAL, str(scratch),
    ]  # fmt: skip


def choose_user(text: str, *, preferred: str | None) -> str | None:
    """Return the user of subuid(5)'s *text* who has ids enough to build, *preferred* if he has."""
    names = []
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        count = rest.partition(":")[2]
        if name and count.isdigit() and int(count) >= ENOUGH_IDS:
            names.append(name)
    if preferred in names:
        return preferred
    return names[0] if names else None


def _take_package_set(lock: Lock, path: Path | None, *, cache: Path) -> None:
    if path is not None and find_missing(cache, [*lock.packages, *lock.tools]):
        count = import_package_set(path, cache=cache)
        logger.info("%d packages from the package set", count)


def _fetch(loaded: LoadedRecipe, places: Places, *, mirror: str | None) -> None:
    mirrors = [mirror] if mirror else []
    for item in loaded.chain:
        origin = make_origin(item.recipe, item.directory, mirrors=mirrors)
        lock = load_lock(item.lock_path)
        fetch_locked(lock.packages, cache=places.cache, origin=origin)
        if lock.base is None:
            ensure_locked_tree(
                tools_kind(lock.distribution), places.cache, lock.tools, origin=origin
            )


def _choose(lock: Lock, scratch: Path, *, umask_here: int) -> Variation:
    user, lacking = _find_user(scratch) if os.geteuid() == 0 else (None, "only root can be another")
    memory_first = fits_memory(lock)
    disk, memory = (_describe_file_system(path) for path in (scratch, SHARED_MEMORY))
    host = Host(
        uid=os.geteuid(),
        user=user,
        user_lacking=lacking,
        host_name=socket.gethostname(),
        processors=sorted(os.sched_getaffinity(0)),
        locale=os.environ.get("LC_ALL") or os.environ.get("LANG") or "",
        time_zone=os.environ.get("TZ", ""),
        umask=umask_here,
        memory_first=memory_first,
    )
    here, there = (memory, disk) if memory_first else (disk, memory)
    return choose_variation(host, here=here, there=there)


def _rebuild(
    original: Original, lock: Lock, variation: Variation, places: Places, scratch: Path
) -> Original:
    own = places_below(scratch)
    _link_packages(reversed([*lock.packages, *lock.tools]), places.cache, own.cache)
    for path in (own.store, own.site, scratch / "work"):
        path.mkdir(parents=True)
    if variation.uid is not None and variation.gid is not None:
        _give(scratch, variation.uid, variation.gid)
    order = Order(
        recipe=str(scratch / DIRECTORY),
        artifact_type=original.head.capsule.manifest.artifact_type,
        scratch=str(scratch),
        umask=UMASK,
        host_name=variation.host_name,
        processor=variation.processor,
        uid=variation.uid,
        gid=variation.gid,
    )
    workspace = SHARED_MEMORY if variation.in_memory else scratch / "work"
    environment = {
        **variation.environment,
        **_our_python(),
        "VNFS_WORKSPACE": str(workspace),
    }
    log = places.cache / "logs" / f"{original.name}-reproduce.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("", encoding="utf-8")
    try:
        argv = rebuild_argv(order, lent=_find_lent(scratch))
        tools.run(argv, env=environment, cwd=scratch / DIRECTORY, log=log)
    except tools.ToolError as error:
        raise _failed(error, own.cache / "logs", log) from error
    store = Store(own.store)
    (built,) = store.list_capsules()
    return Original(head=built.head, blob_path=store.blob_path)


def current_umask() -> int:
    """Return the umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _our_python() -> dict[str, str]:
    """Return what makes another Python find the modules that this one finds."""
    return {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def _find_user(scratch: Path) -> tuple[tuple[str, int, int] | None, str]:
    """Return an ordinary user who can build here, or why there is none, in words."""
    text = SUBORDINATE_IDS.read_text(encoding="utf-8") if SUBORDINATE_IDS.is_file() else ""
    name = choose_user(text, preferred=os.environ.get("SUDO_USER"))
    if name is None:
        name = LENT_USER
        (scratch / LENT).write_text(f"{name}:{LENT_IDS}:{ENOUGH_IDS}\n", encoding="ascii")
    try:
        found = pwd.getpwnam(name)
        argv = trial_argv(found, scratch, lent=_find_lent(scratch))
        lacking = tools.capture(argv, env=_our_python(), cwd=Path("/"))
    except (KeyError, tools.ToolError):
        return None, f"{name} cannot read {scratch}, {sys.executable} or {Path(__file__).parent}"
    if lacking:
        return None, lacking.decode("utf-8", "replace").strip()
    return (name, found.pw_uid, found.pw_gid), ""


def _find_lent(scratch: Path) -> Path | None:
    return scratch / LENT if (scratch / LENT).exists() else None


def _link_packages(packages: Iterable[LockedPackage], cache: Path, own: Path) -> None:
    for item in packages:
        source, target = package_path(cache, item.sha256), package_path(own, item.sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            continue
        if source.stat().st_mode & 0o004:
            target.hardlink_to(source)
        else:
            shutil.copyfile(source, target)
            target.chmod(0o644)


def _give(scratch: Path, uid: int, gid: int) -> None:
    """Make *scratch* the user's own, but for packages, whose files are the cache's too."""
    for directory, _, files in os.walk(scratch):
        os.chown(directory, uid, gid)
        for name in files:
            if not Path(directory, name).is_relative_to(
                package_path(places_below(scratch).cache, "")
            ):
                os.chown(Path(directory, name), uid, gid, follow_symlinks=False)


def _describe_file_system(path: Path) -> str:
    """Return where *path* is, in words: ``tmpfs at /dev/shm``."""
    best, kind = "", "unknown"
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, point, found, *_ = line.split(" ")
        if path.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, found
    return f"{kind} at {best}"


def _failed(error: tools.ToolError, own_logs: Path, log: Path) -> VnfsbuildError:
    """Return what went wrong in words; all that was said goes to *log*, for the scratch goes."""
    with log.open("a", encoding="utf-8") as file:
        for path in sorted(own_logs.glob("*.log")):
            file.write(f"\n== {path.name}\n{path.read_text(encoding='utf-8', errors='replace')}")
    _, _, told = error.message.partition("\n")
    lines = [line for line in told.splitlines() if not line.startswith("hint: ")]
    start = next((at for at, line in enumerate(lines) if line.startswith("error: ")), 0)
    return VnfsbuildError(
        "reproduce: it cannot be built: " + "\n".join(lines[start:]).removeprefix("error: "),
        hint=f"all that was said: {log}",
    )
