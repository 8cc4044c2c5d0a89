"""How programs of a tools tree are run: by the tree's own loader, or in namespaces.

:func:`tree_argv` needs no privilege and works on any host of the same architecture: enough for a
program that reads and writes files. :func:`sandbox_argv` gives the program the tree as its /usr,
which apt needs, since it starts programs of its own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from vnfsbuild.errors import VnfsbuildError

LOADER = "usr/lib64/ld-linux-x86-64.so.2"
LIBRARIES = (
    "usr/lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu/systemd", "usr/lib64", "usr/lib"
)  # fmt: skip
PROGRAMS = ("usr/bin", "usr/sbin", "usr/lib/systemd")
MKOSI = "usr/lib/python3/dist-packages"
"""Where in the tools tree "build" the package mkosi is."""

HOST_NAME = "localhost"
"""What is built knows the host by this name."""
# By the call, for in a user namespace nobody may write to /proc/sys.
SET_HOST_NAME = """\
import os, socket, sys
socket.sethostname(sys.argv[1])
os.execvp(sys.argv[2], sys.argv[2:])
"""
"""A program for Python: in a UTS namespace of its own it sets the name in its first argument, and
becomes what the others say."""


def tree_argv(tree: Path, program: str, args: Sequence[str | os.PathLike[str]] = ()) -> list[str]:
    """Return the argv that runs *program* of *tree* with *args*, without namespaces.

    Raises:
        VnfsbuildError: the tree has no such program.
    """
    for directory in PROGRAMS:
        path = tree / directory / program
        if path.is_file():
            break
    else:
        raise VnfsbuildError(
            f"{tree}: has no program {program}",
            hint="delete that directory: it is made anew when it is needed",
        )
    libraries = ":".join(str(tree / directory) for directory in LIBRARIES)
    return [
        str(tree / LOADER),
        "--library-path", libraries,
        "--argv0", program,
        str(path),
        *(os.fspath(word) for word in args),
    ]  # fmt: skip


def sandbox_argv(
    tree: Path,
    *,
    writable: Iterable[Path] = (),
    readable: Iterable[Path] = (),
    network: bool = False,
) -> list[str]:
    """Return the start of an argv that runs a program with *tree* as its /usr.

    It sees that, *writable* and *readable* at their own places, and an empty /tmp; nothing else of
    the host. mkosi's own sandbox does the work: as an ordinary user too, in a user namespace.
    """
    argv = [sys.executable, "-SI", str(tree / MKOSI / "mkosi/sandbox.py")]
    argv += ["--proc", "/proc", "--dev", "/dev", "--dir", "/tmp", "--dir", "/var/tmp"]
    argv += ["--ro-bind", str(tree / "usr"), "/usr"]
    for name in ("bin", "lib", "lib64", "sbin"):
        argv += ["--symlink", f"usr/{name}", f"/{name}"]
    for path in readable:
        argv += ["--ro-bind-try", str(path), str(path)]
    for path in writable:
        argv += ["--bind", str(path), str(path)]
    if not network:
        argv += ["--unshare-net"]
    return [*argv, "--"]
