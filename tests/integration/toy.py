"""A distribution of three packages, made by hand, so that tests build whole capsules in seconds.

No network and no foreign byte, but the real mkosi, apt, dpkg and packers.
"""

import hashlib
import io
import shutil
import struct
import tarfile
from pathlib import Path

from vnfsbuild.builder import find_builder
from vnfsbuild.digest import digest_of
from vnfsbuild.lock import Lock, LockedPackage, LockedRepository, render_lock
from vnfsbuild.packages import package_path
from vnfsbuild.resolve import LoadedRecipe, load_recipe
from vnfsbuild.toolstree import ensure_tools_tree, load_tools

EPOCH = 1_700_000_000
KERNEL = "6.0.0-toy"

RECIPE = f"""\
name = "toy"

[distribution]
id = "debian"
release = "trixie"

[packages]
install = ["toy-tools"]

[kernel]
package = "linux-image-toy"
arguments = ["quiet"]

[files]
copy = "files"

[[files.write]]
path = "/etc/toy.conf"
content = "epoch = {EPOCH}\\n"
mode = "0640"
owner = "daemon:daemon"

[exclude]
paths = ["usr/share/doc/*"]

[agent]
enabled = false
"""

FILES = {"files/etc/motd": b"toy\n", "files/etc/deep/er/file": b"deep\n"}

PASSWD = b"root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n"
GROUP = b"root:x:0:\ndaemon:x:1:\n"
OS_RELEASE = b'ID=debian\nVERSION_ID="13"\nVERSION_CODENAME=trixie\nPRETTY_NAME="Toy"\n'

# What choose_modules looks for is in the kernel itself.
BUILTIN = b"".join(
    b"kernel/%s.ko\n" % name
    for name in (b"drivers/block/loop", b"fs/overlayfs/overlay", b"fs/squashfs/squashfs")
)
# A program that does nothing, and well: mkosi runs depmod inside the tree, which has no library.
CODE = bytes.fromhex("b83c00000031ff0f05")  # mov eax, 60 (exit); xor edi, edi; syscall
START = 0x400000
NOTHING = (
    b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, START + 120, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    + struct.pack("<IIQQQQQQ", 1, 5, 0, START, START, 120 + len(CODE), 120 + len(CODE), 4096)
    + CODE
)
MODULES = f"usr/lib/modules/{KERNEL}"


def directory(name, mode=0o755):
    info = tarfile.TarInfo(f"./{name}/" if name else "./")
    info.type, info.mode = tarfile.DIRTYPE, mode
    return info, b""


def regular(name, data, mode=0o644):
    info = tarfile.TarInfo(f"./{name}")
    info.mode = mode
    return info, data


def link(name, target, kind=tarfile.SYMTYPE, mode=0o777):
    info = tarfile.TarInfo(f"./{name}")
    info.type, info.mode, info.linkname = kind, mode, target
    return info, b""


BASE = [
    *(directory(name) for name in ("", "boot", "dev", "etc", "home", "proc", "root", "run", "sys")),
    directory("tmp", 0o1777),
    *(directory(f"usr{name}") for name in ("", "/bin", "/lib", "/lib64", "/sbin", "/share")),
    *(directory(f"var{name}") for name in ("", "/cache", "/lib", "/log")),
    *(link(name, f"usr/{name}") for name in ("bin", "lib", "lib64", "sbin")),
    regular("etc/passwd", PASSWD),
    regular("etc/group", GROUP),
    regular("etc/shadow", b"root:*:19000:0:99999:7:::\ndaemon:*:19000:0:99999:7:::\n", 0o640),
    regular("usr/lib/os-release", OS_RELEASE),
    link("etc/os-release", "../usr/lib/os-release"),
]

TOOLS = [
    *(directory(name) for name in ("", "usr", "usr/bin", "usr/share", "usr/share/doc")),
    directory("usr/share/doc/toy-tools"),
    regular("usr/share/doc/toy-tools/README", b"left out\n"),
    directory("usr/sbin"),
    regular("usr/sbin/depmod", NOTHING, 0o755),
    regular("usr/bin/toy", b"#!/bin/sh\n", 0o755),
    link("usr/bin/same-toy", "./usr/bin/toy", tarfile.LNKTYPE, 0o755),
    link("usr/bin/link-to-toy", "toy"),
    regular("usr/bin/set-uid", b"#!/bin/sh\n", 0o4755),
    regular("usr/share/nümlaut", b"\xff\x00", 0o600),
]

