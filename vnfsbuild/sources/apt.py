"""What apt's own solver says, asked in a directory of its own: the host's apt state is not touched.

apt verifies the signatures of the metadata with the keyring that each repository names. What it
chose comes back as :class:`Choice`: name, version, digest, and the stanza that describes it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from pathlib import Path

from vnfsbuild import tools
from vnfsbuild.digest import Digest, digest_of
from vnfsbuild.errors import InputError, VnfsbuildError
from vnfsbuild.lock import LockedPackage
from vnfsbuild.sources.mirror import Repository, parse_stanzas, render_sources

DEBIAN_ARCHITECTURES = {"x86_64": "amd64", "arm64": "arm64"}
"""mkosi's name of an architecture → Debian's."""

_URI_LINE = re.compile(r"'(?P<uri>[^']+)' (?P<file>\S+) (?P<size>\d+) SHA256:(?P<sha256>\w{64})\Z")
_UNKNOWN = re.compile(
    r"Unable to locate package (\S+)|Package '?(\S+?)'? has no installation candidate"
    r"|find any package by (?:glob|regex) '([^']+)'"
)


class UnknownPackageError(InputError):
    """The repositories have no package of some names."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(f"no repository has the package {', '.join(names)}")
        self.names = tuple(names)


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A package that the solver chose."""

    package: LockedPackage
    stanza: str = field(repr=False)
    """of the Packages file, ending in a newline"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Metadata:
    """The signed metadata of a repository, as it was when it was read."""

    digest: Digest
    epoch: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Apt:
    """apt with a directory of its own."""

    directory: Path
    repositories: tuple[Repository, ...]
    architecture: str
    """Debian's name"""
    prefix: tuple[str, ...] = ()
    """argv that the programs are run by: a sandbox of the tools tree, or nothing"""

    @property
    def env(self) -> dict[str, str]:
        """The environment that keeps apt inside its directory."""
        return {"APT_CONFIG": str(self.directory / "apt.conf"), "DEBIAN_FRONTEND": "noninteractive"}


def render_conf(
    directory: Path, *, architecture: str, recommends: bool, settings: Iterable[str] = ()
) -> str:
    """Return the apt.conf of a private apt below *directory*; solver settings as mkosi has them."""
    return "\n".join(
        [
            f'Dir "{directory}";',
            f'Dir::State::status "{directory}/status";',
            f'APT::Architecture "{architecture}";',
            f'APT::Architectures {{ "{architecture}"; }};',
            f'APT::Install-Recommends "{str(recommends).lower()}";',
            'APT::Immediate-Configure "off";',
            'APT::Get::Assume-Yes "true";',
            'APT::Get::AutomaticRemove "true";',
            'APT::Get::Allow-Change-Held-Packages "true";',
            'APT::Get::Allow-Remove-Essential "true";',
            'APT::Sandbox::User "root";',
            'Acquire::AllowReleaseInfoChange "true";',
            'Acquire::Languages "none";',
            'Acquire::ForceHash "SHA256";',
            'Acquire::Retries "2";',
            'Debug::NoLocking "true";',
            'pkgCacheGen::ForceEssential ",";',
            *settings,
            "",
        ]
    )


def prepare(apt: Apt, *, recommends: bool = False, settings: Iterable[str] = ()) -> None:
    """Write the configuration of *apt*; metadata of an earlier run stays, and saves downloads."""
    for name in ("etc/apt/sources.list.d", "etc/apt/preferences.d", "var/lib/apt/lists/partial"):
        (apt.directory / name).mkdir(parents=True, exist_ok=True)
    for name in ("var/cache/apt/archives/partial", "var/log/apt"):
        (apt.directory / name).mkdir(parents=True, exist_ok=True)
    # Copies, for in the sandbox the host's own are out of sight.
    repositories = [
        replace(repository, keyring=_copy_keyring(apt, repository.keyring))
        for repository in apt.repositories
    ]
    sources = apt.directory / "etc/apt/sources.list.d/vnfs.sources"
    sources.write_text(render_sources(repositories), encoding="utf-8")
    conf = render_conf(
        apt.directory, architecture=apt.architecture, recommends=recommends, settings=settings
    )
    (apt.directory / "apt.conf").write_text(conf, encoding="utf-8")
    (apt.directory / "status").write_text("", encoding="utf-8")


def update(apt: Apt) -> None:
    """Fetch and verify the metadata of all repositories.

    Raises:
        VnfsbuildError: a mirror does not answer, lacks a suite, or its signature is not good.
    """
    argv = [*apt.prefix, "apt-get", "update", "--quiet=2", "--error-on=any"]
    try:
        tools.capture(argv, env=apt.env)
    except tools.ToolError as error:
        if "program not found" in error.message:
            raise
        told = [line for line in error.message.splitlines() if line.startswith(("E:", "W:"))]
        raise VnfsbuildError(
            f"{', '.join(sorted({item.uri for item in apt.repositories}))}: package metadata could"
            " not be had:\n" + "\n".join(told or [error.message]),
            hint="try again, or name another mirror: VNFS_MIRROR=http://mirror.example.org/debian",
        ) from error


