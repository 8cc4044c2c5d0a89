"""Who is given drivers.cpio, and for how long it is remembered."""

import pytest

from provisiond.nodes.drivers import find_wanted_drivers, why_drivers
from provisiond.nodes.model import Session
from provisiond.nodes.scopes import Scopes, resolve
from provisiond.refusals import NotThere
from vnfsbuild.manifest import BOOTSTRAP, DRIVERS

NAME = "debian-13-minimal"
CARD = "pci:v000010ECd00008139sv00001AF4sd00001100bc02sc00i00"


def session(*drivers):
    return Session(
        boot_id="0" * 32, state="init", since=0, hwaddr="52:54:00:00:00:01", peer="10.0.0.1",
        last_contact=0, drivers=drivers,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("own", "seen", "why"),
    [
        ({}, None, ""),
        ({}, session(), ""),
        ({}, session("bnx2x", "mpt3sas"), "its hardware takes bnx2x mpt3sas"),
        ({"drivers": True}, None, "drivers is true (node)"),
        ({"drivers": False}, session("bnx2x"), ""),
        ({"transfer": "nfs"}, None, "transfer is nfs"),
        ({"transfer": "nfs", "drivers": False}, None, "transfer is nfs"),
        ({"transfer": "http"}, None, ""),
        ({"method": "rescue"}, None, "method is rescue"),
        ({"method": "rescue", "drivers": False}, None, ""),
    ],
)
def test_why_a_node_is_given_drivers(own, seen, why):
    assert why_drivers(resolve(own, (), Scopes()), seen) == why


@pytest.mark.parametrize(
    ("told", "wanted"),
    [
        (["bnx2x", "8139too", "bnx2x"], ("8139too", "bnx2x")),
        ([], ()),
        (["../../etc", "a b", "x" * 56, "é", ""], ()),
        ("bnx2x", ("known",)),
        (None, ("known",)),
        (7, ("known",)),
    ],
)
def test_what_a_node_says_of_its_hardware(told, wanted):
    assert find_wanted_drivers({"wantedDrivers": told}, known=("known",)) == wanted


def test_a_report_without_a_word_of_it_changes_nothing():
    assert find_wanted_drivers({"kernel": "6"}, known=("bnx2x",)) == ("bnx2x",)


def test_no_node_says_more_than_is_kept():
    told = [f"driver{n}" for n in range(1000)]
    assert len(find_wanted_drivers({"wantedDrivers": told}, known=())) == 64


async def boot_files(world, machine):
    found = await world.service.firmware.find_drivers(machine.hwaddr)
    return found and found.read_bytes()


def test_drivers_are_given_to_a_node_whose_hardware_takes_them_and_in_its_next_boots(in_world):
    async def story(world):
        digest = await world.import_capsule("bootstrap", kind=BOOTSTRAP, drivers=True)
        machine, other = world.machine(1), world.machine(2)
        assert await boot_files(world, machine) is None
        await machine.says(report={"undriven": [CARD], "wantedDrivers": ["8139too"]})
        assert (machine.plan.drivers.name, machine.plan.drivers.digest) == ("bootstrap", digest)
        assert machine.plan.blobs, "from where?"
        assert await boot_files(world, machine) == f"bootstrap 1 {DRIVERS}".encode()
        await other.says(report={"undriven": [], "wantedDrivers": []})
        assert other.plan.drivers is None
        assert await boot_files(world, other) is None
        # The kernel of the capsule says nothing of drivers; a machine that lost its card does.
        await machine.says("ready", report={"kernel": "6.12"})
        assert machine.plan.drivers is None
        await machine.says("halted")
        again = world.machine(1, boot=2)
        await again.says()
        assert again.plan.drivers is not None
        await again.says(report={"undriven": [], "wantedDrivers": []})
        assert again.plan.drivers is None
        assert await boot_files(world, again) is None

    in_world(story)


def test_it_is_known_at_once_after_a_restart_of_the_daemon(in_world):
    async def before(world):
        await world.import_capsule("bootstrap", kind=BOOTSTRAP, drivers=True)
        await world.machine(1).says(report={"wantedDrivers": ["8139too", "bnx2x"]})

    async def after(world):
        assert await boot_files(world, world.machine(1)) == f"bootstrap 1 {DRIVERS}".encode()
        (value,) = world.administration.nodes.show_nodes([])
        assert value["drivers"] == {
            "why": "its hardware takes 8139too bnx2x",
            "modules": ["8139too", "bnx2x"],
            "there": True,
        }

    in_world(before)
    in_world(after)


def test_an_attribute_stands_above_what_the_hardware_takes(in_world):
    async def story(world):
        await world.import_capsule("bootstrap", kind=BOOTSTRAP, drivers=True)
        machine = world.machine(1)
        await machine.says(report={"wantedDrivers": ["8139too"]})
        nodes = world.administration.nodes
        await nodes.set_attribute("drivers", "false", ["n00001"])
        assert await boot_files(world, machine) is None
        await nodes.set_attribute("drivers", "true", ["n00001"])
        await machine.says(report={"wantedDrivers": []})
        assert machine.plan.drivers is not None

    in_world(story)


def test_a_bootstrap_without_further_drivers_gives_none(in_world):
    async def story(world):
        await world.import_capsule("bootstrap", kind=BOOTSTRAP)
        machine = world.machine(1)
        await machine.says(report={"wantedDrivers": ["8139too"]})
        assert machine.plan.drivers is None
        assert await boot_files(world, machine) is None
        await machine.says("ready")
        (value,) = world.administration.nodes.show_nodes([])
        assert value["reason"] == (
            "its hardware takes 8139too, and its bootstrap has no drivers.cpio; "
            "vnfsbuild bootstrap build"
        )

    in_world(story)


def test_damaged_drivers_are_handed_to_nobody_and_a_node_that_takes_them_says_so(in_world):
    async def story(world):
        await world.import_capsule("bootstrap", kind=BOOTSTRAP, drivers=True)
        machine = world.machine(1)
        await machine.says(report={"wantedDrivers": ["8139too"]})
        path = await world.service.firmware.find_drivers(machine.hwaddr)
        path.write_bytes(path.read_bytes()[::-1])
        with pytest.raises(NotThere, match="its drivers in the store is not what was signed"):
            await world.service.firmware.find_drivers(machine.hwaddr)
        assert "not what was signed" in world.events("boot.refused")[-1]
        await world.service.firmware.find_bootstrap(machine.hwaddr)
        await machine.says("ready")
        (value,) = world.administration.nodes.show_nodes([])
        assert value["reason"].startswith("cannot boot again: bootstrap:1@")

    in_world(story)
