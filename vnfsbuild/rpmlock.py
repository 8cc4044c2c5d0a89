"""Which RPM packages a recipe means: dnf's solver is asked, as mkosi will ask it.

Metadata is verified before the solver sees it; where only packages are signed, each one that was
chosen is fetched, and its own signature verified. A lock is kept to as far as it goes.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vnfsbuild.distributions import DEB
from vnfsbuild.errors import InputError, VnfsbuildError
from vnfsbuild.lock import Lock, LockedPackage, LockedRepository
from vnfsbuild.origins import PACKAGES_ONLY
from vnfsbuild.packages import fetch_locked, find_stanza, package_path, save_stanza
from vnfsbuild.recipefiles import LoadedRecipe, find_local_packages
from vnfsbuild.sources.apt import UnknownPackageError, UnsolvableError
from vnfsbuild.sources.createrepo import describe_rpms
from vnfsbuild.sources.dnf import PRIORITY, Question, RpmOffer, UnknownRpmError, solve_rpms
from vnfsbuild.sources.fragments import cut_fragments, parse_fragment
from vnfsbuild.sources.metadata import Verifier, read_keys
from vnfsbuild.sources.mirror import capture_proxies
from vnfsbuild.sources.origin import distribution_of, make_origin
from vnfsbuild.sources.repomd import FILELISTS, PRIMARY
from vnfsbuild.sources.repository import (
    LOCAL,
    Repository,
    make_foreign,
    make_rpm_repositories,
)
from vnfsbuild.sources.rpmmetadata import VerifiedRpms, fetch_rpm_metadata
from vnfsbuild.sources.rpmsignature import verify_package
from vnfsbuild.toolstree import remove_abandoned
from vnfsbuild.unknown import tell_unknown

FIRST = ("basesystem",)
"""What mkosi installs first, into an empty tree, before it asks for the wanted packages."""

KEPT = "kept"
PRIORITY_LOCAL = 10
PRIORITY_KEPT = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What a recipe wants, and what there is to answer with."""

    loaded: LoadedRecipe
    cache: Path
    tree: Path
    """the tools tree whose dnf is asked"""
    kept: tuple[LockedPackage, ...] = ()
    """packages of a lock that shall stay"""
    now: int = 0
    least_epochs: Mapping[str, int]
    progress: Callable[[str], None]

    @property
    def question(self) -> Question:
        """What dnf is asked, in the steps in which mkosi asks."""
        recipe = self.loaded.recipe
        return Question(
            distribution=recipe.distribution.id,
            release=recipe.distribution.release,
            architecture=recipe.distribution.architecture,
            steps=(FIRST, recipe.wanted),
            removed=recipe.packages.remove,
            recommends=recipe.packages.recommends,
        )


Fragments = dict[LockedPackage, str]


def make_repositories(loaded: LoadedRecipe) -> tuple[Repository, ...]:
    """Return the repositories that the recipe means: the distribution's, and those it names.

    Raises:
        InputError: nobody says where the distribution's are.
    """
    distribution = loaded.recipe.distribution
    mirror = distribution.mirror or os.environ.get("VNFS_RPM_MIRROR")
    if mirror is None:
        raise InputError(
            f"{loaded.directory / 'recipe.toml'}: distribution.mirror: missing, expected where the "
            f"repositories of {distribution.id} are",
            hint="VNFS_RPM_MIRROR=https://mirror.example.org/rocky vnfsbuild …, or in the recipe: "
            'mirror = "https://mirror.example.org/rocky"',
        )
    own = make_rpm_repositories(distribution, mirror.rstrip("/"), directory=loaded.directory)
    return (*own, *make_foreign(loaded.recipe.repositories, directory=loaded.directory))


