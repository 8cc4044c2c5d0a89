"""A new lock: of the one before and what repositories have today, as little moved as was asked."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vnfsbuild import rpmlock
from vnfsbuild.builder import find_builder
from vnfsbuild.distributions import is_rpm, tools_kind
from vnfsbuild.errors import InputError
from vnfsbuild.inputs import find_stale
from vnfsbuild.lock import (
    Lock,
    LockedBase,
    LockedPackage,
    LockedRepository,
    sort_packages,
)
from vnfsbuild.packages import find_stanza, is_rpm_file, save_stanza
from vnfsbuild.recipe import FILE, Recipe
from vnfsbuild.recipefiles import LoadedRecipe, find_local_packages
from vnfsbuild.sources import deb
from vnfsbuild.sources.apt import (
    DEBIAN_ARCHITECTURES,
    Choice,
    UnknownPackageError,
    UnsolvableError,
    make_choice,
)
from vnfsbuild.sources.metadata import Verified, fetch_metadata
from vnfsbuild.sources.mirror import capture_proxies, find_archive
from vnfsbuild.sources.origin import distribution_of, make_origin
from vnfsbuild.sources.repository import LOCAL, Repository, make_foreign, make_repositories
from vnfsbuild.sources.solution import (
    Supply,
    Wish,
    find_kept,
    find_known_names,
    find_solution,
    find_stanzas,
    make_kept,
)
from vnfsbuild.toolstree import (
    RELEASE,
    ensure_locked_tree,
    find_kept_tools,
    find_programs_tree,
    make_solver,
    make_verifier,
    renew_tools_tree,
)
from vnfsbuild.unknown import tell_unknown as tell_unknown  # part of what this offers

logger = logging.getLogger(__name__)

# What mkosi installs first, on an empty status, before it asks for the wanted packages.
ESSENTIAL = ("?essential", "base-files")


@dataclass(frozen=True, kw_only=True, slots=True)
class Update:
    """What may move where there is a lock already; the rest stays as far as that goes."""

    everything: bool = False
    """to what repositories have today"""
    names: tuple[str, ...] = ()


KEEP = Update()


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What a new lock is made from."""

    loaded: LoadedRecipe
    cache: Path
    before: Lock | None = None
    update: Update = KEEP
    allow_older: bool = False
    """whether metadata may be older than the lock's"""
    now: int
    bases: tuple[Lock, ...] = ()
    """the locks of what it is built upon, the undermost first"""
    base: LockedBase | None = None
    """what the new lock says of the last of them"""
    progress: Callable[[str], None] = logger.info

    @property
    def recipe(self) -> Recipe:
        """The recipe."""
        return self.loaded.recipe

    @property
    def rpm(self) -> bool:
        """Whether the packages are of RPM's kind."""
        return is_rpm(self.recipe.distribution.id)

    @property
    def tools_kind(self) -> str:
        """What kind of tools tree it is built by."""
        return tools_kind(self.recipe.distribution.id)

    @property
    def wish(self) -> Wish:
        """What the recipe asks for, in the steps in which mkosi asks."""
        packages = self.recipe.packages
        return Wish(
            steps=(ESSENTIAL, self.recipe.wanted),
            removed=packages.remove,
            recommends=packages.recommends,
        )

    @property
    def architecture(self) -> str:
        """Debian's name of it."""
        return DEBIAN_ARCHITECTURES[self.recipe.distribution.architecture]


def make_lock(request: Request) -> Lock:
    """Return what the recipe means today; of the lock before, all is kept that need not move.

    Its serial is one more than that one's; where nothing else changed, it is that one.

    Raises:
        InputError: no repository has a package that the recipe names, or they do not go together.
        VerificationError: metadata is not what it must be.
        VnfsbuildError: a mirror fails.
    """
    before = request.before
    if before and request.update == KEEP and _is_fresh(before, request.loaded):
        return before
    made = _find_without_network(request) or _make_from_repositories(request)
    if before is None:
        return made
    if is_same_content(made, before):
        # Newer metadata that changes no package is no reason for another capsule.
        made = replace(made, repositories=before.repositories, epoch=before.epoch)
    return before if made == before else replace(made, serial=before.serial + 1)


def _is_fresh(lock: Lock, loaded: LoadedRecipe) -> bool:
    stale = find_stale(lock, recipe=loaded.digest, files=loaded.files, keys=loaded.keys)
    return not stale and lock.builder == find_builder()


