"""The recipe: what is wanted, as ``recipe.toml`` says it. Format: docs/recipe.md.

Only the text is looked at here; whether the files that it names are there is asked by
:mod:`vnfsbuild.resolve`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from vnfsbuild.errors import InputError
from vnfsbuild.fields import Faults, Table, parse_toml
from vnfsbuild.reference import parse_name

FILE = "recipe.toml"
LOCK_FILE = "recipe.lock"

LATER_DISTRIBUTIONS = (
    "alma", "arch", "centos", "fedora", "opensuse", "rhel", "rocky", "ubuntu",
)  # fmt: skip

_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_WORD = re.compile(r"[^\s\"'\\]+")
_MODULE = re.compile(r"[A-Za-z0-9_-]+")
_UNIT = re.compile(
    r"[A-Za-z0-9:_.\\@-]+\.(service|socket|timer|target|path|mount|automount|swap|slice)"
)
_MODE = re.compile(r"0?[0-7]{3,4}")
_OWNER = re.compile(r"[a-z_0-9][a-z0-9_-]*(:[a-z_0-9][a-z0-9_-]*)?")
_RELEASE = re.compile(r"[a-z0-9][a-z0-9.-]*")
_MIRROR = re.compile(r"(https?|file)://\S+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Distribution:
    """What is installed, in mkosi's names."""

    id: str
    release: str
    architecture: str
    components: tuple[str, ...]
    mirror: str | None
    """None: the build host's own"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Packages:
    """Which packages, besides those that the distribution cannot be without."""

    install: tuple[str, ...]
    remove: tuple[str, ...]
    """not to be installed, even where another package would bring them"""
    recommends: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelChoice:
    """The kernel, and what nodes tell it."""

    package: str
    arguments: tuple[str, ...]
    initrd_modules: tuple[str, ...]
    """in the initrd, besides those that it needs to mount the layers"""


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenFile:
    """A file whose content stands in the recipe."""

    path: str
    content: str
    mode: int
    user: str
    group: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Services:
    """Units, by what is done with them."""

    enable: tuple[str, ...]
    disable: tuple[str, ...]
    mask: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rootfs:
    """How the root tree is packed."""

    format: str
    level: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What is wanted."""

    name: str
    distribution: Distribution
    packages: Packages
    kernel: KernelChoice
    copy: str | None
    """a directory beside the recipe that is laid over the root"""
    write: tuple[WrittenFile, ...]
    services: Services
    exclude: tuple[str, ...]
    """globs of paths, without leading slash, that are left out of the layers"""
    rootfs: Rootfs
    agent: bool

    @property
    def wanted(self) -> tuple[str, ...]:
        """The packages to ask for, the kernel and what the agent needs among them."""
        agent = ("python3",) if self.agent else ()
        return tuple(dict.fromkeys((*self.packages.install, self.kernel.package, *agent)))


def parse_recipe(text: str, *, where: str = FILE) -> Recipe:
    """Return the recipe that *text* is.

    Raises:
        InputError: with every fault, each with *where* and its key path.
    """
    faults = Faults(where)
    top = Table(parse_toml(text, where=where), faults=faults)
    files = top.table("files")
    recipe = Recipe(
        name=_read_name(top),
        distribution=_read_distribution(top.table("distribution", required=True)),
        packages=_read_packages(top.table("packages")),
        kernel=_read_kernel(top.table("kernel", required=True)),
        copy=_read_copy(files),
        write=tuple(_read_written(table) for table in files.tables("write")),
        services=_read_services(top.table("services")),
        exclude=_read_exclude(top.table("exclude")),
        rootfs=_read_rootfs(top.table("rootfs")),
        agent=_read_agent(top.table("agent")),
    )
    files.close()
    _read_users(top.table("users"))
    top.not_yet("base", "repositories", "modules", "scripts")
    top.close()
    faults.verify()
    return recipe


