"""What a boot takes of a node's memory at its peak, and by which method it fits. Pure.

The figures were measured on virtual nodes (docs/fetching.md): a test holds them against new ones.

* **kexec**: the files as they were fetched; the kernel's own copy while it reads them; the segments
  that the next kernel will find. For a moment all three are there.
* The **next kernel** has the combined initrd, and what it unpacks from it, and nothing else yet.
* **pivot**: the layers once, as fetched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping, Optional, Sequence

from vnfsbuild.errors import VnfsbuildError

MIB = 1024 * 1024

KEXEC_COPIES = 3
KEXEC_TABLES = 4
"""One part in so many more: the kernel's lists of the pages, and pages it cannot use."""
KEXEC_SLACK_BYTES = 24 * MIB
"""What the agent itself takes while it fetches, and the loader."""

NEXT_COPIES = 2
NEXT_KERNEL_BYTES = 96 * MIB
"""The next kernel with its tables, and the first programs of the capsule."""

PIVOT_SLACK_BYTES = 48 * MIB
"""Tables, and what the capsule's own init needs before it can use the bootstrap's memory."""

RAMFS_ARGUMENT = "rootfstype=ramfs"
"""An initramfs is otherwise a tmpfs of at most half of the memory."""

TMPFS_SHARE = 0.45
"""What of the memory an initramfs may have before it is told to be a ramfs."""


@dataclass(frozen=True)
class Memory:
    """What a node has."""

    total_bytes: int
    available_bytes: int


@dataclass(frozen=True)
class Load:
    """What is fetched for a boot."""

    kernel_bytes: int
    initrd_bytes: int
    """Of the capsule's own initrd, compressed."""
    layers_bytes: int
    other_bytes: int = 0
    """The overlay, and files of the site."""

    @property
    def kexec_bytes(self) -> int:
        """Kernel and combined initrd."""
        return self.kernel_bytes + self.combined_bytes

    @property
    def combined_bytes(self) -> int:
        """The combined initrd."""
        return self.initrd_bytes + self.layers_bytes + self.other_bytes


@dataclass(frozen=True)
class Fit:
    """How a boot fits."""

    method: str
    note: str = ""
    """Why it is another method than was wanted, for people."""


def read_figures(meminfo: Mapping[str, int]) -> Optional[Memory]:
    """Return what /proc/meminfo, in KiB by name, says; None where it says nothing."""
    total, available = meminfo.get("MemTotal", 0), meminfo.get("MemAvailable", 0)
    return Memory(total * 1024, available * 1024) if total and available else None


def kexec_peak_bytes(load: Load) -> int:
    """Return how much more memory than now a kexec takes at its peak."""
    copies = KEXEC_COPIES * load.kexec_bytes + load.kexec_bytes // KEXEC_TABLES
    return copies + KEXEC_SLACK_BYTES


def next_kernel_bytes(load: Load) -> int:
    """Return how much memory in all the kernel that is started must find."""
    return NEXT_COPIES * load.combined_bytes + NEXT_KERNEL_BYTES


def pivot_peak_bytes(load: Load) -> int:
    """Return how much more memory than now a pivot takes."""
    return load.layers_bytes + load.other_bytes + PIVOT_SLACK_BYTES


def choose_method(
    load: Load, memory: Optional[Memory], *, method: str, can_pivot: bool, name: str
) -> Fit:
    """Return by which method the capsule called *name* is booted: *method*, when it fits.

    When a kexec does not and a pivot does, and *can_pivot*: the kernel is the same, then that.

    Raises:
        VnfsbuildError: none fits; it says what this node has and what it would need.
    """
    if memory is None:
        return Fit(method)
    missing = missing_bytes(load, memory, method)
    if missing <= 0:
        return Fit(method)
    if method == "kexec" and can_pivot and missing_bytes(load, memory, "pivot") <= 0:
        return Fit("pivot", f"{_too_small(load, memory, method, name)}; by pivot it fits")
    raise VnfsbuildError(
        _too_small(load, memory, method, name),
        hint=_hint(load, memory, method, missing, can_pivot=can_pivot),
    )


def missing_bytes(load: Load, memory: Memory, method: str) -> int:
    """Return how many bytes this node lacks; not above 0 when it fits."""
    if method == "pivot":
        return pivot_peak_bytes(load) - memory.available_bytes
    return max(
        kexec_peak_bytes(load) - memory.available_bytes,
        next_kernel_bytes(load) - memory.total_bytes,
    )


def refuse_too_little(load: Load, memory: Optional[Memory], *, method: str, name: str) -> None:
    """Return unless *method* cannot succeed: for who has no choice of method.

    Raises:
        VnfsbuildError: it cannot; it says what this node has and what it would need.
    """
    choose_method(load, memory, method=method, can_pivot=False, name=name)


def add_arguments(load: Load, memory: Optional[Memory], words: Sequence[str]) -> "tuple[str, ...]":
    """Return the kernel arguments *words*, and what so large an initramfs takes besides."""
    given = any(word.startswith("rootfstype=") for word in words)
    if memory is None or given or load.combined_bytes <= TMPFS_SHARE * memory.total_bytes:
        return tuple(words)
    return (RAMFS_ARGUMENT, *words)


def _too_small(load: Load, memory: Memory, method: str, name: str) -> str:
    total, free = _mib(memory.total_bytes, up=False), _mib(memory.available_bytes, up=False)
    if method == "pivot":
        needs = f"{_mib(pivot_peak_bytes(load))} MiB free for a pivot"
    else:
        needs = f"{_mib(kexec_peak_bytes(load))} MiB free for a kexec"
        if next_kernel_bytes(load) > memory.total_bytes:
            needs += f", and {_mib(next_kernel_bytes(load))} MiB in all for the next kernel"
    return f"memory: this node has {total} MiB, {free} MiB of it free; {name} needs {needs}"


def _hint(load: Load, memory: Memory, method: str, missing: int, *, can_pivot: bool) -> str:
    more = f"{_mib(missing)} MiB more memory"
    if method == "kexec" and not can_pivot and missing_bytes(load, memory, "pivot") <= 0:
        return f"{more}; or a pivot, which fits: method auto, and a bootstrap of the same kernel"
    return f"{more}, or a smaller capsule"


def _mib(size_bytes: int, *, up: bool = True) -> int:
    return -(-size_bytes // MIB) if up else size_bytes // MIB
