"""The local stage: the recipe's own files and services, and what makes a tree a node's system.

All paths are followed inside the tree, through its own links and never out of it.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from vnfsbuild import tools
from vnfsbuild.errors import InputError, VnfsbuildError
from vnfsbuild.recipe import Recipe, Services, WrittenFile
from vnfsbuild.sandbox import tree_argv

AGENT = "usr/lib/vnfs/agent.pyz"
UNITS = "usr/lib/systemd/system"
SELINUX = "etc/selinux/config"
_SELINUX = re.compile(r"^SELINUX=.*$", re.MULTILINE)

AGENT_UNIT = """\
[Unit]
Description=VNFS agent: tells the node server how this node is
ConditionPathExists=/run/vnfs/node.json
After=network.target systemd-networkd.service NetworkManager.service networking.service

[Service]
Type=exec
ExecStart=/usr/bin/python3 -I -S /usr/lib/vnfs/agent.pyz run
# What it has begun, a task say, goes on when it is started anew.
KillMode=process
Restart=always
RestartSec=5

[Install]
WantedBy=multi-user.target
"""

# Ed25519 alone: an RSA key takes a slow processor seconds, at every boot of every node.
HOST_KEYS_UNIT = """\
[Unit]
Description=Make the host key of the SSH server, when this node has none
ConditionPathExistsGlob=!/etc/ssh/ssh_host_*_key
Before=ssh.service ssh.socket sshd.service

