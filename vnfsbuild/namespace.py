"""An ordinary user as root of a namespace of their own: what builds run in.

:func:`call` runs a function as root. For root that is a plain call; for anybody else it runs in
another Python, in a user namespace whose root is the user, with a system's ids and no network.
Files that it makes belong to ids that are the user's to use, so :func:`remove` is needed to delete
them.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import pickle
import pwd
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, ParamSpec, TypeVar

from vnfsbuild import standin, tools
from vnfsbuild.errors import InputError, VnfsbuildError
from vnfsbuild.idmap import (
    NEEDED_IDS,
    SMALL_IDS,
    Extent,
    Ids,
    find_free,
    make_map,
    map_words,
    parse_subordinate,
)

P = ParamSpec("P")
T = TypeVar("T")

NO_IDS = Ids()
SUBORDINATE = {"newuidmap": Path("/etc/subuid"), "newgidmap": Path("/etc/subgid")}

# It says that it is there, waits until its ids are mapped, and then, by a new program, has the
# privileges of the root that it has become.
_WAIT = 'echo && read -r _ && exec "$@"'
_TERMINATED = 143
_PARENT_DEATH = 1  # prctl's PR_SET_PDEATHSIG


@dataclass(frozen=True, kw_only=True, slots=True)
class Lack:
    """Something that keeps an ordinary user of this host from building."""

    what: str
    remedy: str
    package: str | None = None
    """The Debian package that brings it."""


def call(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what *function* returns, run as root: see :func:`call_with`."""
    return call_with(NO_IDS, function, *args, **kwargs)


