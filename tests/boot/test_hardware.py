"""Firmware and cards of every kind that the laboratory has: each boots with the right drivers."""

import json
import subprocess

import pytest

from provisiond.lab.laboratory import console_tail, open_laboratory
from provisiond.lab.machine import Machine
from provisiond.lab.run import Wish, boot
from vnfsbuild import manifest as m
from vnfsbuild.initrd.modinfo import parse_modinfo
from vnfsbuild.inside.drivers import find_drivers, unpack_module
from vnfsbuild.inside.look import open_archive
from vnfsbuild.inside.opened import open_capsule_at
from vnfsbuild.lock import parse_lock
from vnfsbuild.packages import package_path
from vnfsbuild.store.store import Store

from .test_boot import NAME, TIMEOUT_SECONDS, console, sight, wait_until

pytestmark = pytest.mark.boot

MOST_BYTES = 28_000_000
"""Of kernel and initrd together."""
MOST_DRIVERS_BYTES = 30_000_000
SIGNED = b"~Module signature appended~\n"


def node(laboratory):
    (value,) = laboratory.client.get("/v1/nodes/show")
    return value


def report(laboratory):
    found = sight(laboratory)
    return found.report if found else {}


@pytest.fixture(scope="module")
def opened(built):
    with open_capsule_at(str(built.bootstrap), Store(built.places.store)) as found:
        yield found


@pytest.fixture(scope="module")
def package(built, opened, tmp_path_factory):
    """The kernel's package, unpacked."""
    source = open_archive(opened, "source")
    text = b"".join(source.read_file(source.find_file("recipe.lock"))).decode()
    lock = parse_lock(text, where="lock")
    version = opened.head.capsule.config.kernel.version
    (item,) = [one for one in lock.packages if one.name == f"linux-image-{version}"]
    directory = tmp_path_factory.mktemp("kernel")
    path = package_path(built.places.cache, item.sha256)
    subprocess.run(["dpkg-deb", "--extract", str(path), str(directory)], check=True)
    return directory


def test_kernel_and_initrd_are_small_and_drivers_cpio_too(opened):
    sizes = {name: payload.size_bytes for name, payload in opened.payloads.items()}
    assert sizes["kernel"] + sizes["initrd"] <= MOST_BYTES, sizes
    assert sizes["drivers"] <= MOST_DRIVERS_BYTES, sizes


def test_modules_are_byte_for_byte_what_the_distribution_signed(opened, package):
    count = 0
    for payload in ("initrd", "drivers"):
        tree = open_archive(opened, payload)
        for placed in tree.listed:
            path = placed.entry.path
            if "/kernel/" not in path or ".ko" not in path:
                continue
            data = b"".join(tree.read_file(placed))
            assert data == (package / path).read_bytes(), path
            count += 1
            if count % 20 == 0:
                assert unpack_module(path, data).endswith(SIGNED), path
    assert count > 400


def test_the_two_archives_have_no_module_in_common_and_all_that_theirs_need(opened):
    drivers = find_drivers(opened).drivers
    names = [driver.name for driver in drivers]
    assert len(names) == len(set(names))
    trees = [open_archive(opened, payload) for payload in ("initrd", "drivers")]
    there = set()
    for tree in trees:
        needed = {}
        for placed in tree.listed:
            path = placed.entry.path
            if "/kernel/" in path and ".ko" in path:
                says = parse_modinfo(
                    unpack_module(path, b"".join(tree.read_file(placed))), where=path
                )
                needed[says["name"][0]] = set(
                    ",".join(says.get("depends", ())).replace("-", "_").split(",")
                ) - {""}
        there |= set(needed)
        for name, needs in needed.items():
            assert needs <= there, (name, needs - there)


def test_what_the_issue_names_is_there(opened):
    where = {driver.name: driver.payload for driver in find_drivers(opened).drivers}
    base = (
        "virtio_net", "e1000e", "igb", "ixgbe", "i40e", "ice", "tg3", "bnxt_en", "mlx4_core",
        "mlx5_core", "r8169", "nvme", "ahci", "usbhid", "xhci_pci", "8021q",
    )  # fmt: skip
    more = (
        "bnx2", "bnx2x", "qede", "sfc", "cxgb4", "mlx5_ib", "ib_ipoib", "hfi1", "megaraid_sas",
        "mpt3sas", "hpsa", "smartpqi", "lpfc", "qla2xxx", "nfsv4", "sunrpc",
    )  # fmt: skip
    assert {name: where.get(name) for name in base} == dict.fromkeys(base, "initrd")
    assert {name: where.get(name) for name in more} == dict.fromkeys(more, "drivers")


