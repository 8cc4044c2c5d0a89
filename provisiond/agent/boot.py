"""The jump: into the capsule's kernel by kexec, or into its root within the running kernel."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Mapping, Optional, Sequence

from vnfsbuild.digest import Digest
from vnfsbuild.errors import VnfsbuildError

COMMAND_LINE_BYTES = 2047
"""What an x86 kernel takes (COMMAND_LINE_SIZE, less the byte that ends it)."""

KEXEC_COPIES = 3
"""The file, kexec's buffer and the kernel's segments are in memory at the same time."""

KEXEC_TIMEOUT_SECONDS = 600


def kexec_load_argv(kernel: Path, initrd: Path, command_line: str) -> "list[str]":
    """Return the argv that loads a kernel, by the system call that checks its signature."""
    return [
        "kexec", "--kexec-file-syscall", "--load", str(kernel),
        f"--initrd={initrd}", f"--command-line={command_line}",
    ]  # fmt: skip


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


def refuse_too_little_memory(memory: Mapping[str, int], *, payload_bytes: int) -> None:
    """Return unless a kexec of *payload_bytes* cannot succeed with *memory* (/proc/meminfo).

    Raises:
        VnfsbuildError: it cannot.
    """
    needed = KEXEC_COPIES * payload_bytes
    available = memory.get("MemAvailable", 0) * 1024
    if available and needed > available:
        raise VnfsbuildError(
            f"memory: found {available / 1e6:.0f} MB available, expected {needed / 1e6:.0f} MB: "
            f"{KEXEC_COPIES} times the {payload_bytes / 1e6:.0f} MB of kernel, initrd and layers",
            hint="the method pivot needs only one copy",
        )


def load_kernel(kernel: Path, initrd: Path, command_line: str) -> None:
    """Load what :func:`start_kernel` starts; both files are gone afterwards.

    Raises:
        VnfsbuildError: the running kernel refuses it, or memory does not suffice.
    """
    try:
        done = subprocess.run(
            kexec_load_argv(kernel, initrd, command_line),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=KEXEC_TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise VnfsbuildError(f"kexec: cannot be run: {error}") from error
    finally:
        kernel.unlink()
        initrd.unlink()
    if done.returncode == 0:
        return
    if done.returncode == -signal.SIGKILL:
        raise VnfsbuildError("kexec: killed while loading: not enough memory")
    said = " ".join(done.stdout.decode("utf-8", "replace").split())
    raise VnfsbuildError(f"kexec: the kernel was not loaded ({done.returncode}): {said:.400}")


def start_kernel() -> None:
    """Jump into the loaded kernel.

    Raises:
        VnfsbuildError: we are still here.
    """
    done = subprocess.run(
        ["kexec", "--exec"], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    said = " ".join(done.stderr.decode("utf-8", "replace").split())
    raise VnfsbuildError(f"kexec: the loaded kernel did not start ({done.returncode}): {said:.400}")


def stop_network(pid_directory: Path) -> None:
    """End the DHCP clients, whose process ids stand in udhcpc.*.pid; leases are kept."""
    for path in pid_directory.glob("udhcpc.*.pid"):
        try:
            os.kill(int(path.read_text()), signal.SIGTERM)
        except (OSError, ValueError):
            continue


def refuse_other_kernel(capsule: Digest, running: Optional[str]) -> None:
    """Return when the capsule's kernel is the *running* one, by the digest of its file.

    Raises:
        VnfsbuildError: it is another: its modules would not load.
    """
    if capsule != running:
        raise VnfsbuildError(
            f"method pivot: the bootstrap runs the kernel {running or 'unknown'}, "
            f"the capsule has {capsule}",
            hint="use the method kexec, or a bootstrap with this kernel",
        )