def _find_without_network(request: Request) -> Lock | None:
    """Return a lock of packages that the one before has; None where that is not enough."""
    before, recipe = request.before, request.recipe
    # What is only recommended would silently stay away where it is not locked yet.
    if before is None or request.update != KEEP or recipe.packages.recommends:
        return None
    if not has_same_repositories(before, request):
        return None
    kept_tools = find_kept_choices(request, before.tools, ())
    if len(kept_tools) < len(before.tools):
        return None
    tree = None if request.rpm else find_programs_tree(request.cache)
    if tree is None:
        origin = make_origin(recipe, request.loaded.directory)
        tree = ensure_locked_tree(request.tools_kind, request.cache, before.tools, origin=origin)
    found = _find_kept_packages(request, before, tree)
    tools = find_kept_tools(request.tools_kind, kept_tools, tree=tree, cache=request.cache)
    if found is None or tools is None:
        return None
    request.progress("lock: all that is wanted is locked already: no repository is asked")
    return _make(request, found, tools, before.repositories, before.epoch)


def _find_kept_packages(
    request: Request, before: Lock, tree: Path
) -> Sequence[LockedPackage] | None:
    if request.rpm:
        return rpmlock.find_kept_rpms(_want_rpms(request, tree))
    kept = find_kept_choices(request, before.packages, ())
    supply = Supply(local=load_local(request), kept=kept)
    solver = make_solver(request.cache, request.architecture, tree)
    found = find_kept(request.wish, supply, solver)
    return [item.package for item in found] if found is not None else None


def _make_from_repositories(request: Request) -> Lock:
    repositories, of_tools = choose_repositories(request)
    merged = {item.id: item for item in (*of_tools, *repositories)}
    before = request.before
    oldest = {} if request.allow_older or before is None else before.repositories
    verified = fetch_metadata(
        tuple(merged.values()),
        architecture=request.architecture,
        cache=request.cache,
        verifier=make_verifier(find_programs_tree(request.cache)),
        now=request.now,
        least_epochs={item.id: item.epoch for item in oldest},
        proxies=capture_proxies(),
        progress=request.progress,
    )
    tools, tree = _choose_tools(request, keep_only(verified, of_tools))
    rows = [make_row(item) for item in verified]
    if request.rpm:
        packages, more = rpmlock.choose_rpms(_want_rpms(request, tree), make_verifier(tree))
        rows += more
    else:
        packages = _choose_debs(request, verified, keep_only(verified, repositories), tree)
    request.progress(f"lock: {len(packages)} packages")
    rows.sort(key=lambda item: item.id)
    return _make(request, packages, tools, tuple(rows), max(item.epoch for item in rows))


def _choose_debs(
    request: Request, verified: Sequence[Verified], own: tuple[Verified, ...], tree: Path
) -> tuple[LockedPackage, ...]:
    before = request.before
    supply = Supply(
        verified=own,
        local=load_local(request),
        kept=find_kept_choices(request, before.packages, verified) if before else (),
    )
    found = _solve(request, supply, tree)
    for item in found:
        save_stanza(request.cache, item.package, item.stanza)
    return tuple(item.package for item in found)


def _want_rpms(request: Request, tree: Path) -> rpmlock.Wanted:
    """Return what dnf is asked for, with as much of the lock before as shall stay."""
    before, update = request.before, request.update
    staying = before.packages if before and not update.everything else ()
    oldest = before.repositories if before and not request.allow_older else ()
    return rpmlock.Wanted(
        loaded=request.loaded,
        cache=request.cache,
        tree=tree,
        kept=tuple(
            item
            for item in staying
            if is_rpm_file(item) and item.name not in update.names and item.repository != LOCAL
        ),
        now=request.now,
        least_epochs={item.id: item.epoch for item in oldest},
        progress=request.progress,
    )


def choose_repositories(
    request: Request,
) -> tuple[tuple[Repository, ...], tuple[Repository, ...]]:
    """Return the repositories of the image's packages, and of the tools'."""
    distribution = request.recipe.distribution
    tree = find_programs_tree(request.cache)
    roots = (tree,) if tree else ()
    if request.rpm:
        archive = find_archive(release=RELEASE, roots=roots)
        return (), make_repositories(archive, RELEASE, ("main",))
    archive = find_archive(
        distribution.id,
        release=distribution.release,
        mirror=distribution.mirror,
        security_mirror=distribution.security_mirror,
        roots=roots,
    )
    of_debian = (
        archive if distribution.id == "debian" else find_archive(release=RELEASE, roots=roots)
    )
    foreign = make_foreign(request.recipe.repositories, directory=request.loaded.directory)
    own = make_repositories(archive, distribution.release, distribution.components)
    return (*own, *foreign), make_repositories(of_debian, RELEASE, ("main",))


