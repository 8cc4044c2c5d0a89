"""Stand-ins for what an ordinary user's namespace cannot make: device nodes, and unknown owners.

A package or a script that makes one would fail, though the packer could store it. So those calls
come to us (seccomp's user notification), we make something in its place and remember what it stands
for, and :func:`resolve_stand_ins` puts it into the tree list. Nothing else is slowed down: the
kernel looks at the arguments. Linux 5.8 or later; where it will not do, such calls fail as ever.

A device is stood in for by a character device 0:0, which everybody may make; an owner by one of the
ids that nobody uses. Inside the build they look like that.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import logging
import os
import platform
import queue
import stat
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vnfsbuild.errors import VnfsbuildError
from vnfsbuild.idmap import SURE_IDS
from vnfsbuild.layer import Entry

logger = logging.getLogger(__name__)

FIRST_SLOT, LAST_SLOT = 60_578, 61_183
"""Ids that neither Debian nor systemd gives a meaning to."""
KEEP = 0xFFFFFFFF
"""An id that means: leave it as it is."""

_MACHINE, _ARCHITECTURE = "x86_64", 0xC000003E
_MKNOD, _MKNODAT, _CHOWN, _FCHOWN, _LCHOWN, _FCHOWNAT = 133, 259, 92, 93, 94, 260
_SECCOMP = 317
_SET_FILTER, _NEW_LISTENER = 1, 8
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_CONTINUE = 1
_NO_FOLLOW, _EMPTY_PATH, _HERE = 0x100, 0x1000, -100
_MAX_PATH_BYTES = 4096

_LOAD, _AND, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
Instruction = tuple[int, int, int, int]
"""Of the kernel's packet filter: code, how far to jump when true and when false, operand."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StandIns:
    """What stands for what, in this process and all that it started."""

    devices: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    """(file system, inode) → (type, device)"""
    users: dict[int, int] = field(default_factory=dict)
    """id that nobody uses → id that is meant"""
    groups: dict[int, int] = field(default_factory=dict)


# One for the process, as the kernel's filter is.
_FOUND = StandIns()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """A path as another process sees it."""

    pid: int
    directory: int
    path: bytes
    follow: bool


def install() -> None:
    """Have stand-ins made for this thread and all that it starts from now on."""
    if platform.machine() != _MACHINE:
        return
    # A thread that is there before has no filter, nor have the children by which it makes things.
    listeners: queue.SimpleQueue[int] = queue.SimpleQueue()
    threading.Thread(target=_serve, args=(listeners,), daemon=True).start()
    program = make_filter()
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *item) for item in program))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    listener = libc.syscall(_SECCOMP, _SET_FILTER, _NEW_LISTENER, header)
    if listener < 0:
        logger.debug("no stand-ins: %s", os.strerror(ctypes.get_errno()))
    else:
        os.set_inheritable(listener, False)
    listeners.put(listener)


def resolve_stand_ins(entries: Sequence[Entry], root: Path) -> list[Entry]:
    """Return the tree list *entries* of *root* with what is meant in place of what stands for it.

    Raises:
        VnfsbuildError: a device was copied, and nobody knows of which number.
    """
    file_system = root.stat().st_dev
    return [_resolve(entry, file_system, _FOUND) for entry in entries]


def make_filter() -> list[Instruction]:
    """Return the filter that brings us the calls that need a stand-in, and no others."""
    blocks = {
        _MKNOD: _device_block(1),
        _MKNODAT: _device_block(2),
        _CHOWN: _owner_block(1),
        _LCHOWN: _owner_block(1),
        _FCHOWN: _owner_block(1),
        _FCHOWNAT: _owner_block(2),
    }
    program: list[Instruction] = [
        (_LOAD, 0, 0, 4),
        (_EQUAL, 1, 0, _ARCHITECTURE),
        (_RETURN, 0, 0, _ALLOW),
        (_LOAD, 0, 0, 0),
    ]
    for number, block in blocks.items():
        program += [(_EQUAL, 0, len(block), number), *block]
    return [*program, (_RETURN, 0, 0, _ALLOW)]


def _device_block(mode: int) -> list[Instruction]:
    return [
        _load_argument(mode),
        (_AND, 0, 0, stat.S_IFMT(0xFFFF)),
        (_EQUAL, 2, 0, stat.S_IFCHR),
        (_EQUAL, 1, 0, stat.S_IFBLK),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _NOTIFY),
    ]


def _owner_block(user: int) -> list[Instruction]:
    return [
        _load_argument(user),
        (_EQUAL, 1, 0, KEEP),
        (_AT_LEAST, 4, 0, SURE_IDS),
        _load_argument(user + 1),
        (_EQUAL, 1, 0, KEEP),
        (_AT_LEAST, 1, 0, SURE_IDS),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _NOTIFY),
    ]


def _load_argument(number: int) -> Instruction:
    return (_LOAD, 0, 0, 16 + 8 * number)


def _resolve(entry: Entry, file_system: int, found: StandIns) -> Entry:
    if entry.uid in found.users or entry.gid in found.groups:
        uid = found.users.get(entry.uid, entry.uid)
        entry = replace(entry, uid=uid, gid=found.groups.get(entry.gid, entry.gid))
    if not stat.S_ISCHR(entry.mode) or entry.device:
        return entry
    kind, device = found.devices.get((file_system, entry.inode), (0, 0))
    if not device:
        raise VnfsbuildError(
            f"{entry.path}: found a device node without a number: a script or package copied one",
            hint="make it with mknod, or build as root",
        )
    return replace(entry, mode=stat.S_IMODE(entry.mode) | kind, device=device)


