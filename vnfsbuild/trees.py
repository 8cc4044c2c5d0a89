"""The root trees of a chain of recipes: made stage by stage, or taken from the cache of stages.

For each recipe, the undermost first: ``essential`` (the packages that no system is without, only of
the undermost), ``install`` (all others, upon that or upon the base's tree), ``local`` (the recipe's
own files, services and scripts). A build without a cache goes through the same stages.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vnfsbuild.agentzip import compile_agent
from vnfsbuild.builder import find_builder
from vnfsbuild.digest import Digest
from vnfsbuild.distributions import is_rpm
from vnfsbuild.errors import VerificationError
from vnfsbuild.essential import find_essential
from vnfsbuild.inputs import (
    InstallInputs,
    StageInputs,
    make_essential_inputs,
    make_install_inputs,
    make_local_inputs,
)
from vnfsbuild.install import build_install, is_full, no_space, umask, write_repository
from vnfsbuild.layer import Entry
from vnfsbuild.local import apply_local
from vnfsbuild.lock import Lock, LockedPackage, lay_over
from vnfsbuild.mkosi_config import MkosiPlaces
from vnfsbuild.namespace import remove
from vnfsbuild.packages import load_stanza, package_path
from vnfsbuild.recipefiles import LoadedRecipe, verify_unchanged
from vnfsbuild.scripts import run_scripts
from vnfsbuild.secrets import verify_no_secrets
from vnfsbuild.stagecache import StageCache
from vnfsbuild.standin import resolve_stand_ins
from vnfsbuild.storedtree import digest_contents, load_tree_list, restore_tree, save_tree
from vnfsbuild.timings import Timings
from vnfsbuild.tools import ToolError
from vnfsbuild.tree import list_tree, normalise, settle
from vnfsbuild.unpacked import MOVING, WANTED, unpack_essential
from vnfsbuild.users import add_users, make_skeleton

logger = logging.getLogger(__name__)

MACHINE_ID = {"etc/machine-id": b"uninitialized\n"}
"""What mkosi begins with. Not empty, as normalising leaves it: packages would make one then."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A recipe of a chain, its lock, and the keys of its stages."""

    loaded: LoadedRecipe
    lock: Lock
    essential: tuple[LockedPackage, ...]
    upgraded: tuple[str, ...]
    """packages of its base that it has in another version"""
    inputs: tuple[StageInputs, ...]
    """of its stages, in their order"""
    exclude: tuple[str, ...]
    """what its layers leave out, and those of its bases"""
    allowed_secrets: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tree:
    """A tree of the workspace."""

    root: Path
    entries: tuple[Entry, ...]
    """with the digests of contents; links numbered"""


@dataclass(kw_only=True, slots=True)
class Line:
    """Where trees are made, and with what."""

    parts: tuple[Part, ...]
    packages: Path
    """the cache of packages"""
    tools_tree: Path
    workspace: Path
    scratch: Path
    """on the file system of the packages, for hard links"""
    logs: Path
    agent: bytes | None
    cache: StageCache | None
    timings: Timings
    install: Callable[[Line, Part, Path | None, bool], Path] | None = None
    """makes a tree with a part's packages, upon another; the last word: only the essential ones.
    None: mkosi does"""
    told: dict[str, str] = field(default_factory=dict)
    """key of a stage → whether it was ``made`` or ``reused``"""
    _trees: dict[Digest, Tree] = field(default_factory=dict)
    _count: int = 0


def make_parts(loaded: LoadedRecipe, locks: Sequence[Lock], *, packages: Path) -> tuple[Part, ...]:
    """Return the parts of the chain of *loaded*, whose *locks* are given, the undermost first.

    Raises:
        VnfsbuildError: a package of the undermost is not in the cache *packages*.
    """
    parts: list[Part] = []
    below: Digest | None = None
    for item, lock in zip(loaded.chain, locks, strict=True):
        recipe = item.recipe
        exclude = tuple(dict.fromkeys((*(parts[-1].exclude if parts else ()), *recipe.exclude)))
        allowed = (*(parts[-1].allowed_secrets if parts else ()), *recipe.allowed_secrets)
        inputs: list[StageInputs] = []
        essential: tuple[LockedPackage, ...] = ()
        if below is None:
            essential = choose_essential(lock, packages)
            builder = find_builder().digest
            inputs.append(make_essential_inputs(recipe, lock, essential=essential, builder=builder))
            below = inputs[-1].key
        inputs.append(make_install_inputs(recipe, lock, essential=essential, below=below))
        inputs.append(make_local_inputs(recipe, item.files, exclude=exclude, below=inputs[-1].key))
        below = inputs[-1].key
        parts.append(
            Part(
                loaded=item,
                lock=lock,
                essential=essential,
                upgraded=_find_upgrades(locks[: len(parts)], lock),
                inputs=tuple(inputs),
                exclude=exclude,
                allowed_secrets=allowed,
            )
        )
    return tuple(parts)


