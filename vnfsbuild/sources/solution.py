"""What packages a wish means: apt's solver is asked, as mkosi will ask it, and takes what is there.

A lock is kept to as far as it goes: its packages are preferred, and where the wish cannot be had
with them, others move, but only those that must.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vnfsbuild.errors import VnfsbuildError
from vnfsbuild.lock import LockedPackage
from vnfsbuild.sources.apt import (
    OTHER_SOLVER,
    Apt,
    Choice,
    Offer,
    UnknownPackageError,
    UnsolvableError,
    find_downloads,
    find_package_names,
    find_removals,
    prepare,
    solve,
)
from vnfsbuild.sources.control import sha256_of, split_stanzas
from vnfsbuild.sources.metadata import Verified
from vnfsbuild.sources.repository import LOCAL

KEPT = "kept"
"""What the offer of a lock's packages is called; no repository has such a name."""

PRIORITY_LOCAL = 995
PRIORITY_KEPT = 990
"""Above the 500 that archives have; below 1000, which would take packages away."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What is asked for."""

    steps: tuple[tuple[str, ...], ...]
    """asked one after the other, each where the answers of those before are installed"""
    alone: tuple[str, ...] = ()
    """without what they depend on"""
    removed: tuple[str, ...] = ()
    """not to be installed, in the last step"""
    recommends: bool = False
    installed: tuple[Choice, ...] = ()
    """there before the first step: a base's packages"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Solver:
    """The apt that is asked."""

    architecture: str
    """Debian's name"""
    directory: Path
    """it works in directories below"""
    make_prefix: Callable[[Path], tuple[str, ...]]
    """directory that it may write to → argv that it is run by"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Supply:
    """What may be chosen from."""

    verified: tuple[Verified, ...] = ()
    local: tuple[Choice, ...] = ()
    """packages beside the recipe: preferred to all others"""
    kept: tuple[Choice, ...] = ()
    """packages of a lock: preferred to those of repositories"""
    installed: tuple[Choice, ...] = ()
    """a base's packages"""


def find_solution(wish: Wish, supply: Supply, solver: Solver) -> tuple[Choice, ...]:
    """Return the packages that *wish* means.

    Raises:
        UnknownPackageError: there is no package of some name.
        UnsolvableError: they cannot be installed together.
    """
    chosen = _ask(wish, _make_offers(supply), solver, may_move=bool(supply.kept))
    rows = {item.package.sha256: item for item in (*supply.kept, *supply.local)}
    chosen = tuple(rows.get(item.package.sha256, item) for item in chosen)
    return _settle(wish, chosen, solver) if supply.kept and chosen else chosen


def find_kept(wish: Wish, supply: Supply, solver: Solver) -> tuple[Choice, ...] | None:
    """Return what *wish* means when nothing but what *supply* keeps is there.

    None where that is not enough.
    """
    offered = (*supply.kept, *supply.local, *wish.installed)
    there = {item.package.name for item in offered}
    removed = tuple(name for name in wish.removed if name in there)
    try:
        return find_solution(replace(wish, removed=removed), replace(supply, verified=()), solver)
    except (UnknownPackageError, UnsolvableError):
        return None


def find_vanishing(wish: Wish, chosen: Sequence[Choice], solver: Solver) -> tuple[str, ...]:
    """Return which packages that were installed go when *wish* is had by *chosen*, by name."""
    offer = Offer(repository=KEPT, packages=_render(chosen))
    with tempfile.TemporaryDirectory(dir=solver.directory, prefix="apt.") as name:
        apt = _prepare((offer,), solver, Path(name), wish)
        words = [*wish.steps[-1], *(f"{item}-" for item in wish.removed)]
        return find_removals(apt, words, installed=wish.installed)


def find_known_names(supply: Supply, solver: Solver) -> list[str]:
    """Return the names of all packages there are."""
    with tempfile.TemporaryDirectory(dir=solver.directory, prefix="apt.") as name:
        return find_package_names(
            _prepare(_make_offers(supply), solver, Path(name), Wish(steps=()))
        )


