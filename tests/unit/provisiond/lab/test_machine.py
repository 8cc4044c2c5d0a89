from pathlib import Path

import pytest

from provisiond.lab.machine import Machine, make_machines, qemu_args, unwired, wired_link
from vnfsbuild.errors import InputError

TREE = Path("/tree")


def args_of(machine, **words):
    return qemu_args(
        machine, tree=TREE, console=Path("/lab/1.console"), control=Path("/lab/1.qmp"), **words
    )


def devices(machine, **words):
    args = args_of(machine, **words)
    return [args[n + 1] for n, word in enumerate(args) if word == "-device"]


def refusals(machine):
    args = args_of(machine, variables=Path("/v"))
    return [args[n + 1] for n, word in enumerate(args) if word == "-fw_cfg"]


def test_a_bios_machine_boots_from_the_rom_of_its_card():
    assert args_of(Machine(number=1)) == [
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
        "-S", "-qmp", "unix:/lab/1.qmp,server=on,wait=off",
        "-serial", "file:/lab/1.console",
        "-netdev", "tap,id=net0,ifname=tap1,script=no,downscript=no",
        "-device", "virtio-rng-pci",
        "-device", "virtio-net-pci,id=card0,mac=52:54:00:87:00:01,netdev=net0,bootindex=1",
    ]  # fmt: skip


def test_a_uefi_machine_has_flash_of_its_own_and_no_rom():
    machine = Machine(number=2, firmware="uefi", memory_mib=2048, cpus=4)
    args = args_of(machine, variables=Path("/lab/2.fd"))
    assert args[-8:] == [
        "-drive",
        "if=pflash,format=raw,unit=0,readonly=on,file=/tree/usr/share/OVMF/OVMF_CODE_4M.fd",
        "-drive", "if=pflash,format=raw,unit=1,file=/lab/2.fd",
        "-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n",
        "-device",
        "virtio-net-pci,id=card0,mac=52:54:00:87:00:02,netdev=net0,bootindex=1,romfile=",
    ]  # fmt: skip
    assert args[args.index("-m") + 1] == "2048"
    assert args[args.index("-smp") + 1] == "4"


def test_uefi_that_shall_boot_by_http_is_not_let_try_pxe():
    assert refusals(Machine(number=1, firmware="uefi-http")) == [
        "name=opt/org.tianocore/IPv4PXESupport,string=n",
        "name=opt/org.tianocore/IPv6PXESupport,string=n",
    ]


def test_uefi_without_variables_is_refused():
    with pytest.raises(InputError, match="without a place for its variables"):
        args_of(Machine(number=1, firmware="uefi-http"))


def test_uefi_knows_other_cards_than_virtio_by_their_rom_alone():
    machine = Machine(number=1, firmware="uefi", cards=("e1000e",))
    assert devices(machine, variables=Path("/v"))[-1] == (
        "e1000e,id=card0,mac=52:54:00:87:00:01,netdev=net0,bootindex=1"
    )


def test_of_several_cards_one_has_a_cable_and_firmware_boots_from_it():
    machine = Machine(number=3, cards=("e1000e", "virtio", "rtl8139"), wired=1)
    assert devices(machine)[1:] == [
        "e1000e,id=card0,mac=52:54:01:87:00:03,romfile=",
        "virtio-net-pci,id=card1,mac=52:54:00:87:00:03,netdev=net0,bootindex=1",
        "rtl8139,id=card2,mac=52:54:03:87:00:03,romfile=",
    ]
    assert unwired(machine) == ("card0", "card2")
    assert wired_link(machine) == "card1"
    assert machine.hwaddr == "52:54:00:87:00:03"


def test_a_disk_comes_after_the_network():
    machine = Machine(number=1, disk=Path("/d.img"))
    assert args_of(machine)[-4:] == [
        "-drive", "if=none,id=disk0,format=raw,file=/d.img",
        "-device", "virtio-blk-pci,drive=disk0,bootindex=2",
    ]  # fmt: skip


def test_with_kvm_the_processor_is_the_hosts():
    args = args_of(Machine(number=1), accelerator="kvm")
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
        ({"count": 1, "wired": 2}, "wired: found 2, expected 1 to 1, as there are cards"),
        ({"count": 1, "wired": 0, "cards": ["igb"]}, "wired: found 0, expected 1 to 1"),
    ],
)
def test_impossible_machines_are_refused(words, told):
    with pytest.raises(InputError, match=told):
        make_machines(**words)