def _find_upgrades(bases: Sequence[Lock], lock: Lock) -> tuple[str, ...]:
    there = {item.name for item in lay_over(bases).packages} if bases else set()
    return tuple(item.name for item in lock.packages if item.name in there)


def choose_essential(lock: Lock, packages: Path) -> tuple[LockedPackage, ...]:
    """Return the packages of the undermost stage of *lock*, whose files are in *packages*.

    None for RPM distributions, which do not say of their packages that no system is without them.
    """
    if is_rpm(lock.distribution):
        return ()
    return find_essential({item: _load_stanza(packages, item) for item in lock.packages})


@functools.cache
def _load_stanza(packages: Path, item: LockedPackage) -> str:
    """Return what the file of *item* says of it; each stage asks, and reading them takes time."""
    return load_stanza(packages, item)


def make_final(line: Line, number: int) -> Tree:
    """Return the tree of the part *number* of *line*, ready to be packed. It is not to be changed.

    Raises:
        InputError: the recipe names what is not there, or a secret got into the tree.
        VnfsbuildError: mkosi or a script failed.
    """
    part = line.parts[number]
    inputs = part.inputs[-1]
    found = _find(line, inputs)
    if found:
        return found
    root = _take(line, number, part.inputs[-2])
    _apply_local(line, part, root)
    parent = part.inputs[-2].key
    return _keep(line, inputs, root, parent=parent)


def list_inputs(line: Line) -> tuple[StageInputs, ...]:
    """Return the inputs of all stages of *line*, in their order."""
    return tuple(inputs for part in line.parts for inputs in part.inputs)


def load_final_list(line: Line, number: int) -> tuple[Entry, ...]:
    """Return the list of the tree of the part *number*; it is made when nobody has it.

    Raises:
        VnfsbuildError: as :func:`make_final`.
    """
    key = line.parts[number].inputs[-1].key
    if key in line._trees:
        return line._trees[key].entries
    if line.cache and (stored := line.cache.peek(key)):
        try:
            entries = tuple(load_tree_list(stored))
            line.cache.touch(stored)
            line.told[key] = "reused"
            return entries
        except (VerificationError, OSError) as error:
            line.cache.throw_away(stored, error)
    return make_final(line, number).entries


def forget(line: Line, number: int) -> None:
    """Remove the tree of the part *number* from the workspace, where it takes memory."""
    found = line._trees.pop(line.parts[number].inputs[-1].key, None)
    if found:
        remove(found.root)


def _take(line: Line, number: int, inputs: StageInputs) -> Path:
    """Return the tree that a part's packages are installed in, to be changed by the caller."""
    restored = _restore(line, inputs)
    if restored:
        return restored.root
    part = line.parts[number]
    below: Path | None = None
    parent = None
    if number:
        below, parent = make_final(line, number - 1).root, line.parts[number - 1].inputs[-1].key
    elif part.essential:
        parent = part.inputs[0].key
        below = _make_essential(line, part).root
    with line.timings.stage("install"):
        root = (line.install or install_by_mkosi)(line, part, below, False)
        normalise(root, epoch=part.lock.epoch, keep=part.allowed_secrets)
    if number == 0 and below:
        remove(below)
    tree = _save(line, inputs, root, parent=parent)
    return tree.root if tree else root


def _make_essential(line: Line, part: Part) -> Tree:
    inputs = part.inputs[0]
    restored = _restore(line, inputs)
    if restored:
        return restored
    with line.timings.stage("essential"):
        root = (line.install or install_by_mkosi)(line, part, None, True)
    tree = _save(line, inputs, root, parent=None)
    return tree or Tree(root=root, entries=())


def install_by_mkosi(line: Line, part: Part, below: Path | None, essential: bool) -> Path:
    """Return a new tree: *below*, or nothing, with the packages of *part*, or the *essential* ones.

    Raises:
        VnfsbuildError: mkosi failed.
    """
    recipe, lock = part.loaded.recipe, part.lock
    line._count += 1
    places = MkosiPlaces(
        tools=line.tools_tree,
        repository=line.scratch / f"repository-{line._count}",
        workspace=line.workspace / f"install-{line._count}",
    )
    wanted = part.essential if essential else lock.packages
    packages = {
        item: (package_path(line.packages, item.sha256), _load_stanza(line.packages, item))
        for item in wanted
    }
    write_repository(places.repository, packages, tree=line.tools_tree)
    asked: tuple[str, ...] = () if essential else (*recipe.wanted, *part.upgraded)
    skeleton: Mapping[str, bytes] = {}
    if below is None:
        skeleton = make_skeleton(recipe.users, packages)
    elif lock.base:
        skeleton = {**MACHINE_ID, **add_users(below, recipe.users)}
    start = below
    if essential and lock.release not in MOVING:
        start, asked = line.workspace / f"unpacked-{line._count}", WANTED
        skeleton = {**MACHINE_ID, **skeleton}
        _unpack(line, [path for path, _ in packages.values()], start)
    inputs = InstallInputs(
        distribution=lock.distribution,
        release=lock.release,
        architecture=lock.architecture,
        epoch=lock.epoch,
        wanted=asked,
        recommends=recipe.packages.recommends,
        packages=tuple(packages),
        base=str(start) if start else None,
        removed=() if essential else lock.removed,
    )
    with _log(line, part, "essential" if essential else "install") as log:
        root = build_install(inputs, places, log=log, skeleton=skeleton)
    if start and essential:
        remove(start)
    if below:
        remove_old_kernels(root, below)
    settle(root)
    return root


