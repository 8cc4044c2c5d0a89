"""An ordinary user for tests: one of a mount namespace, so that nothing of this machine changes
(but that it gets an empty /etc/subuid and /etc/subgid where it had none).

Python, this checkout and its libraries are shown where such a user can read them.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

NAME, ID = "vnfs-test-user", 64_001
FIRST, COUNT = 1_000_000, 65_536

CHECKOUT = Path(__file__).resolve().parents[2]
LIBRARIES = Path(click.__file__).resolve().parents[1]
PYTHON = Path(sys.base_prefix)

_AS_USER = """\
set -e
cd "$1"
for name in passwd group subuid subgid; do
    test -e /etc/$name || touch /etc/$name
    mount --bind etc/$name /etc/$name
done
mount --bind "$2" python
mount --bind "$3" libraries
mount --bind "$4" checkout
user=$5
shift 5
exec setpriv --reuid "$user" --regid "$user" --clear-groups -- "$@"
"""


@dataclass(frozen=True, kw_only=True)
class OrdinaryUser:
    """Somebody without privileges, but with subordinate ids."""

    home: Path
    """a directory on disk that is theirs"""
    python: Path

    def run(self, argv: Sequence[str | Path], **environment: str) -> subprocess.CompletedProcess:
        """Run Python with *argv* as this user; standard output and errors are in one."""
        top = self.home.parent
        environment = {
            "HOME": str(self.home),
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": f"{top}/checkout:{top}/libraries",
            **environment,
        }
        words = [f"{name}={value}" for name, value in environment.items()]
        return subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "--", "sh", "-c", _AS_USER, "sh",
             top, PYTHON, LIBRARIES, CHECKOUT, str(ID), "env", "-i", *words, self.python, *argv],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip


@contextlib.contextmanager
def ordinary_user(*, count: int = COUNT) -> Iterator[OrdinaryUser]:
    """Make a user with *count* subordinate ids, for the block."""
    top = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="vnfs-test."))
    try:
        top.chmod(0o755)
        for name in ("etc", "python", "libraries", "checkout", "home"):
            (top / name).mkdir()
        ids = f"{NAME}:{FIRST}:{count}\n" if count else ""
        lines = {
            "passwd": f"{NAME}:x:{ID}:{ID}::{top}/home:/bin/sh\n",
            "group": f"{NAME}:x:{ID}:\n",
            "subuid": ids,
            "subgid": ids,
        }
        for name, line in lines.items():
            real = Path("/etc") / name
            text = real.read_text() if real.exists() else ""
            (top / "etc" / name).write_text(text + line)
        shutil.chown(top / "home", ID, ID)
        python = top / "python/bin" / Path(sys.executable).resolve().name
        yield OrdinaryUser(home=top / "home", python=python)
    finally:
        shutil.rmtree(top)
