"""``drivers.cpio``: the drivers of a bootstrap that most nodes can do without.

An archive in the form of an initramfs, uncompressed, for the modules in it are as the distribution
compressed them. Unpacked over the bootstrap's own, by the kernel when firmware loads both or by
the agent later, its indexes take the place of those there, and modprobe knows all drivers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from vnfsbuild.digest import render_json
from vnfsbuild.errors import InputError
from vnfsbuild.initrd.archive import Member, regular, write_archive
from vnfsbuild.initrd.kmod import (
    Modules,
    choose_modules,
    load_modules,
    module_name,
    parse_module_list,
    read_module,
)
from vnfsbuild.initrd.modinfo import parse_modinfo
from vnfsbuild.sandbox import tree_argv
from vnfsbuild.tools import run

BASE_LIST = "modules.txt"
MORE_LIST = "drivers.txt"
"""Beside a bootstrap's recipe: which modules are in its initrd, and which are not."""

ALIASES = "usr/lib/vnfs/drivers.alias"
"""In the initrd: what hardware the drivers are for that are not in it."""
NOTE = "etc/vnfs/drivers.json"
"""In drivers.cpio: that it is there, and for which kernel."""

HARDWARE = ("acpi", "hid", "pci", "pnp", "sdio", "usb", "virtio", "vmbus", "xen")
"""The kinds of aliases that are devices. Not ``auxiliary``: those are parts of what is driven."""

FIRMWARE = "usr/lib/firmware"
COMPRESSED = ("", ".zst", ".xz")
"""As which the kernel finds a firmware file."""

INDEXES = ("modules.builtin", "modules.builtin.modinfo", "modules.order")
"""What depmod reads beside the modules."""

UNUSED_INDEXES = ("modules.alias", "modules.dep", "modules.symbols", "modules.builtin.alias")
"""Written by depmod as text too; modprobe reads the binary ones."""


def choose_base(modules: Modules, recipe_dir: Path) -> tuple[str, ...]:
    """Return the paths of the modules in the initrd of the bootstrap in *recipe_dir*.

    Raises:
        InputError: there is no list of them, or it names what is not there.
    """
    return _choose(modules, recipe_dir / BASE_LIST)


def choose_more(modules: Modules, recipe_dir: Path) -> tuple[str, ...]:
    """Return the paths of the modules that are not; none when the bootstrap has no list of such.

    Raises:
        InputError: a list names what is not there.
    """
    if not (recipe_dir / MORE_LIST).is_file():
        return ()
    base = set(choose_base(modules, recipe_dir))
    return tuple(path for path in _choose(modules, recipe_dir / MORE_LIST) if path not in base)


def module_files(
    modules: Modules, paths: Iterable[str], *, tools: Path, work: Path
) -> dict[str, Member]:
    """Return the modules *paths*, byte for byte as the distribution has them.

    They stay compressed: modprobe lets the kernel unpack those that are loaded, and the others
    take a third of the memory. *work* is a directory for modprobe's indexes of them, which come
    along.

    Raises:
        ToolError: depmod failed.
    """
    version = modules.directory.name
    place = f"usr/lib/modules/{version}"
    target = work / place
    members = {}
    for path in paths:
        source = modules.directory / path
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        (target / path).symlink_to(source)
        members[f"{place}/{path}"] = regular(source)
    for index in INDEXES:
        if (modules.directory / index).is_file():
            (target / index).symlink_to(modules.directory / index)
    (work / "lib").symlink_to("usr/lib")
    run(tree_argv(tools, "depmod", ["--basedir", str(work), version]))
    for file in sorted(target.glob("modules.*")):
        if file.name not in (*INDEXES, *UNUSED_INDEXES):
            members[f"{place}/{file.name}"] = regular(file)
    return members


def render_aliases(modules: Modules, paths: Iterable[str]) -> bytes:
    """Return a line ``ALIAS MODULE`` for each kind of hardware that the modules *paths* drive."""
    names = {module_name(path) for path in paths}
    lines = {
        f"{alias} {name}\n"
        for alias, name in modules.hardware
        if name in names and alias.partition(":")[0] in HARDWARE
    }
    return "".join(sorted(lines)).encode("ascii", "replace")


def build_drivers(
    root: Path, tools: Path, kernel_version: str, out: Path, *, recipe_dir: Path
) -> Path | None:
    """Write drivers.cpio of the bootstrap with the tree *root* to the file *out*; return that.

    None, and nothing is written, when *recipe_dir* lists no such drivers. Firmware files that the
    modules of initrd and archive ask for come along, as far as the tree has them.

    Raises:
        InputError: the tree or *recipe_dir* lacks something.
        ToolError: a program failed.
    """
    modules = load_modules(root, kernel_version)
    base, more = choose_base(modules, recipe_dir), choose_more(modules, recipe_dir)
    if not more:
        return None
    with tempfile.TemporaryDirectory(prefix="vnfs-drivers.") as name:
        members = module_files(modules, (*base, *more), tools=tools, work=Path(name))
        place = f"usr/lib/modules/{kernel_version}"
        for path in base:
            del members[f"{place}/{path}"]
        members |= firmware_files(root, modules, (*base, *more), tools=tools)
        note = {"kernelVersion": kernel_version, "modules": len(more)}
        members[NOTE] = regular(render_json(note))
        with out.open("wb") as file:
            write_archive(members, file)
    out.chmod(0o644)
    return out


def firmware_files(
    root: Path, modules: Modules, paths: Iterable[str], *, tools: Path
) -> dict[str, Member]:
    """Return the firmware files in *root* that the modules *paths* ask for.

    Raises:
        InputError: a module cannot be read.
    """
    firmware = root / FIRMWARE
    if not firmware.is_dir() or not any(firmware.iterdir()):
        return {}
    members = {}
    for path in paths:
        module = modules.directory / path
        says = parse_modinfo(read_module(module, tools=tools), where=str(module))
        for name in says.get("firmware", ()):
            for suffix in COMPRESSED:
                for found in sorted(firmware.glob(f"{name}{suffix}")):
                    if found.is_file():
                        place = found.relative_to(root)
                        members[str(place)] = regular(found)
    return members


def _choose(modules: Modules, module_list: Path) -> tuple[str, ...]:
    try:
        text = module_list.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{module_list}: {error.strerror}") from error
    patterns = parse_module_list(text, where=str(module_list))
    return choose_modules(modules, patterns, where=str(module_list))