def test_uefi_boots_by_http_alone(built):
    """Until it checks in: after that firmware has no part in anything."""
    machine = Machine(number=1, firmware="uefi-http", cpus=1)
    with open_laboratory(built.settings()) as laboratory:
        laboratory.import_file(built.bootstrap)
        laboratory.power_on(machine)
        wait_until(lambda: sight(laboratory, machine) is not None, laboratory, machine)
        text = console(laboratory, machine)
        assert "Start HTTP Boot over IPv4" in text
        assert "Start PXE" not in text
        assert report(laboratory)["undriven"] == []
        assert "fetching drivers.cpio" not in text


@pytest.mark.long
@pytest.mark.parametrize("firmware", ["bios", "uefi", "uefi-http"])
def test_hardware_that_nothing_drives_brings_its_drivers(built, firmware):
    """At once, by the agent; in the next boot, as it is remembered, by firmware."""
    machine = Machine(number=1, firmware=firmware, cards=("virtio", "rtl8139"))
    # Not approved: the second boot need not wait until the first, cut off, counts as gone.
    with open_laboratory(built.settings(registration="ask")) as laboratory:
        laboratory.import_file(built.bootstrap)
        laboratory.power_on(machine)
        wait_until(lambda: report(laboratory).get("driversFrom"), laboratory, machine)
        text = console(laboratory, machine)
        assert "fetching drivers.cpio" in text
        assert report(laboratory)["driversFrom"] == "agent"
        wait_until(lambda: "8139cp 0000:" in console(laboratory, machine), laboratory, machine)
        first = sight(laboratory).boot_id
        assert node(laboratory)["drivers"]["modules"] == ["8139cp"]
        laboratory.power_off(machine)
        laboratory.power_on(machine)
        wait_until(
            lambda: sight(laboratory).boot_id != first and report(laboratory), laboratory, machine
        )
        assert report(laboratory)["driversFrom"] == "firmware"
        assert report(laboratory)["undriven"] == []
        wait_until(lambda: "waiting:" in console(laboratory, machine), laboratory, machine)
        text = console(laboratory, machine)
        assert "fetching drivers.cpio" not in text
        assert text.index("8139cp 0000:") < text.index("waiting:")


CARDS = {
    "bios, three cards, the last is wired": ("bios", ("virtio", "igb", "e1000e"), 2),
    "uefi, three cards, the second is wired": ("uefi", ("vmxnet3", "e1000e", "virtio"), 1),
    "uefi by http, two cards": ("uefi-http", ("igb", "virtio"), 1),
}


@pytest.mark.long
@pytest.mark.parametrize("row", CARDS)
def test_of_several_cards_the_wired_one_boots(built, row):
    firmware, cards, wired = CARDS[row]
    machine = Machine(number=1, firmware=firmware, cards=cards, wired=wired)
    wish = Wish(capsule=NAME, timeout_seconds=2 * TIMEOUT_SECONDS)
    lines = []
    with open_laboratory(built.settings()) as laboratory:
        laboratory.import_file(built.bootstrap)
        laboratory.import_file(built.capsule)
        (outcome,) = boot(laboratory, [machine], wish, tell=lines.append)
        told = outcome, lines, console_tail(laboratory, machine, 40)
        assert outcome.is_ready, told
        assert node(laboratory)["nodeId"] == machine.hwaddr
        assert set(node(laboratory)["hwaddrs"]) == {
            machine.card_hwaddr(position) for position in range(len(cards))
        }, json.dumps(node(laboratory)["hwaddrs"])


def test_the_media_types_are_the_formats_of_the_documents(opened):
    kinds = [payload.media_type for payload in opened.payloads.values()]
    assert kinds == [m.SOURCE, m.KERNEL, m.INITRD, m.DRIVERS]
