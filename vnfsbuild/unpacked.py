"""The essential packages of a Debian system, unpacked in one go: what mkosi then configures.

mkosi unpacks them too, each in two sandboxes of its own, which takes three times as long. What is
done here is what it does: one tar, fed with one package after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from vnfsbuild import tools
from vnfsbuild.sandbox import tree_argv

MERGED = {"x86_64": ("lib32", "lib64", "libx32"), "arm64": ()}
"""Architecture → links to /usr that it has besides those of all."""
DOCUMENTATION = ("doc", "man", "groff", "gtk-doc", "info")
"""Below /usr/share: what dpkg leaves out later would only be unpacked to be removed."""
NOT_KEPT = ("dev", "proc", "sys", "tmp", "run", "var/tmp")
WANTED = ("?essential", "base-files")
"""What apt is asked for, to configure what was unpacked."""
MOVING = ("sid", "unstable")
"""Releases of which mkosi makes an os-release of its own: they are left to it."""
AHEAD = 2
"""How many packages are decompressed at once, ahead of tar."""


def unpack_essential(
    packages: Sequence[Path], root: Path, *, tree: Path, architecture: str
) -> None:
    """Make the directory *root* of the files of *packages*, by programs of the tools tree *tree*.

    Raises:
        ToolError: a package cannot be unpacked.
    """
    root.mkdir(mode=0o755)
    for name in ("bin", "sbin", "lib", *MERGED[architecture]):
        (root / f"usr/{name}").mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")

    def decompress(path: Path) -> bytes:
        return tools.capture(tree_argv(tree, "dpkg-deb", ["--fsys-tarfile", str(path)]))

    def write(stream: IO[bytes]) -> None:
        with ThreadPoolExecutor(AHEAD) as pool:
            waiting = [pool.submit(decompress, path) for path in packages[:AHEAD]]
            for number in range(len(packages)):
                stream.write(waiting.pop(0).result())
                if number + AHEAD < len(packages):
                    waiting.append(pool.submit(decompress, packages[number + AHEAD]))

    tools.feed(tree_argv(tree, "tar", tar_arguments(root)), write)
    # tar leaves it as it has it in between, where several archives have an entry for it.
    root.chmod(0o755)
    # What mkosi makes beside the packages.
    (root / "efi").mkdir(mode=0o500)
    (root / "boot/loader").mkdir(mode=0o700, parents=True)
    (root / "boot/loader/entries.srel").write_text("type1\n", encoding="ascii")
    (root / "boot/loader/entries.srel").chmod(0o600)


def tar_arguments(root: Path) -> list[str]:
    """Return the arguments that make tar unpack archives, one after the other, into *root*."""
    left_out = [f"./usr/share/{name}/*" for name in DOCUMENTATION]
    left_out += [f"./{name}/*" for name in NOT_KEPT]
    return [
        "--extract", "--file", "-", "--ignore-zeros", "--directory", str(root),
        "--keep-directory-symlink", "--no-overwrite-dir", "--same-permissions", "--same-owner",
        "--numeric-owner", "--xattrs", "--xattrs-include=*", "--force-local",
        *(f"--exclude={glob}" for glob in left_out),
    ]  # fmt: skip
