"""The package cache: packages by digest, whichever mirror they came from.

A file in it is what its name says: it is verified when it comes in and again before it is used, so
that a damaged disk is noticed and the package fetched once more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vnfsbuild.digest import Digest, digest_of_stream
from vnfsbuild.errors import VnfsbuildError
from vnfsbuild.fetch import fetch
from vnfsbuild.files import write_atomic
from vnfsbuild.lock import LockedPackage
from vnfsbuild.progress import bar
from vnfsbuild.sources import deb
from vnfsbuild.sources.mirror import (
    Repository,
    capture_network_settings,
    find_archive,
    find_proxies,
    make_repositories,
)

logger = logging.getLogger(__name__)

PARALLEL = 4


def package_path(cache: Path, sha256: str) -> Path:
    """Return where the package of this digest is kept in *cache*."""
    return cache / "packages" / "sha256" / sha256


def save_stanza(cache: Path, package: LockedPackage, stanza: str) -> None:
    """Keep what the repository says of *package*: its stanza of the Packages file."""
    path = _stanza_path(cache, package)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        write_atomic(path, stanza.encode())


def load_stanza(cache: Path, package: LockedPackage) -> str:
    """Return the stanza of *package*, made from the package itself where it was not kept."""
    path = _stanza_path(cache, package)
    if path.is_file():
        return path.read_text(encoding="utf-8")
    return deb.make_stanza(package_path(cache, package.sha256))


def find_missing(cache: Path, packages: Iterable[LockedPackage]) -> list[LockedPackage]:
    """Return those of *packages* that the cache lacks; a damaged file is deleted and counts so."""
    items = list({item.sha256: item for item in packages}.values())
    with ThreadPoolExecutor(PARALLEL) as pool:
        whole = list(pool.map(lambda item: _is_whole(cache, item), items))
    return [item for item, found in zip(items, whole, strict=True) if not found]


def fetch_locked(
    packages: Sequence[LockedPackage],
    *,
    cache: Path,
    release: str,
    components: tuple[str, ...] = ("main",),
    mirror: str | None = None,
) -> None:
    """Bring *packages* into *cache*, from *mirror* or whichever one this host uses.

    Where nothing is missing no mirror is asked for, nor needed.

    Raises:
        VnfsbuildError: a package cannot be had; what was fetched until then stays.
    """
    missing = find_missing(cache, packages)
    if missing:
        repositories = make_repositories(find_archive(mirror), release, components)
        proxies = find_proxies(capture_network_settings())
        fetch_packages(missing, make_urls(missing, repositories), cache=cache, proxies=proxies)


def make_urls(
    packages: Iterable[LockedPackage], repositories: Sequence[Repository]
) -> dict[str, str]:
    """Return where *packages* are in *repositories*: sha256 → URL.

    Raises:
        VnfsbuildError: a package is of a repository that is not among them.
    """
    uris = {item.id: item.uri for item in repositories}
    urls = {}
    for item in packages:
        if item.repository not in uris:
            raise VnfsbuildError(
                f"{item.name}: locked from {item.repository}, of which this host knows no mirror",
                hint="add it to this host's apt sources: packages come from where they point",
            )
        urls[item.sha256] = f"{uris[item.repository]}/{item.path}"
    return urls


def fetch_packages(
    packages: Sequence[LockedPackage],
    urls: Mapping[str, str],
    *,
    cache: Path,
    proxies: Mapping[str, str],
) -> None:
    """Fetch *packages* from *urls* into *cache*, several at once, a bar on a terminal.

    Raises:
        FetchError: a mirror failed; what was fetched until then stays.
    """
    package_path(cache, "").mkdir(parents=True, exist_ok=True)
    total_bytes = sum(item.size_bytes for item in packages)
    with bar("packages", total_bytes=total_bytes) as advance, ThreadPoolExecutor(PARALLEL) as pool:
        work = [
            pool.submit(_fetch_one, item, urls[item.sha256], cache, proxies, advance)
            for item in packages
        ]
        try:
            for future in work:
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _fetch_one(
    item: LockedPackage,
    url: str,
    cache: Path,
    proxies: Mapping[str, str],
    on_bytes: Callable[[int], object],
) -> None:
    fetch(
        url,
        package_path(cache, item.sha256),
        digest=Digest(f"sha256:{item.sha256}"),
        size_bytes=item.size_bytes,
        proxies=proxies,
        on_bytes=on_bytes,
    )


def _stanza_path(cache: Path, package: LockedPackage) -> Path:
    return cache / "packages" / "stanza" / package.sha256


def _is_whole(cache: Path, item: LockedPackage) -> bool:
    path = package_path(cache, item.sha256)
    try:
        with path.open("rb") as file:
            digest, _ = digest_of_stream(file)
    except FileNotFoundError:
        return False
    if digest == f"sha256:{item.sha256}":
        return True
    logger.warning("%s: damaged in the cache, fetched again", item.name)
    path.unlink()
    return False