def _unpack(line: Line, packages: Sequence[Path], start: Path) -> None:
    architecture = line.parts[0].lock.architecture
    try:
        with umask(0o022):
            unpack_essential(packages, start, tree=line.tools_tree, architecture=architecture)
    except ToolError as error:
        if not is_full(error.message):
            raise
        raise no_space(line.workspace) from error


def remove_old_kernels(root: Path, below: Path) -> None:
    """Remove what is left in *root* of the modules of kernels that *below* has and *root* has not.

    Besides what the package brought, mkosi puts the kernel there, and depmod its indexes.
    """
    for kernel in sorted(below.glob("boot/vmlinuz-*")):
        version = kernel.name.removeprefix("vmlinuz-")
        if not (root / "boot" / kernel.name).exists():
            remove(root / "usr/lib/modules" / version)


def _apply_local(line: Line, part: Part, root: Path) -> None:
    recipe, directory = part.loaded.recipe, part.loaded.directory
    with line.timings.stage("local"), umask(0o022):
        agent = compile_agent(root, line.agent) if recipe.agent and line.agent else None
        apply_local(root, recipe, directory=directory, tools_tree=line.tools_tree, agent=agent)
        with _log(line, part, "scripts") as log:
            run_scripts(
                root,
                recipe.scripts,
                directory=directory,
                tools_tree=line.tools_tree,
                scratch=line.workspace,
                epoch=part.lock.epoch,
                log=log,
            )
    verify_unchanged(part.loaded)
    with line.timings.stage("normalise"):
        normalise(root, epoch=part.lock.epoch, keep=part.allowed_secrets)
        verify_no_secrets(root, allow=part.allowed_secrets, exclude=part.exclude)
        settle(root)


def _find(line: Line, inputs: StageInputs) -> Tree | None:
    """Return a whole tree that is there, in the workspace or in the cache."""
    found = line._trees.get(inputs.key)
    if found is None:
        found = _restore(line, inputs)
        if found:
            line._trees[inputs.key] = found
    return found


def _restore(line: Line, inputs: StageInputs) -> Tree | None:
    if line.cache is None:
        return None
    stored = line.cache.peek(inputs.key)
    if stored is None:
        return None
    line._count += 1
    root = line.workspace / f"tree-{line._count}"
    with line.timings.stage("restore"):
        try:
            entries = restore_tree(stored, line.cache, root)
        except (VerificationError, FileNotFoundError) as error:  # damaged, or trimmed meanwhile
            line.cache.throw_away(stored, error)
            if root.exists():
                remove(root)
            return None
    line.cache.touch(stored)
    line.told[inputs.key] = "reused"
    return Tree(root=root, entries=tuple(entries))


def _keep(line: Line, inputs: StageInputs, root: Path, *, parent: Digest | None) -> Tree:
    """Return the tree *root*, listed, and stored where there is a cache."""
    tree = _save(line, inputs, root, parent=parent)
    if tree is None:
        tree = Tree(root=root, entries=_list(root))
    line._trees[inputs.key] = tree
    return tree


def _save(line: Line, inputs: StageInputs, root: Path, *, parent: Digest | None) -> Tree | None:
    """Store the tree *root*; None without a cache. A cache that cannot be written is told, once."""
    line.told[inputs.key] = "made"
    cache = line.cache
    if cache is None:
        return None
    with line.timings.stage("store"):
        tree = Tree(root=root, entries=_list(root))
        below = cache.peek(parent) if parent else None
        try:
            with cache.making(inputs) as draft:
                save_tree(draft, tree.entries, tree.root, cache=cache, parent=below)
        except (VerificationError, OSError) as error:
            logger.warning("cache: %s is not kept: %s", inputs.stage, error)
    return tree


def _list(root: Path) -> tuple[Entry, ...]:
    return tuple(digest_contents(resolve_stand_ins(list_tree(root), root), root))


@contextlib.contextmanager
def _log(line: Line, part: Part, stage: str) -> Iterator[Path]:
    """Name the file that programs of *stage* write to; after a good end it has a lasting name.

    Until then the name is this build's alone: another of the same recipe may run beside it.
    """
    lasting = line.logs / f"{part.loaded.recipe.name}-{stage}.log"
    own = lasting.with_name(f"{lasting.stem}-{line.workspace.name.rpartition('.')[2]}.log")
    yield own
    if own.exists():
        own.replace(lasting)
