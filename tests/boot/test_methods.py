"""The ways to boot that take no capsule: a node's own disk, and rescue."""

import os
import shlex
import subprocess
import time
from dataclasses import replace

import pytest

from provisiond.lab.laboratory import open_laboratory

from .test_boot import MACHINE, console, provisionctl, sight, wait_until

pytestmark = [pytest.mark.boot, pytest.mark.long]

TOLD_BY_DISK = b"THE DISK OF THIS NODE WAS STARTED"


def boot_sector():
    """Return what a BIOS starts of a disk: it writes to the first serial port, and stops."""
    program = bytes.fromhex(
        "31c0 8ed8 fc"  # xor ax,ax; mov ds,ax; cld
        "be167c baf803"  # mov si,text; mov dx,0x3f8
        "ac 08c0 7403 ee ebf8"  # next: lodsb; or al,al; jz stop; out dx,al; jmp next
        "f4 ebfd"  # stop: hlt; jmp stop
    )
    assert len(program) == 0x16
    return (program + TOLD_BY_DISK + b"\r\n\0").ljust(510, b"\0") + b"\x55\xaa"


def test_a_node_is_handed_back_to_its_own_disk_and_taken_from_it_again(built, tmp_path):
    disk = tmp_path / "disk"
    disk.write_bytes(boot_sector() + bytes(1024 * 1024))
    machine = replace(MACHINE, disk=disk)
    with open_laboratory(built.settings()) as laboratory:
        laboratory.import_file(built.bootstrap)
        laboratory.power_on(machine)
        wait_until(lambda: sight(laboratory, machine) is not None, laboratory, machine)
        wait_until(lambda: "waiting: " in console(laboratory, machine), laboratory, machine)
        # One that waits in the bootstrap starts anew, and its firmware starts the disk.
        laboratory.set("method", "local", "n00001")
        wait_until(
            lambda: TOLD_BY_DISK.decode() in console(laboratory, machine), laboratory, machine
        )
        assert "n00001: boots from its own disk" in console(laboratory, machine)
        seen = sight(laboratory, machine)
        assert seen.state == "halted"
        events = provisionctl(laboratory, "events", "--kind", "boot.local")
        assert "n00001 boots from its own disk" in events
        # From then on no bootstrap is loaded at all.
        loaded = console(laboratory, machine).count("Linux version")
        laboratory.power_off(machine)
        laboratory.power_on(machine)
        wait_until(
            lambda: TOLD_BY_DISK.decode() in console(laboratory, machine), laboratory, machine
        )
        assert loaded == 1
        assert "Linux version" not in console(laboratory, machine)
        laboratory.power_off(machine)
        provisionctl(laboratory, "node", "unset", "method", "n00001")
        laboratory.power_on(machine)
        wait_until(lambda: "waiting: " in console(laboratory, machine), laboratory, machine)


def test_uefi_goes_on_with_its_next_boot_entry(built, tmp_path):
    """iPXE ends with a status at which firmware does not stop, as it would after success."""
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1024 * 1024))
    machine = replace(MACHINE, firmware="uefi", disk=disk)
    with open_laboratory(built.settings()) as laboratory:
        node = {"hwaddr": machine.hwaddr, "attributes": {"method": "local"}}
        laboratory.client.post("/v1/nodes", node)
        laboratory.power_on(machine)
        wait_until(
            lambda: "BdsDxe: failed to start" in console(laboratory, machine), laboratory, machine
        )
        before, _, after = console(laboratory, machine).partition("BdsDxe: failed to start")
        assert "This node boots from its own disk, as its plan says." in before
        assert "PXEv4" in after.splitlines()[0]
        wait_until(
            lambda: ">>Start" in console(laboratory, machine).partition("failed to start")[2],
            laboratory, machine,
        )  # fmt: skip


def test_a_node_in_rescue_lets_the_site_in_and_goes_on_when_it_is_over(built, tmp_path):
    key = tmp_path / "key"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "rsa", "-b", "3072", "-N", "", "-f", str(key)], check=True
    )
    public = key.with_suffix(".pub").read_text().strip()
    with open_laboratory(built.settings()) as laboratory:
        laboratory.import_file(built.bootstrap)
        provisionctl(laboratory, "defaults", "set", "authorized_key.admin", public)
        laboratory.power_on(MACHINE)
        wait_until(lambda: sight(laboratory) is not None, laboratory)
        provisionctl(laboratory, "node", "approve", "n00001")
        provisionctl(laboratory, "node", "set", "debug", "true", "n00001")
        provisionctl(laboratory, "node", "set", "method", "rescue", "n00001")
        wait_until(lambda: "rescue: a shell is on its consoles" in console(laboratory), laboratory)
        assert "ssh root@10.87.1.1" in console(laboratory)
        wait_until(lambda: "Rescue: a shell of the bootstrap OS" in console(laboratory), laboratory)

        host_key = provisionctl(
            laboratory,
            "overlay",
            "show",
            "--secrets",
            "n00001",
            "/etc/ssh/ssh_host_ed25519_key.pub",
        )
        (tmp_path / "known").write_text(f"10.87.1.1 {host_key}")
        words = [
            "ssh", "-i", str(key), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
            "-o", "StrictHostKeyChecking=yes", "-o", f"UserKnownHostsFile={tmp_path / 'known'}",
            "root@10.87.1.1",
        ]  # fmt: skip

        def ssh(command, *, options=()):
            argv = [*shlex.split(laboratory.enter_words), words[0], *options, *words[1:], command]
            return subprocess.run(
                argv, env={**os.environ, "HOME": str(tmp_path)}, stdin=subprocess.DEVNULL,
                capture_output=True, text=True, timeout=120, check=False,
            )  # fmt: skip

        # Whose host key was told beforehand: it is the node's own, as in its capsule.
        done = ssh("id -u; hostname; cat /run/vnfs/log; dmesg | head -n 3")
        assert done.returncode == 0, (done.stderr, console(laboratory)[-3000:])
        assert done.stdout.splitlines()[0] == "0"
        assert "n00001: waiting: " in done.stdout
        assert "debug: plan " in done.stdout
        assert "Linux version" in done.stdout
        # What the scripts of the bootstrap do where a site has VLANs, on the kernel of nodes.
        done = ssh(
            "RUN=/run/vnfs SYS_NET=/sys/class/net VNFS_WORDS=/tmp/words; "
            "echo vnfs.vlan=100 >/tmp/words; . /usr/lib/vnfs/functions.sh; "
            ". /usr/lib/vnfs/network.sh; device_of eth0; cat /proc/net/vlan/eth0.100; "
            "ip link delete eth0.100"
        )
        assert "eth0.100  VID: 100" in done.stdout, done
        refused = ssh("true", options=("-o", "PubkeyAuthentication=no"))
        assert refused.returncode == 255
        assert "rescue" in provisionctl(laboratory, "node", "status")
        report = laboratory.nodes()[0]["report"]
        assert "debug: " in report["trace"]

        provisionctl(laboratory, "node", "unset", "method", "n00001")
        wait_until(lambda: "no VNFS capsule is assigned" in console(laboratory), laboratory)
        deadline = time.monotonic() + 60
        while ssh("true").returncode == 0:
            assert time.monotonic() < deadline, "ssh still lets in"
            time.sleep(1)
