import json

import libarchive
import pytest

from benchmarks.boots import INITRAMFS, Booted, figures_of, parse_memory, parse_wire
from benchmarks.initramfs import IMAGE, OWN, UNIT, render_own, render_script

MEMINFO = {"MemTotal": 2_000_000, "MemAvailable": 1_500_000, "Active(file)": 4}


def booted(name, *, used_kib=500_000, wire=(100, 10), firmware="bios"):
    return Booted(
        firmware=firmware,
        name=name,
        wire=wire,
        meminfo={
            "MemTotal": 2_000_000,
            "MemAvailable": 2_000_000 - used_kib,
            "Shmem": 50_000,
            "Unevictable": 0,
        },
        peak_kib=1024,
        seconds={"ready": 10.0},
    )


def goals(*boots):
    found = figures_of(boots, "some")
    return {item.name: item.facts["reached"] for item in found if item.group == "goals"}


def test_memory_is_read_of_the_line_that_is_whole():
    line = "bench-memory MemTotal:2000000kB MemAvailable:1500000kB Active(file):4kB ."
    broken = "bench-memory MemTotal:2000000kB Mem[  OK  ] Started cron.service.\n"
    assert parse_memory(f"login: {broken}{line}\r\nmore\n") == MEMINFO


def test_a_console_without_memory_ends_the_benchmark():
    with pytest.raises(SystemExit, match="does not say"):
        parse_memory("bench-memory MemTotal:20000")


def test_what_a_machine_gets_is_what_its_device_sends():
    stats = {"rx": {"bytes": 7, "packets": 1}, "tx": {"bytes": 99, "packets": 2}}
    assert parse_wire(json.dumps([{"ifname": "tap1", "stats64": stats}])) == (99, 7)


def test_ratios_are_to_the_initramfs_of_the_same_firmware():
    figures = figures_of(
        [
            booted("kexec", used_kib=200_000, wire=(50, 5)),
            booted(INITRAMFS),
            booted("kexec", used_kib=100_000, wire=(80, 8), firmware="uefi"),
            booted(INITRAMFS, used_kib=200_000, wire=(160, 16), firmware="uefi"),
        ],
        "some",
    )
    rows = [item.facts for item in figures if item.group != "goals" and item.name == "kexec"]
    assert [(row["bytesRatio"], row["memoryRatio"]) for row in rows] == [(0.5, 0.4), (0.5, 0.5)]
    assert len({item.group for item in figures}) == 3


@pytest.mark.parametrize(("used_kib", "reached"), [(250_000, "yes"), (250_100, "NO")])
def test_half_the_memory_is_the_goal(used_kib, reached):
    found = goals(booted("pivot", used_kib=used_kib), booted(INITRAMFS))
    assert found["bios, pivot: memory after boot, of the initramfs's"] == reached


@pytest.mark.parametrize(("sent", "reached"), [(99, "yes"), (100, "NO"), (150, "NO")])
def test_as_many_bytes_are_not_fewer(sent, reached):
    found = goals(booted("kexec", wire=(sent, 10)), booted(INITRAMFS))
    assert found["bios, kexec: bytes over the wire, of the initramfs's"] == reached


def test_the_script_names_all_that_the_kernel_unpacks():
    script = render_script(["console=ttyS0,115200"])
    (kernel,) = [line for line in script.splitlines() if line.startswith("kernel ")]
    assert kernel.endswith(f"initrd={IMAGE} initrd={OWN} rdinit=/sbin/init console=ttyS0,115200")
    fetched = [line for line in script.splitlines() if line.startswith("initrd ")]
    assert [line.split()[2] for line in fetched] == [IMAGE, OWN]


def test_the_nodes_own_files_are_an_archive_with_a_unit_that_is_wanted():
    found = {}
    with libarchive.memory_reader(render_own("echo told")) as archive:
        for entry in archive:
            data = b"".join(entry.get_blocks())
            found[entry.pathname] = entry.linkpath if entry.issym else data.decode()
    units = "etc/systemd/system"
    assert found[f"{units}/multi-user.target.wants/{UNIT}"] == f"../{UNIT}"
    assert "/etc/bench-memory" in found[f"{units}/{UNIT}"]
    assert found["etc/bench-memory"] == "echo told\n"
