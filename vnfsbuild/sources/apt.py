"""What apt's own solver says, asked in a directory of its own, without a network.

It is given indexes that were verified before, and whatever else may be chosen from: the packages of
a lock, packages beside the recipe. What it chose comes back as :class:`Choice`: name, version,
digest, and the stanza that describes it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vnfsbuild import tools
from vnfsbuild.digest import digest_of
from vnfsbuild.errors import InputError, VnfsbuildError
from vnfsbuild.lock import LockedPackage
from vnfsbuild.sources.control import parse_stanzas

DEBIAN_ARCHITECTURES = {"x86_64": "amd64", "arm64": "arm64"}
"""mkosi's name of an architecture → Debian's."""

RELEASE_FIELDS = (
    "origin", "label", "suite", "codename", "version", "notautomatic", "butautomaticupgrades",
)  # fmt: skip
"""Of a repository's Release file, what the solver heeds."""

OTHER_SOLVER = ('APT::Solver "3.0";', 'APT::Solver::Strict-Pinning "false";')
"""Settings of the solver that takes another version than the preferred one where it must."""

_URI_LINE = re.compile(r"'(?P<uri>[^']+)' (?P<file>\S+) (?P<size>\d+) SHA256:(?P<sha256>\w{64})\Z")
_REMOVAL = re.compile(r"^(?:Remv|Purg) (\S+)", re.MULTILINE)
_SHA256 = re.compile(r"^SHA256: (\w{64})$", re.MULTILINE)
_UNKNOWN = re.compile(
    r"Unable to locate package (\S+)|Package '?(\S+?)'? has no installation candidate"
    r"|find any package by (?:glob|regex) '([^']+)'"
)


