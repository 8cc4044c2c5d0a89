"""Kernel and initrd of a capsule, kept by the node that runs it: the next often has the same ones.

They are of no use to the running system, so only nodes keep them on which they are next to nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Optional

from provisiond.agent.landing import write_all
from provisiond.agent.memory import Memory
from provisiond.agent.obtain import INITRD_PADDING, MODE_SECRET
from vnfsbuild import newc
from vnfsbuild.digest import READ_SIZE_BYTES

DIRECTORY = "boot"
"""Below /vnfs of the initramfs, and then below /run/vnfs."""
SHARE = 128
"""They are kept when they have less than this part of the memory."""


def keep_kernel(initrd: Path, kernel: Path, *, initrd_bytes: int, memory: Optional[Memory]) -> None:
    """Add the file *kernel*, and the first *initrd_bytes* of *initrd*, to *initrd* as files.

    The latter are the capsule's own initrd. Nothing is done where *memory* is not plenty.

    Raises:
        VnfsbuildError: there is no room.
    """
    kernel_bytes = kernel.stat().st_size
    if memory is None or SHARE * (kernel_bytes + initrd_bytes) > memory.total_bytes:
        return
    with initrd.open("r+b", buffering=0) as file, initrd.open("rb") as own:
        file.seek(0, 2)
        write_all(file, b"\0" * (-file.tell() % INITRD_PADDING), where="initrd")
        write_all(file, newc.render_directories(f"vnfs/{DIRECTORY}/"), where="initrd")
        with kernel.open("rb") as source:
            _add(file, "kernel", source, kernel_bytes)
        _add(file, "initrd", own, initrd_bytes)
        write_all(file, newc.render_trailer(), where="initrd")


def _add(file: BinaryIO, name: str, source: BinaryIO, size_bytes: int) -> None:
    header = newc.entry_header(f"vnfs/{DIRECTORY}/{name}", MODE_SECRET, size_bytes)
    write_all(file, header, where=name)
    left = size_bytes
    while left:
        data = source.read(min(left, READ_SIZE_BYTES))
        if not data:
            raise EOFError(f"{name}: ended {left} bytes too early")
        write_all(file, data, where=name)
        left -= len(data)
    write_all(file, newc.padding(size_bytes), where=name)