def _read_name(top: Table) -> str:
    name = top.text("name")
    try:
        return parse_name(name, where="name") if name else ""
    except InputError as error:
        top.fault("name", error.message.removeprefix("name: "))
        return name


def _read_distribution(table: Table) -> Distribution:
    found = Distribution(
        id=table.text("id", choices=("debian",), later=LATER_DISTRIBUTIONS),
        release=table.matching("release", _RELEASE, "a release's code name"),
        architecture=table.text("architecture", "x86_64", choices=("x86_64",), later=("arm64",)),
        components=table.texts("components", _RELEASE) or ("main",),
        mirror=table.optional_text("mirror"),
    )
    if found.mirror and not _MIRROR.fullmatch(found.mirror):
        table.fault("mirror", f"found {found.mirror!r}, expected http://…, https://… or file://…")
    table.not_yet("snapshot")
    table.close()
    return found


def _read_packages(table: Table) -> Packages:
    found = Packages(
        install=table.texts("install", _PACKAGE, "a package's name"),
        remove=table.texts("remove", _PACKAGE, "a package's name"),
        recommends=table.flag("recommends", False),
    )
    for name in sorted({*found.install} & {*found.remove}):
        table.fault("remove", f"{name!r} stands in packages.install too")
    table.not_yet("local")
    table.close()
    return found


def _read_kernel(table: Table) -> KernelChoice:
    found = KernelChoice(
        package=table.matching("package", _PACKAGE, "a package's name"),
        arguments=table.texts("arguments", _WORD, "one word without quotes"),
        initrd_modules=table.texts("initrd_modules", _MODULE, "a module's name"),
    )
    table.close()
    return found


def _read_copy(table: Table) -> str | None:
    copy = table.optional_text("copy")
    if copy and not _is_below(copy):
        table.fault("copy", f"found {copy!r}, expected a directory beside the recipe")
    return copy


def _read_written(table: Table) -> WrittenFile:
    path = table.text("path")
    if path and not (path.startswith("/") and _is_below(path[1:])):
        table.fault("path", f"found {path!r}, expected a path from the root, without '..'")
    mode = table.matching("mode", _MODE, "an octal mode in quotes, as in '0644'", "0644")
    owner = table.matching("owner", _OWNER, "USER or USER:GROUP", "root")
    user, _, group = owner.partition(":")
    content = table.text("content", "")
    table.close()
    return WrittenFile(
        path=path,
        content=content,
        mode=int(mode, 8) if _MODE.fullmatch(mode) else 0,
        user=user,
        group=group or user,
    )


def _read_services(table: Table) -> Services:
    expected = "a unit's whole name, as in 'ssh.service'"
    found = Services(
        enable=table.texts("enable", _UNIT, expected),
        disable=table.texts("disable", _UNIT, expected),
        mask=table.texts("mask", _UNIT, expected),
    )
    for unit in sorted({*found.enable} & {*found.disable, *found.mask}):
        table.fault("enable", f"{unit!r} is to be disabled or masked too")
    table.close()
    return found


def _read_exclude(table: Table) -> tuple[str, ...]:
    paths = tuple(path.strip("/") for path in table.texts("paths"))
    for path in paths:
        if "**" in path or any(part in ("", ".", "..") for part in path.split("/")):
            table.fault("paths", f"found {path!r}, expected a path with *, ? or [] in its parts")
    table.close()
    return paths


def _read_rootfs(table: Table) -> Rootfs:
    found = Rootfs(
        format=table.text("format", "squashfs", choices=("squashfs",), later=("erofs",)),
        level=table.number("level", 6, least=1, most=22),
    )
    table.close()
    return found


def _read_agent(table: Table) -> bool:
    enabled = table.flag("enabled", True)
    table.close()
    return enabled


def _read_users(table: Table) -> None:
    table.text("root", "locked", choices=("locked",))
    table.not_yet("system")
    table.close()


def _is_below(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return bool(parts) and ".." not in parts and not path.startswith("/")
