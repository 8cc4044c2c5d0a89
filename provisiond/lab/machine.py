"""Virtual machines: what they are made of, and the QEMU command line of each. Pure.

The boards are the plainest that Debian's kernels know: q35, virtio, a serial console, no display.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vnfsbuild.errors import InputError

FIRMWARES = ("bios", "uefi")
ACCELERATORS = ("tcg", "kvm")
MAX_MACHINES = 200
"""As many addresses as the laboratory's network hands out."""

LEAST_MEMORY_MIB = 256

_NAMESPACE = uuid.UUID("6b1f1a5e-3c1c-4f0e-9d0e-0f6b8f5f7a10")


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """A virtual machine that can be powered on."""

    number: int
    """From 1; makes its addresses, so that a machine is the same one in every laboratory."""
    firmware: str = "bios"
    memory_mib: int = 1024
    cpus: int = 2

    @property
    def hwaddr(self) -> str:
        """Its hardware address; 52:54:00 is what QEMU's machines have."""
        return f"52:54:00:87:{self.number >> 8:02x}:{self.number & 255:02x}"

    @property
    def uuid(self) -> str:
        """Its SMBIOS UUID."""
        return str(uuid.uuid5(_NAMESPACE, self.hwaddr))

    @property
    def label(self) -> str:
        """What it is called here; the node server names nodes in the order they appear."""
        return f"machine{self.number}"

    @property
    def tap(self) -> str:
        """Its network device on this side."""
        return f"tap{self.number}"


def make_machines(
    count: int, *, firmwares: Sequence[str] = ("bios",), memory_mib: int = 1024, cpus: int = 2
) -> tuple[Machine, ...]:
    """Return *count* machines; *firmwares* are taken in turn.

    Raises:
        InputError: more than there are addresses, or too little memory for any kernel.
    """
    if not 1 <= count <= MAX_MACHINES:
        raise InputError(f"nodes: found {count}, expected 1 to {MAX_MACHINES}")
    if memory_mib < LEAST_MEMORY_MIB:
        raise InputError(f"memory: found {memory_mib} MiB, expected at least {LEAST_MEMORY_MIB}")
    if cpus < 1:
        raise InputError(f"cpus: found {cpus}, expected at least 1")
    return tuple(
        Machine(
            number=number,
            firmware=firmwares[(number - 1) % len(firmwares)],
            memory_mib=memory_mib,
            cpus=cpus,
        )
        for number in range(1, count + 1)
    )


def firmware_variables(tree: Path) -> Path:
    """Return the pristine UEFI variables in the tools tree; each machine gets a copy."""
    return tree / "usr/share/OVMF/OVMF_VARS_4M.fd"


def qemu_args(
    machine: Machine,
    *,
    tree: Path,
    console: Path,
    variables: Path | None = None,
    accelerator: str = "tcg",
) -> list[str]:
    """Return the arguments of QEMU for *machine*, its serial console written to *console*.

    *tree* is the tools tree "lab"; *variables* the machine's own copy of the UEFI variables.
    """
    # Emulation knows 5-level paging and more that kernels then trip over: an old model is safe.
    cpu = "Nehalem" if accelerator == "tcg" else "host"
    network = f"virtio-net-pci,netdev=net0,mac={machine.hwaddr}"
    args = [
        "-L", str(tree / "usr/share/qemu"),
        "-L", str(tree / "usr/share/seabios"),
        "-nodefaults", "-no-user-config",
        "-name", machine.label,
        "-uuid", machine.uuid,
        # graphics=off: SeaBIOS and iPXE then write to the serial port.
        "-machine", f"q35,accel={accelerator},graphics=off",
        "-cpu", cpu,
        "-smp", str(machine.cpus),
        "-m", str(machine.memory_mib),
        "-display", "none",
        "-monitor", "none",
        "-serial", f"file:{console}",
        "-netdev", f"tap,id=net0,ifname={machine.tap},script=no,downscript=no",
        # Without a source of entropy OVMF offers no network boot, and says nothing.
        "-device", "virtio-rng-pci",
    ]  # fmt: skip
    if machine.firmware == "uefi":
        if variables is None:
            raise InputError(f"{machine.label}: UEFI without a place for its variables")
        code = tree / "usr/share/OVMF/OVMF_CODE_4M.fd"
        return [
            *args,
            # Without iPXE in the card's ROM the firmware's own driver boots from the network.
            "-device", f"{network},romfile=",
            "-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={code}",
            "-drive", f"if=pflash,format=raw,unit=1,file={variables}",
            # IPv6 is tried for a minute when IPv4 fails once.
            "-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n",
        ]  # fmt: skip
    # No romfile here: QEMU writes the card's ids into its default ROM only, and on q35 SeaBIOS
    # does not run one whose ids are another's.
    return [*args, "-device", network]
