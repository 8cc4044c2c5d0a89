"""The capsule's initramfs: it makes layers in memory a running root, and is gone.

Small on purpose, and of the capsule's own kernel: a static busybox, a shell script, and the few
modules that mounting takes. Layers, overlay and the node's files follow it in a second archive.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vnfsbuild.initrd.archive import Member, directory, regular, write_initrd
from vnfsbuild.initrd.kmod import choose_modules, load_modules, module_name, read_module

SCRIPTS = Path(__file__).parent

MODULES = ("loop", "overlay")
"""What mounting layers takes, besides their format."""


def capsule_members(
    root: Path,
    tools: Path,
    kernel_version: str,
    *,
    formats: Sequence[str] = ("squashfs",),
    extra_modules: Sequence[str] = (),
) -> dict[str, Member]:
    """Return what is in the initramfs of the capsule with the tree *root*.

    Modules are decompressed: busybox loads what a kernel without CONFIG_MODULE_DECOMPRESS takes.

    Raises:
        InputError: the tree lacks the kernel's modules, or one that is asked for.
    """
    modules = load_modules(root, kernel_version)
    chosen = dict.fromkeys(
        (
            *choose_modules(modules, (*MODULES, *formats), where="capsule initrd"),
            *choose_modules(modules, extra_modules, where="kernel.initrd_modules"),
        )
    )
    files = {path: f"usr/lib/modules/{module_name(path)}.ko" for path in chosen}
    members = {
        file: regular(read_module(modules.directory / path, tools=tools))
        for path, file in files.items()
    }
    order = "".join(f"/{files[path]}\n" for path in chosen)
    members |= {
        "bin/busybox": regular(tools / "usr/bin/busybox", mode=0o755),
        "init": regular(SCRIPTS / "init", mode=0o755),
        "usr/lib/vnfs/functions.sh": regular(SCRIPTS / "functions.sh"),
        "usr/lib/vnfs/lay-over.sh": regular(SCRIPTS / "lay-over.sh"),
        "usr/lib/vnfs/modules": regular(order.encode()),
    }
    members |= {name: directory() for name in ("dev", "newroot", "proc", "run", "sys", "tmp")}
    return members


def build_capsule_initrd(
    root: Path,
    tools: Path,
    kernel_version: str,
    out: Path,
    *,
    formats: Sequence[str] = ("squashfs",),
    extra_modules: Sequence[str] = (),
) -> None:
    """Write the initramfs of the capsule with the tree *root* to the file *out*.

    The kernel is *kernel_version* of *root*; busybox and zstd come from the tools tree *tools*.
    *formats* are the file systems of the layers; *extra_modules* are loaded too, before those are
    mounted.

    Raises:
        InputError: the tree lacks the kernel's modules, or one that is asked for.
        ToolError: zstd failed.
    """
    members = capsule_members(
        root, tools, kernel_version, formats=formats, extra_modules=extra_modules
    )
    write_initrd(members, out, tools=tools)
