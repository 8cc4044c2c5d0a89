"""A new lock of a recipe with a base: only what it adds to its base's packages, or upgrades.

The solver is told that the base is installed, as it will be when the recipe is built; so its answer
is the difference. What the base has stays as the base has it, unless it is named, or must move.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from vnfsbuild import newlock
from vnfsbuild.builder import find_builder
from vnfsbuild.errors import InputError, VnfsbuildError
from vnfsbuild.inputs import find_stale
from vnfsbuild.lock import Lock, LockedRepository, lay_over, sort_packages
from vnfsbuild.newlock import (
    KEEP,
    Request,
    choose_repositories,
    find_kept_choices,
    keep_only,
    load_local,
    make_row,
    tell_unknown,
)
from vnfsbuild.packages import find_stanza, save_stanza
from vnfsbuild.recipe import FILE
from vnfsbuild.sources.apt import Choice, UnknownPackageError, UnsolvableError
from vnfsbuild.sources.control import parse_stanzas
from vnfsbuild.sources.metadata import Verified, fetch_metadata
from vnfsbuild.sources.mirror import capture_proxies
from vnfsbuild.sources.origin import distribution_of, make_origin
from vnfsbuild.sources.repository import make_foreign
from vnfsbuild.sources.solution import (
    Solver,
    Supply,
    Wish,
    find_kept,
    find_known_names,
    find_solution,
    find_stanzas,
    find_vanishing,
    make_kept,
)
from vnfsbuild.toolstree import (
    ensure_locked_tree,
    find_programs_tree,
    make_solver,
    make_verifier,
)

KERNELS = ("linux-image-", "linux-modules-")
"""How packages begin that a child's own kernel takes the place of."""


def make_lock(request: Request) -> Lock:
    """Return what the recipe means today, with a base or without: see :mod:`vnfsbuild.newlock`.

    Raises:
        InputError: no repository has a package that the recipe names, or they do not go together.
        VerificationError: metadata is not what it must be.
        VnfsbuildError: a mirror fails.
    """
    if not request.bases:
        return newlock.make_lock(request)
    if request.rpm:
        raise InputError(
            f"{request.loaded.directory / FILE}: base: building upon another recipe is not there "
            f"yet for RPM distributions; found {request.recipe.base!r}, expected no base"
        )
    before = request.before
    if before and request.update == KEEP and _is_fresh(before, request):
        return before
    made = _find_without_network(request) or _make_from_repositories(request)
    if before is None:
        return made
    if _shape(made) == _shape(before):
        made = replace(made, repositories=before.repositories)
    return before if made == before else replace(made, serial=before.serial + 1)


def _is_fresh(lock: Lock, request: Request) -> bool:
    loaded = request.loaded
    stale = find_stale(
        lock, recipe=loaded.digest, files=loaded.files, keys=loaded.keys, base=request.base
    )
    return not stale and lock.builder == find_builder()


def _find_without_network(request: Request) -> Lock | None:
    """Return a lock of packages that the base and the lock before have; None: not enough."""
    before, recipe = request.before, request.recipe
    if request.update != KEEP or recipe.packages.recommends:
        return None
    if before and not _has_same_repositories(before, request):
        return None
    supply = _make_supply(request, ())
    if supply is None:
        return None
    solver, wish = _make_solver(request), _make_wish(request, supply)
    found = find_kept(wish, supply, solver)
    if found is None:
        return None
    if kernels := find_old_kernels(recipe.kernel.package, wish.installed, found):
        wish = replace(wish, removed=(*wish.removed, *kernels))
        found = find_kept(wish, supply, solver)
        if found is None:
            return None
    request.progress("lock: all that is wanted is locked already: no repository is asked")
    return _make(request, wish, found, solver, before.repositories if before else ())


def _make_from_repositories(request: Request) -> Lock:
    repositories, _ = choose_repositories(request)
    before = request.before
    oldest = {item.id: item.epoch for lock in request.bases for item in lock.repositories}
    oldest |= {item.id: item.epoch for item in (before.repositories if before else ())}
    verified = fetch_metadata(
        repositories,
        architecture=request.architecture,
        cache=request.cache,
        verifier=make_verifier(find_programs_tree(request.cache)),
        now=request.now,
        least_epochs={} if request.allow_older else oldest,
        proxies=capture_proxies(),
        progress=request.progress,
    )
    supply = _make_supply(request, keep_only(verified, repositories))
    if supply is None:
        raise VnfsbuildError(
            f"{request.loaded.directory}: nothing is known of packages of its base's lock",
            hint=f"vnfsbuild fetch {request.loaded.base.directory if request.loaded.base else ''}",
        )
    solver, wish = _make_solver(request), _make_wish(request, supply)
    where = str(request.loaded.directory / FILE)
    try:
        found = find_solution(wish, supply, solver)
        if kernels := find_old_kernels(request.recipe.kernel.package, wish.installed, found):
            wish = replace(wish, removed=(*wish.removed, *kernels))
            found = find_solution(wish, supply, solver)
    except UnknownPackageError as error:
        known = find_known_names(supply, solver)
        raise tell_unknown(error.names, request.recipe, known, where=where) from error
    except UnsolvableError as error:
        raise InputError(f"{where}: packages: {error.message}") from error
    for item in found:
        save_stanza(request.cache, item.package, item.stanza)
    rows = tuple(make_row(item) for item in sorted(verified, key=lambda item: item.repository.id))
    made = _make(request, wish, found, solver, rows)
    request.progress(f"lock: {len(made.packages)} packages upon those of the base")
    return made