[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -q -t ed25519 -N "" -f /etc/ssh/ssh_host_ed25519_key
RemainAfterExit=yes

[Install]
WantedBy=multi-user.target
"""

_MAX_LINKS = 40


def apply_local(
    root: Path, recipe: Recipe, *, directory: Path, tools_tree: Path, agent: bytes | None
) -> None:
    """Lay what *recipe*, which stands in *directory*, says beside its packages over *root*.

    Raises:
        InputError: the recipe names what is not there: a file, a user, a unit.
    """
    if recipe.agent and agent is not None:
        _write(root, AGENT, agent)
        _write(root, f"{UNITS}/vnfs-agent.service", AGENT_UNIT.encode())
        _enable_own(root, "vnfs-agent.service")
    if (root / "usr/bin/ssh-keygen").exists() and (root / "usr/sbin/sshd").exists():
        _write(root, f"{UNITS}/vnfs-host-keys.service", HOST_KEYS_UNIT.encode())
        _enable_own(root, "vnfs-host-keys.service")
    if recipe.copy:
        copy_files(directory / recipe.copy, root)
    for item in recipe.write:
        write_file(root, item)
    if recipe.selinux:
        set_selinux(root, recipe.selinux)
    apply_services(root, recipe.services, tools_tree=tools_tree)


def copy_files(src: Path, root: Path) -> None:
    """Lay the directory *src* over *root*.

    Owner root; modes 0755 and 0644: of the mode only the question whether the owner may execute it
    counts, so that a checkout under any umask gives the same tree.
    """
    for directory, names, files in os.walk(src):
        names.sort()
        below = Path(directory).relative_to(src)
        for name in sorted(
            files + [name for name in names if (Path(directory) / name).is_symlink()]
        ):
            path = Path(directory) / name
            target = place_in(root, str(below / name), follow_last=not path.is_symlink())
            _make_directory(root, str(below))
            _clear_place(target, where=f"files.copy {below / name}")
            if path.is_symlink():
                target.symlink_to(path.readlink())
                continue
            shutil.copyfile(path, target)
            target.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
        if not files and not names:
            _make_directory(root, str(below))


def write_file(root: Path, item: WrittenFile) -> None:
    """Write *item* into the tree *root*.

    Raises:
        InputError: the tree has no such user or group.
    """
    where = f"files.write {item.path}"
    uid = _find_id(root / "etc/passwd", item.user, where=f"{where}: owner")
    gid = _find_id(root / "etc/group", item.group, where=f"{where}: owner")
    target = _write(root, item.path, item.content.encode())
    # The owner first: changing it takes the set-user-id bit away.
    os.chown(target, uid, gid)
    target.chmod(item.mode)


def set_selinux(root: Path, mode: str) -> None:
    """Let SELinux be in *mode* when a node of the tree *root* boots; the kernel is told, too."""
    path = place_in(root, SELINUX)
    if path.is_file():
        text = path.read_text(encoding="utf-8")
        path.write_text(_SELINUX.sub(f"SELINUX={mode}", text), encoding="utf-8")


def services_argv(verb: str, units: tuple[str, ...], *, root: Path) -> list[str]:
    """Return the words for systemctl that change *units* in the tree *root*."""
    return [f"--root={root}", "--no-warn", verb, "--", *units]


def apply_services(root: Path, services: Services, *, tools_tree: Path) -> None:
    """Enable, disable and mask units in the tree *root*, by the tools tree's systemctl.

    Raises:
        InputError: the tree has no such unit.
    """
    changes: Mapping[str, tuple[str, ...]] = {
        "disable": services.disable,
        "enable": services.enable,
        "mask": services.mask,
    }
    # Skipped: the script that would be called for init.d is the build host's own.
    for verb, units in changes.items():
        for unit in units:
            argv = tree_argv(tools_tree, "systemctl", services_argv(verb, (unit,), root=root))
            try:
                tools.run(argv, env={"SYSTEMD_OFFLINE": "1", "SYSTEMCTL_SKIP_SYSV": "1"})
            except tools.ToolError as error:
                raise InputError(
                    f"services.{verb}: {unit}: {error.message}",
                    hint="its package must stand in packages.install",
                ) from error


def place_in(root: Path, path: str, *, follow_last: bool = True) -> Path:
    """Return where *path* is in the tree *root*, links followed as if *root* were ``/``.

    Raises:
        VnfsbuildError: the links go round in a circle.
    """
    todo = list(reversed(PurePosixPath(path.lstrip("/")).parts))
    done: list[str] = []
    links = 0
    while todo:
        part = todo.pop()
        if part == "..":
            done = done[:-1]
            continue
        here = root.joinpath(*done, part)
        if here.is_symlink() and (todo or follow_last):
            links += 1
            if links > _MAX_LINKS:
                raise VnfsbuildError(f"{path}: too many symbolic links")
            target = PurePosixPath(here.readlink())
            if target.is_absolute():
                done = []
            todo += reversed([word for word in target.parts if word != "/"])
        else:
            done.append(part)
    return root.joinpath(*done)


def _write(root: Path, path: str, data: bytes) -> Path:
    _make_directory(root, str(PurePosixPath(path).parent))
    target = place_in(root, path)
    _clear_place(target, where=path)
    target.write_bytes(data)
    target.chmod(0o644)
    return target


def _clear_place(target: Path, *, where: str) -> None:
    if target.is_dir() and not target.is_symlink():
        raise InputError(f"{where}: the tree has a directory there")
    target.unlink(missing_ok=True)


def _make_directory(root: Path, path: str) -> None:
    parts = [part for part in PurePosixPath(path).parts if part not in ("/", ".")]
    for count in range(1, len(parts) + 1):
        target = place_in(root, "/".join(parts[:count]))
        if target.exists() and not target.is_dir():
            raise InputError(f"{path}: the tree has a file at {'/'.join(parts[:count])}")
        if not target.is_dir():
            target.mkdir(parents=True)
            target.chmod(0o755)


def _enable_own(root: Path, unit: str) -> None:
    path = f"{UNITS}/multi-user.target.wants/{unit}"
    _make_directory(root, str(PurePosixPath(path).parent))
    target = place_in(root, path, follow_last=False)
    target.unlink(missing_ok=True)
    target.symlink_to(f"../{unit}")


def _find_id(path: Path, name: str, *, where: str) -> int:
    if name.isdigit():
        return int(name)
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        words = line.split(":")
        if words[0] == name:
            return int(words[2])
    raise InputError(
        f"{where}: the tree has no {name!r} in etc/{path.name}",
        hint="a number does as well, or the package that makes it",
    )