def _serve(listeners: queue.SimpleQueue[int]) -> None:
    listener = listeners.get()
    while listener >= 0:
        request = bytearray(80)
        try:
            fcntl.ioctl(listener, _RECEIVE, request)
        except OSError as error:
            # Whoever asked was killed meanwhile.
            if error.errno in (errno.ENOENT, errno.EINTR):
                continue
            return
        number, pid, _, call = struct.unpack_from("=QIIi", request)
        arguments = struct.unpack_from("=6Q", request, 32)
        try:
            status, flags = (0, 0) if _answer(pid, call, arguments) else (0, _CONTINUE)
        except OSError as error:
            status, flags = -(error.errno or errno.EPERM), 0
        with contextlib.suppress(OSError):
            fcntl.ioctl(listener, _SEND, struct.pack("=QqiI", number, 0, status, flags))


def _answer(pid: int, call: int, arguments: Sequence[int]) -> bool:
    """Do in another way what *pid* asks the kernel for; False: the kernel shall do it itself."""
    if call in (_MKNOD, _MKNODAT):
        at = call == _MKNODAT
        place = _find_place(pid, arguments if at else (_HERE, *arguments), follow=False)
        mode, device = arguments[1 + at] & 0xFFFF, arguments[2 + at] & KEEP
        node = _make_device(place, mode)
        _FOUND.devices[node] = (stat.S_IFMT(mode), device)
        return True
    at = call == _FCHOWNAT
    user, group = (number & KEEP for number in arguments[1 + at : 3 + at])
    if _is_mapped("uid", user) and _is_mapped("gid", group):
        return False
    flags = arguments[4] if at else 0
    if call == _FCHOWN:
        place = _Place(pid=pid, directory=_signed(arguments[0]), path=b"", follow=True)
    else:
        words = arguments if at else (_HERE, *arguments)
        follow = call != _LCHOWN and not flags & _NO_FOLLOW
        place = _find_place(pid, words, follow=follow)
    _give(place, _stand_in("uid", user, _FOUND.users), _stand_in("gid", group, _FOUND.groups))
    return True


def _find_place(pid: int, arguments: Sequence[int], *, follow: bool) -> _Place:
    path = _read_path(pid, arguments[1])
    return _Place(pid=pid, directory=_signed(arguments[0]), path=path, follow=follow)


def _read_path(pid: int, address: int) -> bytes:
    """Return the path at *address* in the memory of *pid*."""
    data = b""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        memory.seek(address)
        # What follows the path may not be there: read no further than to the end of each page.
        while b"\0" not in data and len(data) < _MAX_PATH_BYTES:
            piece = memory.read(4096 - (address + len(data)) % 4096)
            if not piece:
                break
            data += piece
    path, end, _ = data.partition(b"\0")
    if not end:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    return path


def _make_device(place: _Place, mode: int) -> tuple[int, int]:
    """Make the stand-in of a device at *place*; return its file system and inode."""
    mask = _umask_of(place.pid)

    def make() -> bytes:
        os.umask(mask)
        os.mknod(place.path, stat.S_IFCHR | stat.S_IMODE(mode), 0)
        found = os.lstat(place.path)
        return struct.pack("=QQ", found.st_dev, found.st_ino)

    file_system, inode = struct.unpack("=QQ", _do_at(place, make))
    return file_system, inode


def _give(place: _Place, user: int, group: int) -> None:
    uid, gid = (-1 if number == KEEP else number for number in (user, group))
    if not place.path:
        os.chown(f"/proc/{place.pid}/fd/{place.directory}", uid, gid)
        return

    def give() -> bytes:
        os.chown(place.path, uid, gid, follow_symlinks=place.follow)
        return b""

    _do_at(place, give)


def _do_at(place: _Place, action: Callable[[], bytes]) -> bytes:
    """Return what *action* returns in a child that sees paths as the process of *place* does.

    Raises:
        OSError: what *action* raised.
    """
    where = "cwd" if place.directory == _HERE else f"fd/{place.directory}"
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            here = os.open(f"/proc/{place.pid}/{where}", os.O_PATH)
            os.chroot(f"/proc/{place.pid}/root")
            os.fchdir(here)
            os.write(write, action())
            os._exit(0)
        except OSError as error:
            os._exit(error.errno or errno.EPERM)
        finally:
            os._exit(errno.EIO)
    os.close(write)
    with os.fdopen(read, "rb") as answer:
        data = answer.read()
    _, status = os.waitpid(child, 0)
    number = os.waitstatus_to_exitcode(status)
    if number:
        raise OSError(number, os.strerror(number))
    return data


def _umask_of(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o022


def _is_mapped(kind: str, number: int) -> bool:
    return number == KEEP or any(
        first <= number < first + count for first, count in _load_map(kind)
    )


def _load_map(kind: str) -> Iterator[tuple[int, int]]:
    for line in Path(f"/proc/self/{kind}_map").read_text(encoding="ascii").splitlines():
        first, _, count = line.split()
        yield int(first), int(count)


def _stand_in(kind: str, number: int, known: dict[int, int]) -> int:
    """Return the id that stands for *number*, or itself where the namespace has it."""
    if _is_mapped(kind, number):
        return number
    for slot, meant in known.items():
        if meant == number:
            return slot
    slot = FIRST_SLOT + len(known)
    if slot > LAST_SLOT:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    known[slot] = number
    return slot


def _signed(number: int) -> int:
    """Return the C int in an argument of a call."""
    return struct.unpack("=i", struct.pack("=I", number & KEEP))[0]  # type: ignore[no-any-return]
