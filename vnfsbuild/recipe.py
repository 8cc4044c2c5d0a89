"""The recipe: what is wanted, as ``recipe.toml`` says it. Format: docs/recipe.md.

Only the text is looked at here; whether the files that it names are there is asked by
:mod:`vnfsbuild.resolve`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from vnfsbuild.distributions import is_rpm
from vnfsbuild.errors import InputError
from vnfsbuild.fields import Faults, Table, parse_toml
from vnfsbuild.origins import (
    Distribution,
    ForeignRepository,
    is_below,
    read_distribution,
    read_repositories,
)
from vnfsbuild.reference import parse_name

FILE = "recipe.toml"
LOCK_FILE = "recipe.lock"
BASE_FOLDER = ".base"
"""In a source payload: the folder with the base, whatever place the recipe names."""

_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_RPM_PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._-]+")
_WORD = re.compile(r"[^\s\"'\\]+")
_MODULE = re.compile(r"[A-Za-z0-9_-]+")
_UNIT = re.compile(
    r"[A-Za-z0-9:_.\\@-]+\.(service|socket|timer|target|path|mount|automount|swap|slice)"
)
_MODE = re.compile(r"0?[0-7]{3,4}")
_OWNER = re.compile(r"[a-z_0-9][a-z0-9_-]*(:[a-z_0-9][a-z0-9_-]*)?")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_LINE = re.compile(r"[^:\x00-\x1f\x7f]*")
_RELATIVE = re.compile(r"[^/\x00-\x1f\x7f][^\x00-\x1f\x7f]*")
_ABSOLUTE = re.compile(r"/[^:\x00-\x1f\x7f]*")
_LEVELS = {"squashfs": (6, 22), "erofs": (9, 12)}
"""A format of layers → the level that is meant when none is named, and the highest: each has a
compressor of its own."""

SELINUX = {"disabled": "selinux=0", "permissive": "enforcing=0"}
"""security.selinux → the word of the kernel's command line that sees to it."""

MAX_ID = 2**32 - 2
NOBODY = (65534, 65535)
"""Ids that stand for "no such user", to the kernel and to those that count with 16 bits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Packages:
    """Which packages, besides those that the distribution cannot be without."""

    install: tuple[str, ...]
    remove: tuple[str, ...]
    """not to be installed, even where another package would bring them"""
    local: tuple[str, ...]
    """globs of package files beside the recipe"""
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
class SystemUser:
    """An account, and the group of its name, that is made before any package."""

    name: str
    uid: int
    gid: int
    home: str
    shell: str
    groups: tuple[str, ...]
    """besides its own"""
    comment: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Rootfs:
    """How the root tree is packed."""

    format: str
    level: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What is wanted."""

    name: str
    base: str | None
    """another recipe's directory, from this one's: what it makes is built upon"""
    distribution: Distribution
    repositories: tuple[ForeignRepository, ...]
    packages: Packages
    kernel: KernelChoice
    copy: str | None
    """a directory beside the recipe that is laid over the root"""
    write: tuple[WrittenFile, ...]
    services: Services
    users: tuple[SystemUser, ...]
    scripts: tuple[str, ...]
    """files beside the recipe that run inside the root, in the end"""
    exclude: tuple[str, ...]
    """globs of paths, without leading slash, that are left out of the layers"""
    allowed_secrets: tuple[str, ...]
    """globs of paths, without leading slash, that may look like secrets"""
    rootfs: Rootfs
    agent: bool
    selinux: str | None = None
    """:data:`SELINUX`'s key; None: nothing is said of it, which for RPM means disabled"""

    @property
    def kernel_arguments(self) -> tuple[str, ...]:
        """The words of the kernel's command line: the recipe's, and what SELinux asks for."""
        argument = SELINUX.get(self.selinux or "")
        return (*self.kernel.arguments, argument) if argument else self.kernel.arguments

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
    name, base = _read_name(top), _read_base(top)
    distribution = read_distribution(top.table("distribution", required=True))
    rpm = is_rpm(distribution.id)
    recipe = Recipe(
        name=name,
        base=base,
        distribution=distribution,
        repositories=read_repositories(top, distribution.id),
        packages=_read_packages(top.table("packages"), rpm=rpm),
        kernel=_read_kernel(top.table("kernel", required=True), rpm=rpm),
        copy=_read_copy(files),
        write=tuple(_read_written(table) for table in files.tables("write")),
        services=_read_services(top.table("services")),
        users=_read_users(top.table("users")),
        scripts=_read_scripts(top.table("scripts"), files),
        exclude=_read_globs(top.table("exclude"), "paths"),
        allowed_secrets=_read_globs(top.table("secrets"), "allow"),
        rootfs=_read_rootfs(top.table("rootfs")),
        agent=_read_agent(top.table("agent")),
        selinux=_read_selinux(top.table("security"), rpm=rpm),
    )
    files.close()
    top.not_yet("modules")
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


def _read_base(top: Table) -> str | None:
    if not top.has("base"):
        return None
    expected = "another recipe's directory, from this one's, as in '../other'"
    return top.matching("base", _RELATIVE, expected) or None