def choose_rpms(
    wanted: Wanted, verifier: Verifier
) -> tuple[tuple[LockedPackage, ...], tuple[LockedRepository, ...]]:
    """Return the packages that the recipe means today, and the repositories they are from.

    Raises:
        InputError: no repository has a package that the recipe names, or they do not go together.
        VerificationError: metadata or a package is not what it must be.
        VnfsbuildError: a mirror fails.
    """
    verified = fetch_rpm_metadata(
        make_repositories(wanted.loaded),
        cache=wanted.cache,
        verifier=verifier,
        now=wanted.now,
        least_epochs=wanted.least_epochs,
        proxies=capture_proxies(),
        progress=wanted.progress,
    )
    kept, local = _find_kept(wanted, verified), _describe_local(wanted)
    offers = [RpmOffer(repository=item.repository.id, indexes=item.indexes) for item in verified]
    found = _solve(wanted, [*offers, *_make_offers(local, kept)])
    rows = {item.sha256: (item, text) for item, text in (kept | local).items()}
    chosen = dict(rows[sha256] for sha256 in found if sha256 in rows)
    chosen |= _look_up(verified, [sha256 for sha256 in found if sha256 not in rows])
    chosen = _settle(wanted, chosen)
    keys = _verify_packages(wanted, verified, chosen, verifier)
    for item, text in chosen.items():
        if item.repository != LOCAL:
            save_stanza(wanted.cache, item, text)
    return tuple(chosen), tuple(_make_row(item, keys) for item in verified)


def find_kept_rpms(wanted: Wanted) -> tuple[LockedPackage, ...] | None:
    """Return what the recipe means when nothing is there but what is locked; None: not enough."""
    kept, local = _find_kept(wanted, ()), _describe_local(wanted)
    there = {item.name for item in (*kept, *local)}
    asked = wanted.question
    removed = tuple(name for name in asked.removed if name in there)
    try:
        found = _ask(replace(asked, removed=removed), _make_offers(local, kept), wanted)
    except (UnknownPackageError, UnsolvableError):
        return None
    rows = {item.sha256: item for item in (*kept, *local)}
    return tuple(rows[sha256] for sha256 in found)


def _make_offers(local: Fragments, kept: Fragments) -> list[RpmOffer]:
    pairs = ((LOCAL, local, PRIORITY_LOCAL), (KEPT, kept, PRIORITY_KEPT))
    return [
        RpmOffer(repository=name, fragments=tuple(rows.values()), priority=priority)
        for name, rows, priority in pairs
        if rows
    ]


def _solve(wanted: Wanted, offers: Sequence[RpmOffer]) -> tuple[str, ...]:
    where = str(wanted.loaded.directory / "recipe.toml")
    try:
        return _ask(wanted.question, offers, wanted)
    except UnknownRpmError as error:
        recipe = wanted.loaded.recipe
        raise tell_unknown(error.names, recipe, error.known, where=where) from error
    except UnsolvableError as error:
        raise InputError(f"{where}: packages: {error.message}") from error


def _settle(wanted: Wanted, chosen: Fragments) -> Fragments:
    """Return what mkosi will install where it is given *chosen* and nothing else."""
    offer = RpmOffer(repository=KEPT, fragments=tuple(chosen.values()), priority=PRIORITY)
    found = set(_ask(replace(wanted.question, removed=()), [offer], wanted))
    return {item: text for item, text in chosen.items() if item.sha256 in found}


def _ask(question: Question, offers: Sequence[RpmOffer], wanted: Wanted) -> tuple[str, ...]:
    parent = wanted.cache / "dnf"
    parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(parent)
    with tempfile.TemporaryDirectory(dir=parent, prefix="dnf.") as name:
        return solve_rpms(question, offers, tree=wanted.tree, directory=Path(name))


def _find_kept(wanted: Wanted, verified: Sequence[VerifiedRpms]) -> Fragments:
    found = {item: find_stanza(wanted.cache, item) for item in wanted.kept}
    known = {item: text for item, text in found.items() if text is not None}
    missing = {item.sha256: item for item, text in found.items() if text is None}
    for source in verified if missing else ():
        texts = cut_fragments(source.indexes[PRIMARY], source.indexes[FILELISTS], missing)
        known |= {missing[sha256]: text for sha256, text in texts.items()}
    there = [item for item in missing.values() if item not in known]
    paths = {package_path(wanted.cache, item.sha256): item for item in there}
    described = describe_rpms([path for path in paths if path.is_file()], wanted.tree, wanted.cache)
    known |= {paths[path]: text for path, text in described.items()}
    for item in there if verified else ():
        if item not in known:
            wanted.progress(f"lock: {item.name} {item.version}: no repository has it any more")
    return known


