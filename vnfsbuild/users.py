"""System users that are there before any package: their ids are fixed, and scripts find them.

A package whose script makes a user takes the next free id, which another set of packages shifts.
So the account files are written first: the distribution's own entries, then the recipe's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from vnfsbuild.errors import InputError
from vnfsbuild.lock import LockedPackage
from vnfsbuild.packages import is_rpm_file
from vnfsbuild.recipe import SystemUser
from vnfsbuild.sources.deb import read_files
from vnfsbuild.sources.rpmfile import read_rpm_files

ACCOUNTS_PACKAGE = "base-passwd"
MASTERS = {
    "usr/share/base-passwd/passwd.master": "etc/passwd",
    "usr/share/base-passwd/group.master": "etc/group",
}
"""What that package starts /etc/passwd and /etc/group with, when they are not there."""
RPM_ACCOUNTS_PACKAGE = "setup"
"""The package of RPM distributions that has the files themselves; those that it finds stay."""
CLOSED = ("etc/shadow", "etc/gshadow")
"""Account files that not everybody reads."""


def make_skeleton(
    users: Sequence[SystemUser], packages: Mapping[LockedPackage, tuple[Path, str]]
) -> dict[str, bytes]:
    """Return the files that a root tree starts with: path → content; none without *users*.

    *packages* are the locked ones: package → its file and its stanza.

    Raises:
        InputError: a name or an id is taken by the distribution, a group is unknown.
    """
    if not users:
        return {}
    rpm = any(is_rpm_file(item) for item in packages)
    name = RPM_ACCOUNTS_PACKAGE if rpm else ACCOUNTS_PACKAGE
    found = [path for item, (path, _) in packages.items() if item.name == name]
    if not found:
        raise InputError(f"users.system: the lock has no package {name}, which has the first users")
    paths = tuple(MASTERS.values()) if rpm else tuple(MASTERS)
    masters = read_rpm_files(found[0], paths) if rpm else read_files(found[0], paths)
    passwd, group = (masters[path].decode("utf-8") for path in paths)
    return {
        "etc/passwd": render_passwd(passwd, users).encode(),
        "etc/group": render_group(group, users).encode(),
    }


def add_users(root: Path, users: Sequence[SystemUser]) -> dict[str, bytes]:
    """Return the account files of the tree *root* with *users* added: path → content.

    One that is there just so is not added again. None without *users*.

    Raises:
        InputError: the tree has the name or the id of one of them otherwise.
    """
    passwd, group = ((root / path).read_text(encoding="utf-8") for path in MASTERS.values())
    there = {line.split(":")[0]: line.split(":")[2:4] for line in passwd.splitlines()}
    new = [user for user in users if there.get(user.name) != [str(user.uid), str(user.gid)]]
    if not new:
        return {}
    found = {"etc/passwd": render_passwd(passwd, new), "etc/group": render_group(group, new)}
    for path, rest in zip(CLOSED, (":*:0:0:99999:7:::", ":*::"), strict=True):
        if (root / path).is_file():
            text = (root / path).read_text(encoding="utf-8")
            found[path] = text + "".join(f"{user.name}{rest}\n" for user in new)
    return {path: text.encode() for path, text in found.items()}


def render_passwd(master: str, users: Sequence[SystemUser]) -> str:
    """Return /etc/passwd: the lines of *master*, and one for each of *users*, all locked.

    Raises:
        InputError: *master* has the name or the id of one of them.
    """
    _refuse_taken(master, {user.name: user.uid for user in users}, "uid")
    lines = [
        f"{user.name}:*:{user.uid}:{user.gid}:{user.comment}:{user.home}:{user.shell}\n"
        for user in users
    ]
    return "".join([master, *lines])


def render_group(master: str, users: Sequence[SystemUser]) -> str:
    """Return /etc/group: the lines of *master*, one for each of *users*, and who is in which.

    Raises:
        InputError: *master* has the name or the id of one of them, or no group that one names.
    """
    _refuse_taken(master, {user.name: user.gid for user in users}, "gid")
    own = "".join(f"{user.name}:*:{user.gid}:\n" for user in users)
    rows = [line.split(":") for line in (master + own).splitlines()]
    members = {row[0]: [name for name in row[3].split(",") if name] for row in rows}
    for user in users:
        for name in user.groups:
            if name not in members:
                raise InputError(
                    f"users.system: {user.name}: groups: found {name!r}, expected a group"
                    " that is there before any package",
                    hint=f"one of: {', '.join(members)}",
                )
            if user.name not in members[name]:
                members[name].append(user.name)
    return "".join(f"{':'.join(row[:3])}:{','.join(members[row[0]])}\n" for row in rows)


def _refuse_taken(master: str, wanted: Mapping[str, int], key: str) -> None:
    rows = [line.split(":") for line in master.splitlines()]
    ids = {row[0]: int(row[2]) for row in rows}
    names = {number: name for name, number in ids.items()}
    for name, number in wanted.items():
        if name in ids:
            raise InputError(
                f"users.system: {name}: the distribution has that name, {key} {ids[name]}"
            )
        if number in names:
            raise InputError(
                f"users.system: {name}: {key} {number} is the distribution's {names[number]}"
            )