class UnknownPackageError(InputError):
    """The repositories have no package of some names."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(f"no repository has the package {', '.join(names)}")
        self.names = tuple(names)


class UnsolvableError(InputError):
    """The packages cannot be installed together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A package that the solver chose."""

    package: LockedPackage
    stanza: str = field(repr=False)
    """of the Packages file, ending in a newline"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """Packages that the solver may choose from."""

    repository: str
    """its id, as the lock names it"""
    packages: Path | str = field(repr=False)
    """a Packages file, or its text"""
    fields: Mapping[str, str] = field(default_factory=dict, repr=False)
    """of its Release file: name in lower case → value"""
    priority: int | None = None
    """as apt_preferences(5) has it: 500 where none is given"""

    def read(self) -> str:
        """Return the text of the Packages file."""
        if isinstance(self.packages, Path):
            return self.packages.read_text(encoding="utf-8")
        return self.packages


@dataclass(frozen=True, kw_only=True, slots=True)
class Apt:
    """apt with a directory of its own."""

    directory: Path
    offers: tuple[Offer, ...]
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
            'Acquire::Languages "none";',
            'Acquire::ForceHash "SHA256";',
            'Debug::NoLocking "true";',
            'pkgCacheGen::ForceEssential ",";',
            *settings,
            "",
        ]
    )


def render_sources(count: int, directory: Path) -> str:
    """Return a deb822 sources file of the *count* flat repositories in *directory*."""
    # Trusted: they hold what was verified before.
    return "\n".join(
        f"Types: deb\nURIs: file://{directory}/{number}\nSuites: ./\nTrusted: yes\n"
        for number in range(count)
    )


def render_release(offer: Offer, number: int, *, sha256: str, size_bytes: int) -> str:
    """Return the Release file of the flat repository that *offer* becomes."""
    kept = {key: offer.fields[key] for key in RELEASE_FIELDS if key in offer.fields}
    if offer.priority is not None:
        # What its preference finds it by.
        kept["label"] = f"vnfs-{number}"
    lines = [f"{key.title()}: {value}" for key, value in kept.items()]
    return "\n".join([*lines, "SHA256:", f" {sha256} {size_bytes} Packages", ""])


def render_preferences(offers: Sequence[Offer]) -> str:
    """Return the apt_preferences(5) of *offers*."""
    return "\n".join(
        f"Package: *\nPin: release l=vnfs-{number}\nPin-Priority: {offer.priority}\n"
        for number, offer in enumerate(offers)
        if offer.priority is not None
    )


def prepare(apt: Apt, *, recommends: bool = False, settings: Iterable[str] = ()) -> None:
    """Write the configuration of *apt* and make it read its offers.

    Raises:
        VnfsbuildError: it cannot read one.
    """
    for name in ("etc/apt/preferences.d", "var/lib/apt/lists/partial", "var/log/apt"):
        (apt.directory / name).mkdir(parents=True)
    for name in ("etc/apt/sources.list.d", "var/cache/apt/archives/partial"):
        (apt.directory / name).mkdir(parents=True)
    for number, offer in enumerate(apt.offers):
        _write_offer(apt.directory / "offers" / str(number), offer, number)
    texts = {
        "etc/apt/sources.list.d/vnfs.sources": render_sources(
            len(apt.offers), apt.directory / "offers"
        ),
        "etc/apt/preferences.d/vnfs": render_preferences(apt.offers),
        "apt.conf": render_conf(
            apt.directory, architecture=apt.architecture, recommends=recommends, settings=settings
        ),
        "status": "",
    }
    for name, text in texts.items():
        (apt.directory / name).write_text(text, encoding="utf-8")
    tools.capture([*apt.prefix, "apt-get", "update", "--quiet=2", "--error-on=any"], env=apt.env)


def solve(
    apt: Apt,
    wanted: Sequence[str],
    *,
    installed: Iterable[Choice] = (),
    settings: Sequence[str] = (),
) -> list[Choice]:
    """Return what apt would install for *wanted* where *installed* is there already.

    Raises:
        UnknownPackageError: no repository has a package of some name.
        UnsolvableError: the packages cannot be installed together.
    """
    _write_status(apt, installed)
    return _describe(apt, _capture_uris(apt, ["install", *wanted], settings))


def find_removals(
    apt: Apt, wanted: Sequence[str], *, installed: Iterable[Choice]
) -> tuple[str, ...]:
    """Return which of *installed* go when apt installs *wanted*, by name.

    Raises:
        UnknownPackageError: no repository has a package of some name.
        UnsolvableError: the packages cannot be installed together.
    """
    _write_status(apt, installed)
    output = _capture_words(apt, ["--simulate", "install", *wanted], ())
    return tuple(sorted(set(_REMOVAL.findall(output))))


def find_downloads(apt: Apt, names: Sequence[str]) -> list[Choice]:
    """Return the packages *names* themselves, without what they depend on.

    Raises:
        UnknownPackageError: no repository has a package of some name.
    """
    return _describe(apt, _capture_uris(apt, ["download", *names], ()))


def find_package_names(apt: Apt) -> list[str]:
    """Return the names of all packages that the repositories have."""
    argv = [*apt.prefix, "apt-cache", "pkgnames"]
    return tools.capture(argv, env=apt.env).decode("utf-8").split()


def make_choice(stanza: str, *, repository: str) -> Choice:
    """Return the package that a stanza of a Packages file describes."""
    fields = next(parse_stanzas(stanza))
    package = LockedPackage(
        name=fields["package"],
        version=fields["version"],
        architecture=fields["architecture"],
        size_bytes=int(fields["size"]),
        sha256=fields["sha256"],
        path=fields["filename"].removeprefix("./"),
        repository=repository,
    )
    return Choice(package=package, stanza=stanza)


def _write_offer(directory: Path, offer: Offer, number: int) -> None:
    directory.mkdir(parents=True)
    target = directory / "Packages"
    if isinstance(offer.packages, Path):
        # No link: apt refuses an index whose time changes under it, and others that use the same
        # file of the cache change it.
        shutil.copyfile(offer.packages, target)
    else:
        target.write_text(offer.packages, encoding="utf-8")
    data = target.read_bytes()
    sha256 = digest_of(data).removeprefix("sha256:")
    text = render_release(offer, number, sha256=sha256, size_bytes=len(data))
    (directory / "Release").write_text(text, encoding="utf-8")


def _write_status(apt: Apt, installed: Iterable[Choice]) -> None:
    status = "\n".join(_installed_stanza(choice.stanza) for choice in installed)
    (apt.directory / "status").write_text(status, encoding="utf-8")


def _capture_words(apt: Apt, words: Sequence[str], settings: Sequence[str]) -> str:
    options = [word for setting in settings for word in ("--option", _option(setting))]
    argv = [*apt.prefix, "apt-get", "--quiet=2", *options, *words]
    try:
        return tools.capture(argv, env=apt.env).decode("utf-8")
    except tools.ToolError as error:
        names = [next(filter(None, found)) for found in _UNKNOWN.findall(error.message)]
        if names:
            raise UnknownPackageError(sorted(set(names))) from error
        if "unmet dependencies" in error.message or "Unable to satisfy" in error.message:
            raise UnsolvableError(
                "these packages cannot be installed together; apt says:\n"
                + error.message.partition("\n")[2]
            ) from error
        raise


def _capture_uris(
    apt: Apt, words: Sequence[str], settings: Sequence[str]
) -> dict[str, tuple[str, int]]:
    found = {}
    for line in _capture_words(apt, ["--print-uris", *words], settings).splitlines():
        match = _URI_LINE.match(line)
        if match is None:
            raise VnfsbuildError(f"apt-get: found line {line!r}, expected an URI with its SHA256")
        found[match["sha256"]] = (match["uri"], int(match["size"]))
    return found


def _option(setting: str) -> str:
    """Return a line of apt.conf as the option of a command line."""
    name, _, value = setting.rstrip(";").partition(" ")
    return f"{name}=" + value.strip('"')


def _describe(apt: Apt, uris: Mapping[str, tuple[str, int]]) -> list[Choice]:
    found: dict[str, Choice] = {}
    for offer in apt.offers:
        text = offer.read()
        for match in _SHA256.finditer(text):
            if match[1] in uris and match[1] not in found:
                start = text.rfind("\n\n", 0, match.start()) + 2
                end = text.find("\n\n", match.end())
                stanza = text[start if start > 1 else 0 : end if end >= 0 else None].strip("\n")
                found[match[1]] = make_choice(stanza + "\n", repository=offer.repository)
    for sha256, (uri, size_bytes) in uris.items():
        if sha256 not in found or found[sha256].package.size_bytes != size_bytes:
            raise VnfsbuildError(f"{uri}: chosen by apt, but in none of the Packages files")
    return sorted(found.values(), key=lambda choice: choice.package.name)


def _installed_stanza(stanza: str) -> str:
    first, _, rest = stanza.partition("\n")
    return f"{first}\nStatus: install ok installed\n{rest}"
