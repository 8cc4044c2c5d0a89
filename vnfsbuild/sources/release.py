"""What a repository says of itself in its signed Release file. Text in, values out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from vnfsbuild.errors import VerificationError, VnfsbuildError
from vnfsbuild.sources.control import parse_stanzas

FUTURE_SECONDS = 24 * 3600
"""How far ahead of this host's clock a repository may be dated: clocks differ, time zones do not
matter."""

COMPRESSIONS = (".xz", ".gz", ".zst", "")
"""Of indexes, in the order in which they are asked for."""

_FILE = re.compile(r"(?P<sha256>[0-9a-f]{64})\s+(?P<size>\d+)\s+(?P<path>(?!/)(?!.*\.\.)\S+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexFile:
    """A file that a Release file vouches for."""

    path: str
    """beside the Release file"""
    sha256: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """A Release file."""

    fields: Mapping[str, str] = field(repr=False)
    """all of it: name in lower case → value"""
    epoch: int
    """the date that it gives itself"""
    expires: int | None
    files: Mapping[str, IndexFile] = field(repr=False)

    @property
    def by_hash(self) -> bool:
        """Whether files can be asked for by their digest."""
        return self.fields.get("acquire-by-hash", "") == "yes"


def parse_release(text: str, *, where: str) -> Release:
    """Return the Release file that *text* is.

    Raises:
        VnfsbuildError: it has no date, or names no file by SHA-256.
    """
    stanzas = list(parse_stanzas(text))
    if len(stanzas) != 1:
        raise VnfsbuildError(f"{where}: found {len(stanzas)} stanzas, expected one")
    fields = stanzas[0]
    files = {}
    for line in fields.get("sha256", "").splitlines():
        found = _FILE.fullmatch(line.strip())
        if found:
            files[found["path"]] = IndexFile(
                path=found["path"], sha256=found["sha256"], size_bytes=int(found["size"])
            )
    if not files:
        raise VnfsbuildError(f"{where}: names no file by SHA-256, which we ask for")
    return Release(
        fields=fields,
        epoch=_read_date(fields, "date", where=where),
        expires=(
            _read_date(fields, "valid-until", where=where) if "valid-until" in fields else None
        ),
        files=files,
    )


def verify_release(
    release: Release, *, suite: str, now: int, least_epoch: int | None, where: str
) -> None:
    """Raise unless *release* is of *suite*, good today, and not older than *least_epoch*.

    Raises:
        VerificationError: it is of another suite, expired, from the future, or older than what was
            seen before.
    """
    names = {release.fields[key] for key in ("suite", "codename") if key in release.fields}
    # The Release file of a flat repository (a directory, not a suite) names what it likes.
    if names and not suite.endswith("/") and suite not in names:
        raise VerificationError(
            f"{where}: found the metadata of {' and '.join(sorted(names))}, expected {suite}",
            hint="the mirror mixes up its suites, or somebody does: another mirror",
        )
    if release.expires is not None and release.expires < now:
        raise VerificationError(
            f"{where}: expired: valid until {render_date(release.expires)}, "
            f"today is {render_date(now)}",
            hint="the mirror is not kept up to date: another one; or this host's clock is wrong",
        )
    if release.epoch > now + FUTURE_SECONDS:
        raise VerificationError(
            f"{where}: dated {render_date(release.epoch)}, today is {render_date(now)}",
            hint="set this host's clock",
        )
    if least_epoch is not None and release.epoch < least_epoch:
        raise VerificationError(
            f"{where}: dated {render_date(release.epoch)}, "
            f"older than the lock's of {render_date(least_epoch)}",
            hint="another mirror; or --allow-older, when going back is meant",
        )


def choose_indexes(
    release: Release, *, suite: str, components: tuple[str, ...], architecture: str, where: str
) -> list[tuple[IndexFile, IndexFile | None]]:
    """Return the indexes of packages: what to fetch, and what it is when unpacked, where told.

    Raises:
        VnfsbuildError: *suite* has no such component.
    """
    if suite.endswith("/"):
        return [_choose_index(release, "Packages", where)]
    found = []
    for component in components:
        stem = f"{component}/binary-{architecture}/Packages"
        if not _exists(release, stem):
            known = sorted({path.split("/binary-")[0] for path in release.files if "/bin" in path})
            raise VnfsbuildError(
                f"{where}: has no component {component!r} for {architecture}; it has "
                f"{', '.join(name for name in known if '/' not in name) or 'none'}"
            )
        found.append(_choose_index(release, stem, where))
        # Where packages for all architectures are listed apart.
        everywhere = f"{component}/binary-all/Packages"
        apart = release.fields.get("no-support-for-architecture-all", "") != "Packages"
        listed = "all" in release.fields.get("architectures", "").split()
        if apart and listed and _exists(release, everywhere):
            found.append(_choose_index(release, everywhere, where))
    return found


def render_date(epoch: int) -> str:
    """Return a time for people: ``2026-09-12 07:55:41 UTC``."""
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _exists(release: Release, stem: str) -> bool:
    return any(f"{stem}{suffix}" in release.files for suffix in COMPRESSIONS)


def _choose_index(release: Release, stem: str, where: str) -> tuple[IndexFile, IndexFile | None]:
    for suffix in COMPRESSIONS:
        if f"{stem}{suffix}" in release.files:
            return release.files[f"{stem}{suffix}"], release.files.get(stem)
    raise VnfsbuildError(f"{where}: names no {stem}")


def _read_date(fields: Mapping[str, str], key: str, *, where: str) -> int:
    try:
        found = parsedate_to_datetime(fields[key].replace("UTC", "+0000"))
    except (KeyError, ValueError) as error:
        value = fields.get(key, "none")
        raise VnfsbuildError(f"{where}: found {key} {value!r}, expected a date") from error
    if found.tzinfo is None:
        found = found.replace(tzinfo=UTC)
    return int(found.timestamp())
