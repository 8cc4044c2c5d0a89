"""The kernel's calls that put a union of layers somewhere; Linux 5.8 or later, as root.

Everything is put together in a mount namespace of its own and appears in the caller's in one step.
So a process that dies on the way, however it dies, leaves nothing behind: its namespace goes with
it, and its loop devices with the last mount that uses them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vnfsbuild.errors import VnfsbuildError

_CLONE_NEWNS = 0x00020000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_REC, _MS_PRIVATE = 1, 2, 4, 0x4000, 1 << 18
_READ_ONLY = _MS_RDONLY | _MS_NOSUID | _MS_NODEV
_NR_OPEN_TREE, _NR_MOVE_MOUNT = 428, 429
_AT_FDCWD = -100
_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH, _MOVE_MOUNT_T_EMPTY_PATH = 4, 0x40
_UMOUNT_NOFOLLOW = 8

_LOOP_CONTROL = "/dev/loop-control"
_LOOP_CTL_GET_FREE = 0x4C82
_LOOP_CONFIGURE = 0x4C0A
_LO_READ_ONLY, _LO_AUTOCLEAR = 1, 4
# struct loop_config: fd, block size, then struct loop_info64, then 64 bytes of nothing.
_LOOP_CONFIG = struct.Struct("=II" + "QQQQQ" + "IIII" + "64s64s32s" + "QQ" + "64x")
_LOOP_ATTEMPTS = 16

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """The file system of one layer: so many bytes from *offset* on of an open file."""

    descriptor: int
    offset: int
    size_bytes: int
    format: str
    """``squashfs`` or ``erofs``"""


def mount_union(parts: Sequence[Part], directory: Path, *, source: str) -> None:
    """Mount the union of *parts*, the undermost first, read-only on *directory*.

    *source* is what the list of mounts says of it. It is there as a whole or not at all.

    Raises:
        VnfsbuildError: the kernel refuses; nothing is left behind.
    """
    with contextlib.ExitStack() as stack:
        # What lies there now, and not what the name may mean in a moment.
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            target = os.open(directory, flags)
        except OSError as error:
            raise VnfsbuildError(f"{directory}: {error.strerror}") from error
        stack.callback(os.close, target)
        loops = [stack.enter_context(_loop(part)) for part in parts]
        union = stack.enter_context(_apart(directory, loops, parts, source))
        _call(
            f"{directory}: cannot be mounted on", _libc.syscall, _NR_MOVE_MOUNT, union, b"",
            target, b"", _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH,
        )  # fmt: skip


def unmount(directory: Path) -> None:
    """Undo what is mounted on *directory*.

    Raises:
        VnfsbuildError: it is in use, or the kernel refuses.
    """
    try:
        _call(f"{directory}", _libc.umount2, os.fsencode(directory), _UMOUNT_NOFOLLOW)
    except VnfsbuildError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno == errno.EBUSY:
            raise VnfsbuildError(
                f"{directory}: in use: a process works in it or has a file of it open",
                hint=f"fuser --verbose --mount {directory} (Debian package psmisc) tells which",
            ) from cause
        raise


@contextlib.contextmanager
def _apart(
    directory: Path, loops: Sequence[int], parts: Sequence[Part], source: str
) -> Iterator[int]:
    """Return a descriptor of the union of *loops*, which is mounted nowhere yet."""
    here = os.open("/", os.O_PATH | os.O_CLOEXEC)
    at = os.open(".", os.O_PATH | os.O_CLOEXEC)
    home = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _call("mount namespace", _libc.unshare, _CLONE_NEWNS)
        try:
            union = _join(directory, loops, parts, source)
        finally:
            _call("mount namespace", _libc.setns, home, _CLONE_NEWNS)
            os.fchdir(at)
        try:
            yield union
        finally:
            os.close(union)
    finally:
        for descriptor in (here, at, home):
            os.close(descriptor)


def _join(directory: Path, loops: Sequence[int], parts: Sequence[Part], source: str) -> int:
    """Mount the union on *directory* in this namespace; return a descriptor of it."""
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    _mount("tmpfs", str(directory), "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=0700")
    # Names from here on: a path might hold what lists of directories are parted by.
    os.chdir(directory)
    # Two layers is the least that is joined without one to write to.
    names = ["empty"]
    Path("empty").mkdir(mode=0o755)
    for number, (loop, part) in enumerate(zip(loops, parts, strict=True)):
        name = str(number)
        Path(name).mkdir()
        _mount(f"/proc/self/fd/{loop}", name, part.format, _READ_ONLY)
        names.insert(0, name)
    Path("union").mkdir()
    _mount(source, "union", "overlay", _READ_ONLY, f"lowerdir={':'.join(names)}")
    return _call(
        "union", _libc.syscall, _NR_OPEN_TREE, _AT_FDCWD, b"union",
        _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC,
    )  # fmt: skip


@contextlib.contextmanager
def _loop(part: Part) -> Iterator[int]:
    """Open a loop device for *part*; it goes when nothing uses it any more."""
    try:
        control = os.open(_LOOP_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise VnfsbuildError(
            f"{_LOOP_CONTROL}: {error.strerror}", hint="modprobe loop; or outside of the container"
        ) from error
    try:
        device = _attach(control, part)
    finally:
        os.close(control)
    try:
        yield device
    finally:
        os.close(device)


def _attach(control: int, part: Part) -> int:
    """Return a new loop device for *part*, open."""
    config = _LOOP_CONFIG.pack(
        part.descriptor, 0,
        0, 0, 0, part.offset, part.size_bytes,
        0, 0, 0, _LO_READ_ONLY | _LO_AUTOCLEAR,
        b"vnfsbuild", b"", b"",
        0, 0,
    )  # fmt: skip
    for _ in range(_LOOP_ATTEMPTS):
        path = "/dev/loop-control"
        try:
            path = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
            device = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise VnfsbuildError(f"{path}: {error.strerror}") from error
        try:
            fcntl.ioctl(device, _LOOP_CONFIGURE, config)
        except OSError as error:
            os.close(device)
            if error.errno == errno.EBUSY:  # somebody else was faster
                continue
            raise VnfsbuildError(f"{path}: {error.strerror}") from error
        return device
    raise VnfsbuildError("loop devices: each free one was taken by somebody else; try again")


def _mount(
    source: str, target: str, kind: str | None, flags: int, options: str | None = None
) -> None:
    try:
        _call(
            f"{kind or 'mount'} on {target}", _libc.mount, os.fsencode(source),
            os.fsencode(target), kind.encode() if kind else None, ctypes.c_ulong(flags),
            options.encode() if options else None,
        )  # fmt: skip
    except VnfsbuildError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno == errno.ENODEV:
            raise VnfsbuildError(f"this kernel has no {kind}", hint=f"modprobe {kind}") from cause
        raise


def _call(what: str, function: ctypes._FuncPointer, *words: object) -> int:
    """Call *function* of the C library; return what it returns.

    Raises:
        VnfsbuildError: it failed; *what* says where.
    """
    result = int(function(*words))
    if result < 0:
        number = ctypes.get_errno()
        error = OSError(number, os.strerror(number))
        raise VnfsbuildError(f"{what}: {error.strerror}") from error
    return result