def _read_packages(table: Table, *, rpm: bool) -> Packages:
    pattern, suffix = (_RPM_PACKAGE, ".rpm") if rpm else (_PACKAGE, ".deb")
    found = Packages(
        install=table.texts("install", pattern, "a package's name"),
        remove=table.texts("remove", pattern, "a package's name"),
        local=table.texts("local"),
        recommends=table.flag("recommends", False),
    )
    for name in sorted({*found.install} & {*found.remove}):
        table.fault("remove", f"{name!r} stands in packages.install too")
    for position, path in enumerate(found.local):
        if not is_below(path) or not path.endswith(suffix):
            expected = f"expected *{suffix} beside the recipe"
            table.fault(f"local[{position}]", f"found {path!r}, {expected}")
    table.close()
    return found


def _read_kernel(table: Table, *, rpm: bool) -> KernelChoice:
    pattern = _RPM_PACKAGE if rpm else _PACKAGE
    found = KernelChoice(
        package=table.matching("package", pattern, "a package's name"),
        arguments=table.texts("arguments", _WORD, "one word without quotes"),
        initrd_modules=table.texts("initrd_modules", _MODULE, "a module's name"),
    )
    table.close()
    return found


def _read_copy(table: Table) -> str | None:
    copy = table.optional_text("copy")
    if copy and not is_below(copy):
        table.fault("copy", f"found {copy!r}, expected a directory beside the recipe")
    return copy


def _read_written(table: Table) -> WrittenFile:
    path = table.text("path")
    if path and not (path.startswith("/") and is_below(path[1:])):
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


def _read_globs(table: Table, key: str) -> tuple[str, ...]:
    paths = tuple(path.strip("/") for path in table.texts(key))
    for path in paths:
        if "**" in path or any(part in ("", ".", "..") for part in path.split("/")):
            table.fault(key, f"found {path!r}, expected a path with *, ? or [] in its parts")
    table.close()
    return paths


def _read_rootfs(table: Table) -> Rootfs:
    form = table.text("format", "squashfs", choices=tuple(_LEVELS))
    level, most = _LEVELS.get(form, _LEVELS["squashfs"])
    found = Rootfs(format=form, level=table.number("level", level, least=1, most=most))
    table.close()
    return found


def _read_agent(table: Table) -> bool:
    enabled = table.flag("enabled", True)
    table.close()
    return enabled


def _read_selinux(table: Table, *, rpm: bool) -> str | None:
    if not table.has("selinux"):
        table.close()
        return "disabled" if rpm else None
    value = table.text("selinux")
    if value == "enforcing":
        table.fault(
            "selinux",
            "found 'enforcing', which needs labels that are not made yet: no program could start; "
            "expected 'disabled' or 'permissive'",
        )
    elif value not in SELINUX:
        table.fault("selinux", f"found {value!r}, expected 'disabled' or 'permissive'")
    table.close()
    return value


def _read_users(table: Table) -> tuple[SystemUser, ...]:
    table.text("root", "locked", choices=("locked",))
    found: list[SystemUser] = []
    for row in table.tables("system"):
        user = _read_user(row)
        for other in found:
            same = [key for key in ("name", "uid", "gid") if _have_same(user, other, key)]
            for key in same[:1]:
                row.fault(key, f"{getattr(user, key)!r} is taken by {other.name!r}")
        found.append(user)
    table.close()
    return tuple(found)


def _read_user(row: Table) -> SystemUser:
    uid = row.number("uid", least=1, most=MAX_ID)
    user = SystemUser(
        name=row.matching("name", _USER, "a user's name: a-z, 0-9, _, -"),
        uid=uid,
        gid=row.number("gid", uid, least=1, most=MAX_ID),
        home=row.matching("home", _ABSOLUTE, "an absolute path", "/nonexistent"),
        shell=row.matching("shell", _ABSOLUTE, "an absolute path", "/usr/sbin/nologin"),
        groups=row.texts("groups", _USER, "a group's name"),
        comment=row.text("comment", ""),
    )
    for key, value in (("uid", user.uid), ("gid", user.gid)):
        if value in NOBODY:
            row.fault(key, f"found {value}, which stands for nobody")
    if not _LINE.fullmatch(user.comment):
        row.fault("comment", f"found {user.comment!r}, expected one line without a colon")
    row.close()
    return user


def _have_same(user: SystemUser, other: SystemUser, key: str) -> bool:
    return bool(getattr(user, key)) and getattr(user, key) == getattr(other, key)


def _read_scripts(table: Table, files: Table) -> tuple[str, ...]:
    scripts = table.texts("finalize")
    copy = files.optional_text("copy")
    for path in scripts:
        if not is_below(path):
            table.fault("finalize", f"found {path!r}, expected a file beside the recipe")
        elif copy and PurePosixPath(path).is_relative_to(copy):
            table.fault("finalize", f"found {path!r}, which files.copy would copy into the root")
    table.close()
    return scripts
