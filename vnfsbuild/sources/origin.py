"""Where locked packages may be had: mirrors, in the order in which they are asked.

The lock names no mirror, for the digest decides: any that has the bytes will do.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from vnfsbuild.distributions import DEB, is_rpm, place_component
from vnfsbuild.distributions import distribution_of as distribution_of  # part of what this offers
from vnfsbuild.lock import LockedPackage
from vnfsbuild.origins import Distribution
from vnfsbuild.recipe import Recipe
from vnfsbuild.sources.mirror import capture_default_archive, find_host_archive
from vnfsbuild.sources.repository import LOCAL, Archive, make_foreign


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """What is known of where packages come from, besides what the host is configured with."""

    distribution: Distribution | None = None
    foreign: tuple[tuple[str, str], ...] = ()
    """id of a repository → its URL"""
    directory: Path | None = None
    """of the recipe: packages beside it are there"""
    mirrors: tuple[str, ...] = ()
    """URLs of whatever may have any of them: vendored repositories, snapshots"""


def make_origin(recipe: Recipe, directory: Path, *, mirrors: Iterable[str] = ()) -> Origin:
    """Return where the packages of *recipe* in *directory* come from; *mirrors* are asked first."""
    return Origin(
        distribution=recipe.distribution,
        foreign=tuple(
            (item.id, item.uri) for item in make_foreign(recipe.repositories, directory=directory)
        ),
        directory=directory,
        mirrors=tuple(item.rstrip("/") for item in mirrors),
    )


def make_urls(
    packages: Iterable[LockedPackage],
    origin: Origin,
    *,
    tools: Path,
    environment: Mapping[str, str] | None = None,
) -> dict[str, tuple[str, ...]]:
    """Return where *packages* may be: sha256 → URLs, the best first.

    *tools* is the directory of tools trees, where mkosi is asked for its default.
    """
    env = os.environ if environment is None else environment
    everywhere = list(origin.mirrors)
    if env.get("VNFS_MIRROR"):
        everywhere.append(env["VNFS_MIRROR"].rstrip("/"))
    if env.get("VNFS_SECURITY_MIRROR", "none") != "none":
        everywhere.append(env["VNFS_SECURITY_MIRROR"].rstrip("/"))
    archives: dict[str, list[Archive]] = {}
    tops = _find_tops(origin, env.get("VNFS_RPM_MIRROR"))
    found = {}
    for item in packages:
        distribution = distribution_of(item.repository)
        if distribution in DEB and distribution not in archives:
            release = item.repository.split("-")[1]
            archives[distribution] = _find_archives(distribution, release, origin, tools)
        of_it = archives[distribution] if distribution in DEB else []
        urls = _make_urls(item, origin, everywhere=everywhere, archives=of_it, tops=tops)
        found[item.sha256] = tuple(dict.fromkeys(urls))
    return found


def vendored_path(item: LockedPackage) -> str:
    """Return where a vendored repository has *item*."""
    # Two repositories of others may have different packages of one path.
    return item.path if distribution_of(item.repository) else f"{item.repository}/{item.path}"


def _make_urls(
    item: LockedPackage,
    origin: Origin,
    *,
    everywhere: list[str],
    archives: list[Archive],
    tops: list[str],
) -> list[str]:
    urls = []
    if item.repository == LOCAL and origin.directory:
        urls.append((origin.directory / item.path).absolute().as_uri())
    urls += [f"{mirror}/{_quote(vendored_path(item))}" for mirror in everywhere]
    path = _quote(item.path)
    urls += [f"{url}/{path}" for name, url in origin.foreign if name == item.repository]
    if distribution_of(item.repository) not in (None, *DEB):
        urls += [f"{top}/{path}" for top in tops]
    for archive in archives:
        security = item.repository.endswith("-security")
        bases = [archive.security, archive.main] if security else [archive.main]
        urls += [f"{base}/{path}" for base in bases if base]
    return urls


def _find_tops(origin: Origin, mirror: str | None) -> list[str]:
    """Return where the repositories of the recipe's RPM distribution are: mirrors, then vaults."""
    named = origin.distribution
    if named is None or not is_rpm(named.id):
        return []
    top, _ = place_component(named.id, "", release=named.release, architecture=named.architecture)
    mirrors = [item.rstrip("/") for item in (named.mirror, mirror) if item]
    return [*(f"{item}/{top}".rstrip("/") for item in mirrors), *named.vaults]


def _find_archives(distribution: str, release: str, origin: Origin, tools: Path) -> list[Archive]:
    """Return the recipe's archive, then the host's; where there is neither, mkosi's default."""
    named, found = origin.distribution, []
    if named and named.id == distribution and named.mirror:
        found.append(Archive(main=named.mirror, security=named.security_mirror))
    host = find_host_archive(distribution)
    if host is None:
        roots = sorted(path for path in tools.glob("build-*") if path.is_dir())
        host = capture_default_archive(distribution, release, roots=roots)
    return [*found, host] if host else found


def _quote(path: str) -> str:
    return quote(path, safe="/+~:,=@")
