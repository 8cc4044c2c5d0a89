"""The package cache: packages by digest, whichever mirror they came from.

A file in it is what its name says: it is verified when it comes in and again before it is used, so
that a damaged disk is noticed and the package fetched once more.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from vnfsbuild.digest import Digest, digest_of_stream
from vnfsbuild.errors import VerificationError
from vnfsbuild.fetch import FetchError, fetch
from vnfsbuild.files import write_atomic
from vnfsbuild.lock import LockedPackage
from vnfsbuild.progress import bar
from vnfsbuild.sources import deb
from vnfsbuild.sources.control import parse_stanzas
from vnfsbuild.sources.fragments import parse_fragment
from vnfsbuild.sources.mirror import capture_proxies
from vnfsbuild.sources.origin import Origin, make_urls
from vnfsbuild.sources.rpmsignature import verify_row

logger = logging.getLogger(__name__)

PARALLEL = 4


def package_path(cache: Path, sha256: str) -> Path:
    """Return where the package of this digest is kept in *cache*."""
    return cache / "packages" / "sha256" / sha256


def save_stanza(cache: Path, package: LockedPackage, stanza: str) -> None:
    """Keep what the repository says of *package*, for when it has the package no longer."""
    path = _stanza_path(cache, package)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        write_atomic(path, stanza.encode())


def load_stanza(cache: Path, package: LockedPackage) -> str:
    """Return the stanza of *package*, made from its file in *cache*.

    Always from the file: a build then follows from the packages alone, on whatever host. An RPM
    package has none: its header says all that a solver asks.

    Raises:
        VerificationError: the file is of another package than the lock says.
    """
    if is_rpm_file(package):
        verify_row(package, package_path(cache, package.sha256))
        return ""
    stanza = deb.make_stanza(package_path(cache, package.sha256))
    verify_stanza(package, stanza, where="its own control file")
    return stanza


def find_stanza(cache: Path, package: LockedPackage) -> str | None:
    """Return a stanza of *package*, as it was kept or made from its file; None without either.

    Of an RPM package: what was kept of its repository's metadata, or None.

    Raises:
        VerificationError: there is one, and it is of another package than the lock says.
    """
    path = _stanza_path(cache, package)
    if path.is_file():
        stanza = path.read_text(encoding="utf-8")
        if is_rpm_file(package):
            verify_fragment(package, stanza)
        else:
            verify_stanza(package, stanza, where="what its repository said")
        return stanza
    if is_rpm_file(package):
        return None
    if package_path(cache, package.sha256).is_file():
        return load_stanza(cache, package)
    return None


def verify_stanza(package: LockedPackage, stanza: str, *, where: str) -> None:
    """Raise unless *stanza* is of *package*; *where* says what it was taken from.

    Raises:
        VerificationError: it is of another name, version, architecture, size or digest.
    """
    fields = next(parse_stanzas(stanza), {})
    wanted = {
        "package": package.name,
        "version": package.version,
        "architecture": package.architecture,
        "size": str(package.size_bytes),
        "sha256": package.sha256,
    }
    for key, value in wanted.items():
        if fields.get(key) != value:
            raise VerificationError(
                f"recipe.lock: {package.name} {package.version}: {key} {value!r}, but "
                f"sha256:{package.sha256[:12]}… is, by {where}, {fields.get('package')} "
                f"{fields.get('version')} with {key} {fields.get(key)!r}",
                hint="the lock was edited: take it from git again, or make it anew",
            )


def is_rpm_file(package: LockedPackage) -> bool:
    """Tell whether *package* is one of RPM's kind."""
    return package.path.endswith(".rpm")


def verify_fragment(package: LockedPackage, fragment: str) -> None:
    """Raise unless *fragment*, kept of a repository's metadata, is of the RPM package *package*.

    Raises:
        VerificationError: it is of another name, version, architecture, size or digest.
    """
    found = parse_fragment(fragment, repository=package.repository)
    if replace(found, path=package.path) != package:
        raise VerificationError(
            f"recipe.lock: {package.name} {package.version}: sha256:{package.sha256[:12]}… is, by "
            f"what its repository said, {found.name} {found.version} {found.architecture} of "
            f"{found.size_bytes} bytes",
            hint="the lock was edited: take it from git again, or make it anew",
        )


def find_missing(cache: Path, packages: Iterable[LockedPackage]) -> list[LockedPackage]:
    """Return those of *packages* that the cache lacks; a damaged file is deleted and counts so."""
    items = list({item.sha256: item for item in packages}.values())
    with ThreadPoolExecutor(PARALLEL) as pool:
        whole = list(pool.map(lambda item: _is_whole(cache, item), items))
    return [item for item, found in zip(items, whole, strict=True) if not found]


def fetch_locked(
    packages: Iterable[LockedPackage], *, cache: Path, origin: Origin | None = None
) -> int:
    """Bring *packages* into *cache*, from wherever *origin* says; return how many were missing.

    Where nothing is missing no mirror is asked for, nor needed.

    Raises:
        VnfsbuildError: a package cannot be had; what was fetched until then stays.
    """
    missing = find_missing(cache, packages)
    if missing:
        urls = make_urls(missing, origin or Origin(), tools=cache / "tools")
        fetch_packages(missing, urls, cache=cache, proxies=capture_proxies())
    return len(missing)


def fetch_packages(
    packages: Sequence[LockedPackage],
    urls: Mapping[str, Sequence[str]],
    *,
    cache: Path,
    proxies: Mapping[str, str],
) -> None:
    """Fetch *packages* into *cache*, several at once, a bar on a terminal.

    *urls*: sha256 → where it may be, the best place first; the digest decides.

    Raises:
        FetchError: no mirror has one of them; what was fetched until then stays.
    """
    package_path(cache, "").mkdir(parents=True, exist_ok=True)
    total_bytes = sum(item.size_bytes for item in packages)
    health = _Health()
    with bar("packages", total_bytes=total_bytes) as advance, ThreadPoolExecutor(PARALLEL) as pool:
        work = [
            pool.submit(_fetch_one, item, urls[item.sha256], cache, proxies, advance, health)
            for item in packages
        ]
        try:
            for future in work:
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


class _Health:
    """Which servers did not answer: they are asked last from then on."""

    def __init__(self) -> None:
        self._failures: Counter[str] = Counter()
        self._lock = threading.Lock()

    def note(self, url: str) -> None:
        with self._lock:
            self._failures[_server_of(url)] += 1

    def order(self, urls: Sequence[str]) -> list[str]:
        with self._lock:
            return sorted(urls, key=lambda url: self._failures[_server_of(url)] > 0)


def _server_of(url: str) -> str:
    return "/".join(url.split("/")[:3])


def _fetch_one(
    item: LockedPackage,
    urls: Sequence[str],
    cache: Path,
    proxies: Mapping[str, str],
    on_bytes: Callable[[int], object],
    health: _Health,
) -> None:
    try:
        fetch(
            health.order(urls),
            package_path(cache, item.sha256),
            digest=Digest(f"sha256:{item.sha256}"),
            size_bytes=item.size_bytes,
            proxies=proxies,
            on_bytes=on_bytes,
            on_failure=health.note,
        )
    except FetchError as error:
        told = f"{item.name} {item.version}: not to be had:\n{error.message}"
        raised = FetchError(told, again=error.again, missing=error.missing)
        if error.missing:
            raised.hint = (
                "mirrors drop what is superseded: vnfsbuild fetch RECIPE --mirror URL names a "
                "snapshot or a vendored repository; vnfsbuild lock --update RECIPE moves on"
            )
        raise raised from error


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