def _describe_local(wanted: Wanted) -> Fragments:
    directory = wanted.loaded.directory
    paths = find_local_packages(directory, wanted.loaded.recipe)
    found = {}
    for path, text in describe_rpms(paths, wanted.tree, wanted.cache).items():
        item = parse_fragment(text, repository=LOCAL)
        found[replace(item, path=str(path.relative_to(directory)))] = text
    return found


def _look_up(verified: Iterable[VerifiedRpms], wanted: Sequence[str]) -> Fragments:
    found: Fragments = {}
    left = set(wanted)
    for source in verified:
        texts = cut_fragments(source.indexes[PRIMARY], source.indexes[FILELISTS], sorted(left))
        repository = source.repository
        # Packages of the distribution are where its mirrors have them.
        below = "" if repository.suite == "./" else repository.suite
        for sha256, text in texts.items():
            item = parse_fragment(text, repository=repository.id, below=below)
            # The digest may stand in what the metadata says of another package.
            if item.sha256 == sha256:
                found[item] = text
                left.discard(sha256)
    if left:
        raise VnfsbuildError(
            f"{len(left)} packages chosen by dnf are in no index by SHA-256: {min(left)[:12]}…",
            hint="a repository names its packages by another digest, which we do not follow",
        )
    return found


def _verify_packages(
    wanted: Wanted, verified: Sequence[VerifiedRpms], chosen: Fragments, verifier: Verifier
) -> dict[str, tuple[str, ...]]:
    """Verify those of *chosen* whose metadata nobody signed; return who signed them, by id."""
    signers: dict[str, set[str]] = {}
    unsigned = {item.repository.id: item for item in verified if item.trust == PACKAGES_ONLY}
    packages = [item for item in chosen if item.repository in unsigned]
    if packages:
        wanted.progress(f"lock: verifying the signatures of {len(packages)} packages")
        origin = make_origin(wanted.loaded.recipe, wanted.loaded.directory)
        fetch_locked(packages, cache=wanted.cache, origin=origin)
    keys = {name: read_keys(item.repository, verifier.root) for name, item in unsigned.items()}
    for item in packages:
        path = package_path(wanted.cache, item.sha256)
        found = verify_package(item, path, keys=keys[item.repository], gpgv=verifier.gpgv)
        signers.setdefault(item.repository, set()).update(found)
    return {name: tuple(sorted(found)) for name, found in signers.items()}


def _make_row(item: VerifiedRpms, keys: Mapping[str, tuple[str, ...]]) -> LockedRepository:
    return LockedRepository(
        id=item.repository.id,
        suite=item.repository.suite,
        components=(),
        keys=item.keys or keys.get(item.repository.id, ()),
        metadata=item.digest,
        epoch=item.epoch,
        trust=item.trust,
    )


def has_same_repositories(before: Lock, loaded: LoadedRecipe) -> bool:
    """Tell whether the recipe names the repositories that *before* was made from."""
    wanted = loaded.recipe.distribution
    own = make_rpm_repositories(wanted, "", directory=loaded.directory)
    foreign = make_foreign(loaded.recipe.repositories, directory=loaded.directory)
    # Those of the tools are there too.
    rows = [item for item in before.repositories if distribution_of(item.id) not in DEB]
    return (before.distribution, before.release, before.architecture) == (
        wanted.id,
        wanted.release,
        wanted.architecture,
    ) and {(item.id, item.suite, item.trust) for item in rows} == {
        (item.id, item.suite, item.trust) for item in (*own, *foreign)
    }