def find_stanzas(
    verified: Iterable[Verified], packages: Iterable[LockedPackage]
) -> dict[LockedPackage, str]:
    """Return the stanzas of those of *packages* that repositories still have."""
    wanted = {item.sha256: item for item in packages}
    found = {}
    for index in (path for item in verified for path in item.indexes) if wanted else ():
        for stanza in split_stanzas(index.read_text(encoding="utf-8")):
            if (sha256 := sha256_of(stanza)) in wanted:
                found[wanted[sha256]] = stanza
    return found


def _settle(wish: Wish, chosen: Sequence[Choice], solver: Solver) -> tuple[Choice, ...]:
    """Return what mkosi will install where it is given *chosen* and nothing else.

    The solver that makes others move is not the one that mkosi asks, so this one is asked again.
    """
    names = {item.package.name for item in (*chosen, *wish.installed)}
    removed = tuple(name for name in wish.removed if name in names)
    offer = Offer(repository=KEPT, packages=_render(chosen))
    rows = {item.package.sha256: item for item in chosen}
    settled = _ask(replace(wish, removed=removed), (offer,), solver, may_move=False)
    return tuple(rows[item.package.sha256] for item in settled)


def _ask(
    wish: Wish, offers: Sequence[Offer], solver: Solver, *, may_move: bool
) -> tuple[Choice, ...]:
    with tempfile.TemporaryDirectory(dir=solver.directory, prefix="apt.") as name:
        apt = _prepare(offers, solver, Path(name), wish)
        try:
            return _take_steps(apt, wish, ())
        except UnsolvableError:
            if not may_move:
                raise
        return _take_steps(apt, wish, OTHER_SOLVER)


def _take_steps(apt: Apt, wish: Wish, settings: Sequence[str]) -> tuple[Choice, ...]:
    found: dict[str, Choice] = {}
    there = {item.package.name: item for item in wish.installed}
    for step in wish.steps:
        removed = [f"{name}-" for name in wish.removed] if step is wish.steps[-1] else []
        words = [*step, *removed]
        installed = tuple({**there, **found}.values())
        answer = solve(apt, words, installed=installed, settings=settings)
        # A step may put another version in the place of one before it.
        found.update({item.package.name: item for item in answer})
    for item in find_downloads(apt, wish.alone) if wish.alone else ():
        found[item.package.name] = item
    return tuple(found[name] for name in sorted(found))


def _prepare(offers: Sequence[Offer], solver: Solver, directory: Path, wish: Wish) -> Apt:
    apt = Apt(
        directory=directory,
        offers=tuple(offers),
        architecture=solver.architecture,
        prefix=solver.make_prefix(directory),
    )
    prepare(apt, recommends=wish.recommends)
    return apt


def _make_offers(supply: Supply) -> tuple[Offer, ...]:
    offers = [
        Offer(repository=item.repository.id, packages=index, fields=item.release.fields)
        for item in supply.verified
        for index in item.indexes
    ]
    if supply.local:
        offers.append(
            Offer(repository=LOCAL, packages=_render(supply.local), priority=PRIORITY_LOCAL)
        )
    if supply.kept:
        offers.append(Offer(repository=KEPT, packages=_render(supply.kept), priority=PRIORITY_KEPT))
    if not offers:
        raise VnfsbuildError("no repository to choose packages from")
    return tuple(offers)


def _render(choices: Iterable[Choice]) -> str:
    return "\n".join(item.stanza for item in choices)


def make_kept(stanzas: Mapping[LockedPackage, str]) -> tuple[Choice, ...]:
    """Return the packages of a lock as the solver is offered them."""
    return tuple(
        Choice(package=item, stanza=stanzas[item])
        for item in sorted(stanzas, key=lambda found: (found.name, found.sha256))
    )