def solve(apt: Apt, wanted: Sequence[str], *, installed: Iterable[Choice] = ()) -> list[Choice]:
    """Return what apt would install for *wanted* where *installed* is there already.

    Raises:
        UnknownPackageError: no repository has a package of some name.
        VnfsbuildError: the packages cannot be installed together.
    """
    status = "\n".join(_installed_stanza(choice.stanza) for choice in installed)
    (apt.directory / "status").write_text(status, encoding="utf-8")
    return _describe(apt, _capture_uris(apt, ["install", *wanted]))


def find_downloads(apt: Apt, names: Sequence[str]) -> list[Choice]:
    """Return the packages *names* themselves, without what they depend on.

    Raises:
        UnknownPackageError: no repository has a package of some name.
    """
    return _describe(apt, _capture_uris(apt, ["download", *names]))


def find_package_names(apt: Apt) -> list[str]:
    """Return the names of all packages that the repositories have."""
    argv = [*apt.prefix, "apt-cache", "pkgnames"]
    return tools.capture(argv, env=apt.env).decode("utf-8").split()


def load_metadata(apt: Apt) -> dict[str, Metadata]:
    """Return, by repository id, the digest and the date of the signed metadata in use."""
    found = {}
    for repository in apt.repositories:
        stem = _lists_stem(repository)
        path = apt.directory / "var/lib/apt/lists" / f"{stem}_InRelease"
        data = path.read_bytes()
        date = re.search(rb"^Date: (.+)$", data, re.MULTILINE)
        if date is None:
            raise VnfsbuildError(f"{repository.uri}: {repository.suite}: InRelease has no Date")
        moment = parsedate_to_datetime(date.group(1).decode("ascii").replace("UTC", "+0000"))
        metadata = Metadata(digest=digest_of(data), epoch=int(moment.timestamp()))
        found[repository.id] = metadata
    return found


def _copy_keyring(apt: Apt, keyring: Path) -> Path:
    target = apt.directory / "etc/apt/keyrings" / keyring.name
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copyfile(keyring, target)
    except FileNotFoundError as error:
        raise VnfsbuildError(
            f"{keyring}: no such keyring, expected the one that repositories are signed by",
            hint="apt-get install debian-archive-keyring",
        ) from error
    return target


def _capture_uris(apt: Apt, words: Sequence[str]) -> dict[str, tuple[str, int]]:
    argv = [*apt.prefix, "apt-get", "--quiet=2", "--print-uris", *words]
    try:
        output = tools.capture(argv, env=apt.env).decode("utf-8")
    except tools.ToolError as error:
        names = [next(filter(None, found)) for found in _UNKNOWN.findall(error.message)]
        if names:
            raise UnknownPackageError(sorted(set(names))) from error
        raise
    found = {}
    for line in output.splitlines():
        match = _URI_LINE.match(line)
        if match is None:
            raise VnfsbuildError(f"apt-get: found line {line!r}, expected an URI with its SHA256")
        found[match["sha256"]] = (match["uri"], int(match["size"]))
    return found


def _describe(apt: Apt, uris: dict[str, tuple[str, int]]) -> list[Choice]:
    found: dict[str, Choice] = {}
    for repository in apt.repositories:
        for stanza in _read_stanzas(apt, repository):
            sha256 = _sha256_of(stanza)
            if sha256 in uris and sha256 not in found:
                found[sha256] = make_choice(stanza, repository=repository.id)
    for sha256, (uri, size_bytes) in uris.items():
        if sha256 not in found or found[sha256].package.size_bytes != size_bytes:
            raise VnfsbuildError(f"{uri}: chosen by apt, but in none of the Packages files")
    return sorted(found.values(), key=lambda choice: choice.package.name)


def make_choice(stanza: str, *, repository: str) -> Choice:
    """Return the package that a stanza of a Packages file describes."""
    fields = next(parse_stanzas(stanza))
    package = LockedPackage(
        name=fields["package"],
        version=fields["version"],
        architecture=fields["architecture"],
        size_bytes=int(fields["size"]),
        sha256=fields["sha256"],
        path=fields["filename"],
        repository=repository,
    )
    return Choice(package=package, stanza=stanza)


def _read_stanzas(apt: Apt, repository: Repository) -> Iterator[str]:
    stem = _lists_stem(repository)
    for component in repository.components:
        name = f"{stem}_{component}_binary-{apt.architecture}_Packages"
        path = apt.directory / "var/lib/apt/lists" / name
        # A suite may be empty, trixie-updates on release day: apt keeps no file then.
        if path.is_file():
            for stanza in path.read_text(encoding="utf-8").split("\n\n"):
                yield stanza.strip("\n") + "\n"


def _sha256_of(stanza: str) -> str:
    start = stanza.find("\nSHA256: ")
    return stanza[start + 9 : start + 73] if start >= 0 else ""


def _lists_stem(repository: Repository) -> str:
    # apt's URItoFileName: scheme and user dropped, "_" and odd characters escaped, "/" → "_".
    rest = repository.uri.partition("://")[2] or repository.uri.partition(":")[2]
    rest = rest.rpartition("@")[2] if "@" in rest.partition("/")[0] else rest
    path = f"{rest.rstrip('/')}/dists/{repository.suite}"
    return re.sub(r"[\\|{}\[\]<>\"^~_=!@#$%&*]", _percent, path).replace("/", "_")


def _percent(match: re.Match[str]) -> str:
    return f"%{ord(match.group()):02x}"


def _installed_stanza(stanza: str) -> str:
    first, _, rest = stanza.partition("\n")
    return f"{first}\nStatus: install ok installed\n{rest}"
