"""The jump: into the capsule's kernel by kexec, or out of this system and back to the firmware.

By the system calls themselves: no program of the system that runs is needed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import signal
import time
from pathlib import Path
from typing import Callable, Mapping, Optional, Sequence

from vnfsbuild.errors import VnfsbuildError

COMMAND_LINE_BYTES = 2047
"""What an x86 kernel takes (COMMAND_LINE_SIZE, less the byte that ends it)."""

KEXEC_FILE_LOAD: Mapping[str, int] = {"x86_64": 320, "aarch64": 294}
"""Machine → number of the system call."""

LoadKernel = Callable[[Path, Path, str], int]
"""Returns 0, or the number of the error."""

KEXEC_FILE_UNLOAD = 1
REBOOT_KEXEC = 0x45584543
REBOOT_RESTART = 0x01234567
"""LINUX_REBOOT_CMD_KEXEC and _RESTART."""

NO_ROOM = (errno.ENOMEM,)
REJECTED = (errno.EKEYREJECTED, errno.ENOKEY, errno.ENODATA, errno.EPERM)
"""How a kernel that is locked down says no."""


def make_command_line(capsule: Sequence[str], plan: Sequence[str]) -> str:
    """Return the kernel's command line: the capsule's arguments, then the plan's.

    Raises:
        VnfsbuildError: it is longer than a kernel takes; the end would be cut off unseen.
    """
    line = " ".join([*capsule, *plan])
    if len(line.encode()) > COMMAND_LINE_BYTES or "\n" in line:
        raise VnfsbuildError(
            f"kernel arguments: found {len(line.encode())} bytes, "
            f"expected one line of at most {COMMAND_LINE_BYTES}"
        )
    return line


def load_kernel(
    kernel: Path, initrd: Path, command_line: str, *, load: Optional[LoadKernel] = None
) -> None:
    """Load what :func:`start_kernel` starts, by the system call that checks its signature.

    Both files are gone afterwards, whatever came of it. *load* stands in for the system call.

    Raises:
        VnfsbuildError: the running kernel refuses it, or memory does not suffice.
    """
    try:
        status = _in_child(lambda: (load or _kexec_file_load)(kernel, initrd, command_line))
    finally:
        kernel.unlink()
        initrd.unlink()
    if status == 0:
        return
    if status == -signal.SIGKILL:
        raise VnfsbuildError("kexec: killed while loading: not enough memory")
    if status < 0:
        raise VnfsbuildError(f"kexec: ended by signal {-status} while loading")
    said = os.strerror(status)
    if status in NO_ROOM:
        raise VnfsbuildError(f"kexec: the kernel was not loaded: not enough memory ({said})")
    if status in REJECTED:
        raise VnfsbuildError(
            f"kexec: the running kernel refuses this one: {said}",
            hint="under Secure Boot: is it signed by a key that the firmware or shim knows?",
        )
    raise VnfsbuildError(f"kexec: the kernel was not loaded: {said} ({status})")


def unload_kernel() -> None:
    """Let go of the kernel that :func:`load_kernel` loaded, and of its memory.

    Raises:
        VnfsbuildError: it stays loaded, and a reboot of systemd's would start it.
    """
    number = KEXEC_FILE_LOAD.get(platform.machine())
    if number is None:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    none, empty = ctypes.c_int(-1), ctypes.c_ulong(0)
    flags = ctypes.c_ulong(KEXEC_FILE_UNLOAD)
    if libc.syscall(ctypes.c_long(number), none, none, empty, None, flags) != 0:
        raise VnfsbuildError(f"kexec: not unloaded: {os.strerror(ctypes.get_errno())}")


def start_kernel() -> None:
    """Jump into the loaded kernel.

    Raises:
        VnfsbuildError: we are still here.
    """
    os.sync()
    _reboot(REBOOT_KEXEC)
    raise VnfsbuildError("kexec: the loaded kernel did not start")


def reboot() -> None:
    """Start the machine anew, from its firmware.

    Raises:
        VnfsbuildError: we are still here.
    """
    os.sync()
    # A moment for the serial line to say why.
    time.sleep(2)
    _reboot(REBOOT_RESTART)
    raise VnfsbuildError("reboot: the machine did not start anew")


def stop_network(pid_directory: Path) -> None:
    """End the DHCP clients, whose process ids stand in udhcpc.*.pid; leases are kept."""
    for path in pid_directory.glob("udhcpc.*.pid"):
        try:
            os.kill(int(path.read_text()), signal.SIGTERM)
        except (OSError, ValueError):
            continue


def _kexec_file_load(kernel: Path, initrd: Path, command_line: str) -> int:
    number = KEXEC_FILE_LOAD.get(platform.machine())
    if number is None:
        return errno.ENOSYS
    libc = ctypes.CDLL(None, use_errno=True)
    line = command_line.encode() + b"\0"
    with kernel.open("rb") as first, initrd.open("rb") as second:
        done = libc.syscall(
            ctypes.c_long(number),
            ctypes.c_int(first.fileno()),
            ctypes.c_int(second.fileno()),
            ctypes.c_ulong(len(line)),
            ctypes.c_char_p(line),
            ctypes.c_ulong(0),
        )
    return 0 if done == 0 else ctypes.get_errno()


def _in_child(work: Callable[[], int]) -> int:
    """Return what *work* returns in a process of its own; below 0: the signal that ended it.

    Who loads a kernel is what the kernel kills when memory runs out: we are to tell of it.
    """
    pid = os.fork()
    if pid == 0:
        status = 255
        try:
            Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
            status = work()
        except OSError as error:
            status = error.errno or 255
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _reboot(command: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.reboot(ctypes.c_int(command)) != 0:
        raise VnfsbuildError(f"reboot: {os.strerror(ctypes.get_errno())}")
