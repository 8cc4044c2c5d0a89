"""The bootstrap's initramfs: drivers, a network, and the agent that fetches and starts capsules.

Nothing of a site is in it: site.cpio, which provisiond makes, is loaded beside it.
"""

from __future__ import annotations

import stat
import tempfile
from pathlib import Path

from vnfsbuild.digest import digest_of_stream, render_json
from vnfsbuild.errors import InputError
from vnfsbuild.initrd.archive import Member, directory, link, regular, write_initrd
from vnfsbuild.initrd.capsule import SCRIPTS
from vnfsbuild.initrd.drivers import (
    ALIASES,
    choose_base,
    choose_more,
    module_files,
    render_aliases,
)
from vnfsbuild.initrd.elf import find_libraries, resolve_inside
from vnfsbuild.initrd.kmod import load_modules
from vnfsbuild.initrd.python import python_members

PROTOCOL = 1
"""What the agent in it speaks; a capsule's config names the least that it needs."""

PROGRAMS = ("usr/bin/busybox", "usr/bin/kmod", "usr/bin/openssl", "usr/sbin/dropbear")
"""Beside Python. busybox is a static one; dropbear lets administrators in for a rescue."""

LINKS = {
    "bin": "usr/bin",
    "lib": "usr/lib",
    "lib64": "usr/lib64",
    "sbin": "usr/sbin",
    "usr/bin/sh": "busybox",
    "usr/sbin/modprobe": "../bin/kmod",
}


def build_bootstrap_initrd(
    root: Path, tools: Path, kernel_version: str, out: Path, *, recipe_dir: Path, agent: bytes
) -> None:
    """Write the initramfs of the bootstrap with the tree *root* to the file *out*.

    The kernel is *kernel_version* of *root*; init and the list of modules are in *recipe_dir*;
    depmod and zstd come from the tools tree *tools*; *agent* is agent.pyz.

    Raises:
        InputError: the tree or *recipe_dir* lacks something.
        ToolError: a program failed.
    """
    with tempfile.TemporaryDirectory(prefix="vnfs-bootstrap.") as name:
        work = Path(name)
        members = {
            **module_members(root, tools, kernel_version, recipe_dir, work / "modules"),
            **program_members(root, agent, work / "python"),
            **own_members(root, kernel_version, recipe_dir, agent),
        }
        write_initrd(members, out, tools=tools)


def module_members(
    root: Path, tools: Path, kernel_version: str, recipe_dir: Path, work: Path
) -> dict[str, Member]:
    """Return the modules of the initrd, modprobe's indexes of them, and what the others drive.

    *work* is a directory for the indexes.

    Raises:
        InputError: a module is not there.
        ToolError: depmod failed.
    """
    modules = load_modules(root, kernel_version)
    members = module_files(modules, choose_base(modules, recipe_dir), tools=tools, work=work)
    more = choose_more(modules, recipe_dir)
    if more:
        members[ALIASES] = regular(render_aliases(modules, more))
    return members


def program_members(root: Path, agent: bytes, work: Path) -> dict[str, Member]:
    """Return the programs of *root* that the bootstrap runs, with all libraries that they need.

    Raises:
        InputError: one is not there.
        ToolError: a Python module cannot be imported.
    """
    work.mkdir()
    members = {name: regular(resolve_inside(root, name), mode=0o755) for name in PROGRAMS}
    members |= python_members(root, agent, work)
    with_libraries = [
        name
        for name, member in members.items()
        if isinstance(member.data, Path) and not name.endswith(".pyc")
    ]
    for name, path in find_libraries(root, with_libraries).items():
        members[name] = regular(path, mode=0o755)
    return members


def own_members(
    root: Path, kernel_version: str, recipe_dir: Path, agent: bytes
) -> dict[str, Member]:
    """Return what is ours: scripts, the agent, what this bootstrap is, and empty directories."""
    members = {name: link(target) for name, target in LINKS.items()}
    members |= {
        "init": regular(recipe_dir / "init", mode=0o755),
        "etc/vnfs/bootstrap.json": regular(render_description(root, kernel_version)),
        "usr/lib/vnfs/agent.pyz": regular(agent),
        "usr/lib/vnfs/functions.sh": regular(SCRIPTS / "functions.sh"),
        "usr/lib/vnfs/lay-over.sh": regular(SCRIPTS / "lay-over.sh"),
        "usr/lib/vnfs/network.sh": regular(recipe_dir / "network.sh"),
        "usr/lib/vnfs/rescue": regular(recipe_dir / "rescue", mode=0o755),
        "usr/lib/vnfs/udhcpc": regular(recipe_dir / "udhcpc", mode=0o755),
        "tmp": Member(mode=stat.S_IFDIR | 0o1777),
    }
    return members | {
        name: directory() for name in ("busybox", "dev", "newroot", "proc", "run", "sys")
    }


def render_description(root: Path, kernel_version: str) -> bytes:
    """Return bootstrap.json: which kernel runs, for a capsule that may have the same.

    Raises:
        InputError: the tree has no such kernel.
    """
    kernel = root / f"boot/vmlinuz-{kernel_version}"
    try:
        with kernel.open("rb") as file:
            digest, _ = digest_of_stream(file)
    except OSError as error:
        raise InputError(f"{kernel}: {error.strerror}") from error
    return render_json(
        {"kernelDigest": digest, "kernelVersion": kernel_version, "protocol": PROTOCOL}
    )