def find_old_kernels(
    wanted: str, installed: Sequence[Choice], found: Sequence[Choice]
) -> tuple[str, ...]:
    """Return which kernels of the base, *installed*, the kernel package *wanted* does not need.

    *found* is what is added. A tree has one kernel: the old one goes when the child brings its own.
    """
    there = {item.package.name: item for item in (*installed, *found)}
    needed: set[str] = set()
    todo = [wanted]
    while todo:
        name = todo.pop()
        if name in there and name not in needed:
            needed.add(name)
            todo += [item for item in list_needs(there[name].stanza) if item.startswith(KERNELS)]
    old = {item.package.name for item in installed if item.package.name.startswith(KERNELS)}
    return tuple(sorted(old - needed))


def list_needs(stanza: str) -> list[str]:
    """Return the names of all packages that *stanza* says it depends on, alternatives too."""
    fields: Mapping[str, str] = next(parse_stanzas(stanza), {})
    text = ",".join(fields.get(key, "") for key in ("depends", "pre-depends"))
    return [word.strip().split(" ")[0].partition(":")[0] for word in re.split(r"[,|]", text)]


def _make_supply(request: Request, verified: Sequence[Verified]) -> Supply | None:
    """Return what may be chosen from; None where nobody knows what the base's packages need."""
    of_base = _find_base_choices(request, verified)
    if of_base is None:
        return None
    moving = set(request.update.names)
    staying = tuple(item for item in of_base if item.package.name not in moving)
    own = request.before.packages if request.before else ()
    kept = find_kept_choices(request, own, verified)
    known = {item.package.sha256 for item in kept}
    return Supply(
        verified=tuple(verified),
        local=load_local(request),
        kept=(*kept, *(item for item in staying if item.package.sha256 not in known)),
        installed=of_base,
    )


def _find_base_choices(request: Request, verified: Sequence[Verified]) -> tuple[Choice, ...] | None:
    packages = lay_over(request.bases).packages
    stanzas = {item: find_stanza(request.cache, item) for item in packages}
    known = {item: text for item, text in stanzas.items() if text is not None}
    known |= find_stanzas(verified, [item for item in packages if item not in known])
    return make_kept(known) if len(known) == len(packages) else None


def _make_wish(request: Request, supply: Supply) -> Wish:
    """Return what is asked for: of the base's packages also those that are upgraded here."""
    packages = request.recipe.packages
    names = {item.package.name for item in supply.installed}
    before = request.before.packages if request.before else ()
    upgraded = [item.name for item in before if item.name in names]
    upgraded += [name for name in request.update.names if name in names]
    return Wish(
        steps=(tuple(dict.fromkeys((*request.recipe.wanted, *upgraded))),),
        removed=packages.remove,
        recommends=packages.recommends,
        installed=supply.installed,
    )


def _make_solver(request: Request) -> Solver:
    tree = find_programs_tree(request.cache)
    if tree is None:
        base = request.loaded.chain[0]
        origin = make_origin(base.recipe, base.directory)
        tree = ensure_locked_tree("build", request.cache, request.bases[0].tools, origin=origin)
    return make_solver(request.cache, request.architecture, tree)


def _make(
    request: Request,
    wish: Wish,
    found: Sequence[Choice],
    solver: Solver,
    repositories: tuple[LockedRepository, ...],
) -> Lock:
    base = request.bases[-1]
    packages = sort_packages(item.package for item in found)
    used = {item.repository for item in packages}
    return Lock(
        serial=request.before.serial if request.before else 1,
        # Its base's: then nothing of the base has another time in the child's tree.
        epoch=base.epoch,
        distribution=base.distribution,
        release=base.release,
        architecture=base.architecture,
        recipe=request.loaded.digest,
        recipe_keys=request.loaded.keys,
        files=request.loaded.files,
        repositories=tuple(item for item in repositories if used),
        packages=packages,
        tools=(),
        builder=find_builder(),
        base=request.base,
        removed=find_vanishing(wish, found, solver) if wish.removed or found else (),
    )


def _has_same_repositories(before: Lock, request: Request) -> bool:
    """Tell whether the recipe names the repositories of others that *before* was made from."""
    foreign = make_foreign(request.recipe.repositories, directory=request.loaded.directory)
    wanted = {(item.id, item.suite, item.components) for item in foreign}
    found = {
        (item.id, item.suite, item.components)
        for item in before.repositories
        if distribution_of(item.id) is None
    }
    return wanted == found or not before.repositories


def _shape(lock: Lock) -> object:
    return lock.packages, lock.removed, lock.base