IMAGE = [
    *(directory(name) for name in ("", "boot", "usr", "usr/lib", "usr/lib/modules", MODULES)),
    regular(f"boot/vmlinuz-{KERNEL}", b"kernel\n"),
    *(
        regular(f"{MODULES}/modules.{name}", data)
        for name, data in (("builtin", BUILTIN), ("dep", b""), ("order", b""), ("softdep", b""))
    ),
]

ESSENTIAL = "Essential: yes\nPriority: required\n"
PACKAGES = {
    "linux-image-toy": ("Depends: toy-tools\n", IMAGE),
    "toy-tools": ("", TOOLS),
}


def make_deb(name, fields, members, version="1.0"):
    control = (
        f"Package: {name}\nVersion: {version}\nArchitecture: amd64\n"
        f"Maintainer: Toy <toy@example.org>\n{fields}Description: toy\n"
    )
    parts = {
        "debian-binary": b"2.0\n",
        # Not compressed: no library's version is in the bytes.
        "control.tar": make_tar([regular("control", control.encode())]),
        "data.tar": make_tar(members),
    }
    data = b"!<arch>\n"
    for part, content in parts.items():
        header = f"{part:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n"
        data += header.encode() + content + b"\n" * (len(content) % 2)
    return data


def make_tar(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for info, content in members:
            info.size, info.mtime = len(content), EPOCH - 1000
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def make_recipe(directory: Path, *, script: str | None = None) -> Path:
    """Write recipe and files to *directory*; *script* is run last, inside the tree."""
    files = {"recipe.toml": RECIPE.encode(), **FILES}
    if script is not None:
        files["recipe.toml"] += b'\n[scripts]\nfinalize = ["finalize.sh"]\n'
        files["finalize.sh"] = script.encode()
    for name, data in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return directory


def make_packages(cache: Path, shell: bytes | None = None) -> tuple[LockedPackage, ...]:
    """Put the packages into the package cache *cache*; return them as a lock names them.

    *shell* is a program that shall be /bin/sh: without one the tree has none.
    """
    base = [*BASE, regular("usr/bin/sh", shell, 0o755)] if shell else BASE
    locked = []
    for name, (fields, members) in {**PACKAGES, "base-files": (ESSENTIAL, base)}.items():
        data = make_deb(name, fields, members)
        sha256 = hashlib.sha256(data).hexdigest()
        path = cache / "packages/sha256" / sha256
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        locked.append(
            LockedPackage(
                name=name,
                version="1.0",
                architecture="amd64",
                size_bytes=len(data),
                sha256=sha256,
                path=f"pool/{name}.deb",
                repository="toy",
            )
        )
    return tuple(locked)


def make_lock(loaded: LoadedRecipe, packages, tools) -> Lock:
    """Return the lock of *loaded*, as the solver would have made it."""
    return Lock(
        serial=1,
        epoch=EPOCH,
        distribution="debian",
        release="trixie",
        architecture="x86_64",
        recipe=loaded.digest,
        files=loaded.files,
        repositories=tuple(
            LockedRepository(
                id=name,
                suite="toy",
                components=("main",),
                metadata=digest_of(b"toy"),
                epoch=EPOCH,
                keys=("A" * 40,),
            )
            for name in sorted({item.repository for item in (*packages, *tools)})
        ),
        packages=packages,
        tools=tools,
        builder=find_builder(),
    )


def make_locked_recipe(
    directory: Path, cache: Path, tools_cache: Path, *, script: str | None = None
) -> Path:
    """Make a recipe with its lock in *directory*, and bring all its packages into *cache*.

    The tools tree is that of *tools_cache*. With a *script* the toy has a shell to run it.
    """
    loaded = load_recipe(make_recipe(directory, script=script))
    shell = None
    if script is not None:
        shell = (ensure_tools_tree("build", tools_cache) / "usr/bin/busybox").read_bytes()
    tools = load_tools("build", tools_cache)
    lock = make_lock(loaded, make_packages(cache, shell), tools)
    loaded.lock_path.write_text(render_lock(lock), encoding="utf-8")
    for item in tools:
        target = package_path(cache, item.sha256)
        if not target.exists():
            shutil.copyfile(package_path(tools_cache, item.sha256), target)
    return directory
