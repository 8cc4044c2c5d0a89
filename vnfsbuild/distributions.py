"""Distributions: which kind of packages each has, and where an archive of it keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

DEB = ("debian", "ubuntu")
"""Distributions of Debian's kind of packages."""

KEYS_DIRECTORY = "usr/share/distribution-gpg-keys"
"""Below the root of a tools tree: the keys of RPM distributions."""

_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How the mirrors of an RPM distribution are laid out.

    In the texts ``{release}``, ``{major}``, ``{architecture}`` and ``{component}`` are filled in.
    """

    top: str
    """below a mirror: the directory that the repositories of a release are in"""
    components: tuple[str, ...]
    """those that are meant where a recipe names none"""
    directory: str
    """of a component, below the top"""
    key: str
    """a file in the collection of distributions' keys: what all of it is signed by"""
    others: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    """component → its directory, where that is another one"""


_MAIN = ("BaseOS", "AppStream")

RPM: Mapping[str, Layout] = MappingProxyType(
    {
        "alma": Layout(
            top="{release}",
            components=_MAIN,
            directory="{component}/{architecture}/os",
            key="alma/RPM-GPG-KEY-AlmaLinux-{major}",
        ),
        "centos": Layout(
            top="{release}-stream",
            components=_MAIN,
            directory="{component}/{architecture}/os",
            key="centos/RPM-GPG-KEY-CentOS-{major}",
        ),
        "fedora": Layout(
            top="",
            components=("releases", "updates"),
            directory="{component}/{release}/Everything/{architecture}",
            others={"releases": "releases/{release}/Everything/{architecture}/os"},
            key="fedora/RPM-GPG-KEY-fedora-{release}-primary",
        ),
        "rhel": Layout(
            top="content/dist/rhel{major}/{release}/{architecture}",
            components=("baseos", "appstream"),
            directory="{component}/os",
            key="redhat/RPM-GPG-KEY-redhat{major}-release",
        ),
        "rocky": Layout(
            top="{release}",
            components=_MAIN,
            directory="{component}/{architecture}/os",
            key="rocky/RPM-GPG-KEY-Rocky-{major}",
        ),
    }
)
"""Distributions of RPM's kind of packages."""

ALL = (*DEB, *RPM)


def is_rpm(distribution: str) -> bool:
    """Tell whether *distribution* has RPM's kind of packages."""
    return distribution in RPM


def major_of(release: str) -> str:
    """Return the major release that *release*, which may be a point release, belongs to."""
    return release.partition(".")[0]


def tools_kind(distribution: str) -> str:
    """Return the kind of tools tree that *distribution* is built by."""
    return "build-rpm" if is_rpm(distribution) else "build"


def distribution_of(repository: str) -> str | None:
    """Return of which distribution the repository of this id is; None for those of others."""
    name = repository.partition("-")[0]
    return name if name in ALL and repository != name else None


def place_component(
    distribution: str, component: str, *, release: str, architecture: str
) -> tuple[str, str]:
    """Return the top of an RPM *distribution* below a mirror, and a component's directory in it."""
    layout = RPM[distribution]
    words = {
        "release": release,
        "major": major_of(release),
        "architecture": architecture,
        "component": component,
    }
    directory = layout.others.get(component, layout.directory)
    return layout.top.format(**words), directory.format(**words)


def keyring_of(distribution: str, release: str) -> str:
    """Return the file of the keys of an RPM *distribution*, below the root of a tools tree."""
    key = RPM[distribution].key.format(release=release, major=major_of(release))
    return f"{KEYS_DIRECTORY}/{key}"