def call_with(ids: Ids, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what *function* returns, run as root, to whom *ids* are there besides all small ones.

    *function* is one of a module; it, the arguments, the result and what it raises are pickled.

    Raises:
        VnfsbuildError: this host lets no ordinary user do that; the message tells all it lacks.
    """
    if os.geteuid() == 0:
        return function(*args, **kwargs)
    level = logging.getLogger().getEffectiveLevel()
    request = pickle.dumps((level, os.getpid(), function, args, kwargs))
    try:
        answer = tools.converse(
            namespace_argv(), lambda pid: _map_ids(pid, ids) + request, env=_python_env()
        )
    except VnfsbuildError:
        verify_host()
        raise
    ended_well, value, told = pickle.loads(answer)
    if not ended_well:
        if told:
            value.add_note(told)
        raise value
    result: T = value
    return result


def verify_host() -> None:
    """Raise when this host does not let the user that we are build.

    Raises:
        VnfsbuildError: with all that it lacks, and what to do.
    """
    lacking = find_lacking()
    if lacking:
        raise VnfsbuildError(
            "an ordinary user cannot build on this host; it lacks "
            + "; ".join(item.what for item in lacking),
            hint="as root: " + "; ".join(item.remedy for item in lacking) + "; or build with sudo",
        )


def namespace_argv() -> list[str]:
    """Return the argv of a Python that waits in a new namespace for what it is to do."""
    return [
        "unshare", "--user", "--net", "--",
        "sh", "-c", _WAIT, "sh", sys.executable, "-m", __name__,
    ]  # fmt: skip


def remove(path: Path) -> None:
    """Delete the directory *path*, whoever of our ids has files in it; what cannot be, stays."""
    shutil.rmtree(path, ignore_errors=True)
    if path.exists() and os.geteuid() != 0:
        with contextlib.suppress(VnfsbuildError):
            call(shutil.rmtree, path, ignore_errors=True)


def find_lacking() -> list[Lack]:
    """Return all that this host lacks for builds by the user that we are; nothing for root."""
    if os.geteuid() == 0:
        return []
    lacking = []
    for program in ("unshare", *SUBORDINATE):
        try:
            tools.find_program(program)
        except tools.ToolError:
            package = tools.PACKAGES[program]
            remedy = f"apt-get install {package}"
            lacking.append(Lack(what=f"the program {program}", remedy=remedy, package=package))
    for path in SUBORDINATE.values():
        have = sum(count for _, count in _load_ranges(path))
        if have < NEEDED_IDS:
            lacking.append(_lacking_ids(path, have))
    return lacking or _try_namespace()


def _try_namespace() -> list[Lack]:
    """Try it: kernel settings, security modules and containers forbid it in many ways."""
    try:
        tools.converse(
            ["unshare", "--user", "--net", "--", "sh", "-c", _WAIT, "sh",
             "unshare", "--mount", "--", "mount", "-t", "tmpfs", "tmpfs", "/tmp"],
            lambda pid: _map_ids(pid, NO_IDS),
        )  # fmt: skip
    except VnfsbuildError as error:
        what = f"user namespaces ({error.message})"
        return [Lack(what=what, remedy=_find_setting())]
    return []


def _find_setting() -> str:
    """Return the command that most likely makes user namespaces work here."""
    for name, wanted in (
        ("kernel.apparmor_restrict_unprivileged_userns", "0"),
        ("kernel.unprivileged_userns_clone", "1"),
        ("user.max_user_namespaces", "10000"),
    ):
        path = Path("/proc/sys") / name.replace(".", "/")
        with contextlib.suppress(OSError):
            found = path.read_text(encoding="ascii").strip()
            if found != wanted and found in ("0", "1"):
                return f"sysctl -w {name}={wanted}"
    return "in a container: allow user namespaces and mounts in it, or build as its root"


def _lacking_ids(path: Path, have: int) -> Lack:
    name = _names()[0]
    first = find_free(_load_text(path))
    return Lack(
        what=f"{path}: found {have} ids for {name}, expected {NEEDED_IDS} or more",
        remedy=f"usermod --add-{path.name}s {first}-{first + SMALL_IDS - 1} {name}"
        f" (or the line {name}:{first}:{SMALL_IDS} in {path})",
    )


def _map_ids(pid: int, ids: Ids) -> bytes:
    """Give the namespace of process *pid* its ids; return the line that it waits for."""
    maps = {
        "newuidmap": _make_map("users", os.geteuid(), "newuidmap", ids.users),
        "newgidmap": _make_map("groups", os.getegid(), "newgidmap", ids.groups),
    }
    for program, extents in maps.items():
        tools.run([program, str(pid), *map_words(extents)])
    return b"\n"


def _make_map(what: str, own: int, program: str, large: frozenset[int]) -> tuple[Extent, ...]:
    try:
        return make_map(own, _load_ranges(SUBORDINATE[program]), large)
    except InputError as error:
        raise InputError(f"{what}: {error.message}", hint=error.hint) from error


def _load_ranges(path: Path) -> list[tuple[int, int]]:
    return parse_subordinate(_load_text(path), _names())


def _load_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _names() -> list[str]:
    uid = os.geteuid()
    try:
        return [pwd.getpwuid(uid).pw_name, str(uid)]
    except KeyError:  # nobody told this host of the user
        return [str(uid)]


def _python_env() -> dict[str, str]:
    """Return what makes the other Python find the modules that this one finds."""
    return {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def main() -> None:
    """Do what standard input asks for; the answer goes to standard output."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _terminate)
    # Standard output is for the answer alone: programs that are started tell theirs elsewhere.
    answers = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    level, parent, function, args, kwargs = pickle.load(sys.stdin.buffer)
    # The caller may be killed, and we would go on in its workspace.
    ctypes.CDLL(None).prctl(_PARENT_DEATH, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(_TERMINATED)
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    logging.getLogger("libarchive").setLevel(logging.ERROR)
    os.setgroups([])
    standin.install()
    answer: tuple[bool, Any, str]
    try:
        answer = (True, function(*args, **kwargs), "")
    except (VnfsbuildError, OSError) as error:
        answer = (False, error, "")
    except Exception as error:  # noqa: BLE001 - told as a bug, by the one who called
        answer = (False, error, traceback.format_exc())
    with os.fdopen(answers, "wb") as file:
        file.write(pickle.dumps(answer))


def _terminate(number: int, frame: FrameType | None) -> None:
    """End as by Ctrl-C: what is half-done is removed on the way out."""
    sys.exit(_TERMINATED)


if __name__ == "__main__":
    main()