def _choose_tools(
    request: Request, verified: tuple[Verified, ...]
) -> tuple[tuple[LockedPackage, ...], Path]:
    origin = make_origin(request.recipe, request.loaded.directory)
    before = request.before.tools if request.before else ()
    kept = find_kept_choices(request, before, verified)
    if before and len(kept) == len(before):
        tree = ensure_locked_tree(request.tools_kind, request.cache, before, origin=origin)
        if found := find_kept_tools(request.tools_kind, kept, tree=tree, cache=request.cache):
            return found, tree
    supply = Supply(verified=verified, kept=kept)
    return renew_tools_tree(
        request.tools_kind, request.cache, supply, origin=origin, progress=request.progress
    )


def _solve(request: Request, supply: Supply, tree: Path) -> tuple[Choice, ...]:
    solver = make_solver(request.cache, request.architecture, tree)
    where = str(request.loaded.directory / FILE)
    try:
        return find_solution(request.wish, supply, solver)
    except UnknownPackageError as error:
        known = find_known_names(supply, solver)
        raise tell_unknown(error.names, request.recipe, known, where=where) from error
    except UnsolvableError as error:
        raise InputError(f"{where}: packages: {error.message}") from error


def find_kept_choices(
    request: Request, packages: Sequence[LockedPackage], verified: Sequence[Verified]
) -> tuple[Choice, ...]:
    """Return those of a lock's *packages* that shall stay, and of which we know what they need."""
    if request.update.everything or request.before is None:
        return ()
    of_image = {item.name for item in request.before.packages}
    moving = set(request.update.names)
    if packages == request.before.tools:
        moving -= of_image
    # Packages beside the recipe are what their files are today.
    staying = [item for item in packages if item.name not in moving and item.repository != LOCAL]
    stanzas = {item: find_stanza(request.cache, item) for item in staying}
    known = {item: text for item, text in stanzas.items() if text is not None}
    known |= find_stanzas(verified, [item for item in staying if item not in known])
    for item in staying if verified else ():
        if item not in known:
            request.progress(f"lock: {item.name} {item.version}: no repository has it any more")
    return make_kept(known)


def load_local(request: Request) -> tuple[Choice, ...]:
    directory = request.loaded.directory
    found = []
    for path in find_local_packages(directory, request.recipe):
        name = str(path.relative_to(directory))
        choice = make_choice(deb.make_stanza(path), repository=LOCAL)
        found.append(replace(choice, package=replace(choice.package, path=name)))
    return tuple(found)


def keep_only(
    verified: Sequence[Verified], repositories: Sequence[Repository]
) -> tuple[Verified, ...]:
    ids = {item.id for item in repositories}
    return tuple(item for item in verified if item.repository.id in ids)


def make_row(item: Verified) -> LockedRepository:
    return LockedRepository(
        id=item.repository.id,
        suite=item.repository.suite,
        components=item.repository.components,
        keys=item.keys,
        metadata=item.digest,
        epoch=item.release.epoch,
    )


def _make(
    request: Request,
    packages: Sequence[LockedPackage],
    tools: Sequence[LockedPackage],
    repositories: tuple[LockedRepository, ...],
    epoch: int,
) -> Lock:
    distribution = request.recipe.distribution
    return Lock(
        serial=request.before.serial if request.before else 1,
        epoch=epoch,
        distribution=distribution.id,
        release=distribution.release,
        architecture=distribution.architecture,
        recipe=request.loaded.digest,
        recipe_keys=request.loaded.keys,
        files=request.loaded.files,
        repositories=repositories,
        packages=sort_packages(packages),
        tools=sort_packages(tools),
        builder=find_builder(),
    )


def has_same_repositories(before: Lock, request: Request) -> bool:
    """Tell whether the recipe names the repositories that *before* was made from."""
    wanted = request.recipe.distribution
    if request.rpm:
        return rpmlock.has_same_repositories(before, request.loaded)
    own = [item for item in before.repositories if distribution_of(item.id) == wanted.id]
    foreign = make_foreign(request.recipe.repositories, directory=request.loaded.directory)
    return (
        (before.distribution, before.release, before.architecture)
        == (wanted.id, wanted.release, wanted.architecture)
        and any(
            item.suite == wanted.release and item.components == wanted.components for item in own
        )
        and {(item.id, item.suite, item.components) for item in foreign}
        == {
            (item.id, item.suite, item.components)
            for item in before.repositories
            if distribution_of(item.id) is None
        }
    )


def is_same_content(made: Lock, before: Lock) -> bool:
    def shape(lock: Lock) -> object:
        rows = [(item.id, item.suite, item.components, item.trust) for item in lock.repositories]
        return lock.packages, lock.tools, sorted(rows)

    return shape(made) == shape(before)
