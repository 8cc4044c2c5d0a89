from pathlib import Path

import pytest

from provisiond.lab.machine import Machine, make_machines, qemu_args
from vnfsbuild.errors import InputError

TREE = Path("/tree")


def test_a_bios_machine_boots_from_the_rom_of_its_card():
    args = qemu_args(Machine(number=1), tree=TREE, console=Path("/lab/1.console"))
    assert args == [
        "-L", "/tree/usr/share/qemu",
        "-L", "/tree/usr/share/seabios",
        "-nodefaults", "-no-user-config",
        "-name", "machine1",
        "-uuid", Machine(number=1).uuid,
        "-machine", "q35,accel=tcg,graphics=off",
        "-cpu", "Nehalem",
        "-smp", "2",
        "-m", "1024",
        "-display", "none",
        "-monitor", "none",
        "-serial", "file:/lab/1.console",
        "-netdev", "tap,id=net0,ifname=tap1,script=no,downscript=no",
        "-device", "virtio-rng-pci",
        "-device", "virtio-net-pci,netdev=net0,mac=52:54:00:87:00:01",
    ]  # fmt: skip


def test_a_uefi_machine_has_flash_of_its_own_and_no_rom():
    machine = Machine(number=2, firmware="uefi", memory_mib=2048, cpus=4)
    args = qemu_args(machine, tree=TREE, console=Path("/c"), variables=Path("/lab/2.fd"))
    assert args[-8:] == [
        "-device", "virtio-net-pci,netdev=net0,mac=52:54:00:87:00:02,romfile=",
        "-drive",
        "if=pflash,format=raw,unit=0,readonly=on,file=/tree/usr/share/OVMF/OVMF_CODE_4M.fd",
        "-drive", "if=pflash,format=raw,unit=1,file=/lab/2.fd",
        "-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n",
    ]  # fmt: skip
    assert args[args.index("-m") + 1] == "2048"
    assert args[args.index("-smp") + 1] == "4"


def test_with_kvm_the_processor_is_the_hosts():
    args = qemu_args(Machine(number=1), tree=TREE, console=Path("/c"), accelerator="kvm")
    assert args[args.index("-cpu") + 1] == "host"
    assert args[args.index("-machine") + 1] == "q35,accel=kvm,graphics=off"


def test_machines_are_the_same_ones_in_every_laboratory_and_all_different():
    machines = make_machines(200)
    assert machines == make_machines(200)
    assert len({machine.hwaddr for machine in machines}) == 200
    assert len({machine.uuid for machine in machines}) == 200
    assert all(len(machine.tap) < 16 for machine in machines)


def test_firmwares_are_taken_in_turn():
    machines = make_machines(3, firmwares=("bios", "uefi"))
    assert [machine.firmware for machine in machines] == ["bios", "uefi", "bios"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"count": 0}, "nodes: found 0, expected 1 to 200"),
        ({"count": 201}, "nodes: found 201, expected 1 to 200"),
        ({"count": 1, "memory_mib": 64}, "memory: found 64 MiB, expected at least 256"),
        ({"count": 1, "cpus": 0}, "cpus: found 0, expected at least 1"),
    ],
)
def test_impossible_machines_are_refused(words, told):
    with pytest.raises(InputError, match=told):
        make_machines(**words)
