"""Virtual machines: what they are made of, and the QEMU command line of each. Pure.

The boards are the plainest that Debian's kernels know: q35, virtio, a serial console, no display.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vnfsbuild.errors import InputError

FIRMWARES = ("bios", "uefi", "uefi-http")
"""BIOS by PXE, UEFI by PXE, and UEFI by HTTP Boot, without TFTP."""
CARDS = {
    "e1000": "e1000",
    "e1000e": "e1000e",
    "igb": "igb",
    "rtl8139": "rtl8139",
    "virtio": "virtio-net-pci",
    "vmxnet3": "vmxnet3",
}
"""Network cards → what QEMU calls them. The bootstrap drives all but rtl8139 by itself."""
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
    cards: tuple[str, ...] = ("virtio",)
    """Its network cards, by slot."""
    wired: int = 0
    """The one of *cards* that has a cable, and that it boots from."""
    disk: Path | None = None
    """A file that is its disk, raw; looked at when the network does not boot it."""
    clock: str = ""
    """What its hardware clock says at first, as 1970-01-02T00:00:00; empty: the right time."""

    @property
    def hwaddr(self) -> str:
        """The hardware address of the wired card; 52:54:00 is what QEMU's machines have."""
        return self.card_hwaddr(self.wired)

    def card_hwaddr(self, position: int) -> str:
        """Return the hardware address of a card."""
        card = 0 if position == self.wired else position + 1
        return f"52:54:{card:02x}:87:{self.number >> 8:02x}:{self.number & 255:02x}"

    @property
    def is_uefi(self) -> bool:
        """Whether it has UEFI, with variables of its own."""
        return self.firmware.startswith("uefi")

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
    count: int,
    *,
    firmwares: Sequence[str] = ("bios",),
    memory_mib: int = 1024,
    cpus: int = 2,
    cards: Sequence[str] = ("virtio",),
    wired: int = 1,
) -> tuple[Machine, ...]:
    """Return *count* machines; *firmwares* are taken in turn; *wired* counts *cards* from 1.

    Raises:
        InputError: more than there are addresses, too little memory for any kernel, or no such
            card.
    """
    if not 1 <= count <= MAX_MACHINES:
        raise InputError(f"nodes: found {count}, expected 1 to {MAX_MACHINES}")
    if memory_mib < LEAST_MEMORY_MIB:
        raise InputError(f"memory: found {memory_mib} MiB, expected at least {LEAST_MEMORY_MIB}")
    if cpus < 1:
        raise InputError(f"cpus: found {cpus}, expected at least 1")
    if not 1 <= wired <= len(cards):
        raise InputError(f"wired: found {wired}, expected 1 to {len(cards)}, as there are cards")
    return tuple(
        Machine(
            number=number,
            firmware=firmwares[(number - 1) % len(firmwares)],
            memory_mib=memory_mib,
            cpus=cpus,
            cards=tuple(cards),
            wired=wired - 1,
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
    control: Path,
    variables: Path | None = None,
    accelerator: str = "tcg",
) -> list[str]:
    """Return the arguments of QEMU for *machine*, its serial console written to *console*.

    *tree* is the tools tree "lab"; *variables* the machine's own copy of the UEFI variables;
    *control* the socket by which QEMU is told things. It stands still until it is told to start.
    """
    # Emulation knows 5-level paging and more that kernels then trip over: an old model is safe.
    cpu = "Nehalem" if accelerator == "tcg" else "host"
    return [
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
        "-S", "-qmp", f"unix:{control},server=on,wait=off",
        "-serial", f"file:{console}",
        "-netdev", f"tap,id=net0,ifname={machine.tap},script=no,downscript=no",
        # Without a source of entropy OVMF offers no network boot, and says nothing.
        "-device", "virtio-rng-pci",
        *_firmware_args(machine, tree, variables),
        *_card_args(machine),
        *_disk_args(machine),
        *(("-rtc", f"base={machine.clock}") if machine.clock else ()),
    ]  # fmt: skip


def unwired(machine: Machine) -> tuple[str, ...]:
    """Return what QEMU calls the cards of *machine* that have no cable."""
    return tuple(f"card{n}" for n in range(len(machine.cards)) if n != machine.wired)


def wired_link(machine: Machine) -> str:
    """Return what QEMU calls the card of *machine* that has a cable."""
    return f"card{machine.wired}"


def _firmware_args(machine: Machine, tree: Path, variables: Path | None) -> list[str]:
    if not machine.is_uefi:
        return []
    if variables is None:
        raise InputError(f"{machine.label}: UEFI without a place for its variables")
    code = tree / "usr/share/OVMF/OVMF_CODE_4M.fd"
    # IPv6 is tried for a minute when IPv4 fails once.
    refused = ["IPv6PXESupport"]
    if machine.firmware == "uefi-http":
        # HTTP comes after PXE.
        refused.insert(0, "IPv4PXESupport")
    return [
        "-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={code}",
        "-drive", f"if=pflash,format=raw,unit=1,file={variables}",
        *(word for name in refused
          for word in ("-fw_cfg", f"name=opt/org.tianocore/{name},string=n")),
    ]  # fmt: skip


def _card_args(machine: Machine) -> list[str]:
    words = []
    for position, card in enumerate(machine.cards):
        device = f"{CARDS[card]},id=card{position},mac={machine.card_hwaddr(position)}"
        if position == machine.wired:
            device += ",netdev=net0,bootindex=1"
        # With UEFI the firmware's own driver boots from a virtio card, when no ROM is in the way;
        # of other cards it knows none. With BIOS: QEMU writes the card's ids into its default ROM
        # only, and on q35 SeaBIOS does not run one whose ids are another's.
        if position != machine.wired or (machine.is_uefi and card == "virtio"):
            device += ",romfile="
        words += ["-device", device]
    return words


def _disk_args(machine: Machine) -> list[str]:
    if machine.disk is None:
        return []
    return [
        "-drive", f"if=none,id=disk0,format=raw,file={machine.disk}",
        "-device", "virtio-blk-pci,drive=disk0,bootindex=2",
    ]  # fmt: skip
