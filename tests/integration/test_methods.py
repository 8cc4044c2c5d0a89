"""What firmware and bootstraps are told of the ways to boot, by the real daemon."""

import pytest

from .daemon import approve, hwaddr, site

pytestmark = pytest.mark.integration


@pytest.fixture
def made():
    with site() as running:
        yield running.serve()


def ctl(made, *words):
    done = made.ctl(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def choice(made, number=1):
    status, text = made.get(f"/boot/choice.ipxe?mac={hwaddr(number).replace(':', '-')}")
    assert status == 200
    return text.decode()


def site_cpio(made, number=1):
    return made.get(f"/boot/site.cpio?mac={hwaddr(number)}")[1]


def test_firmware_is_sent_to_the_disk_of_a_node_and_back(made):
    assert choice(made, 9) == "#!ipxe\n"  # nobody knows it
    name, _ = approve(made, 1)
    assert choice(made) == "#!ipxe\n"
    ctl(made, "node", "set", "method", "local", name)
    assert choice(made) == "#!ipxe\nset vnfs-choice local\n"
    assert "boots from its own disk: method = local" in ctl(made, "events", "--kind", "boot.local")
    ctl(made, "node", "set", "enabled", "false", name)
    assert choice(made) == "#!ipxe\n"
    ctl(made, "node", "unset", "enabled", name)
    ctl(made, "node", "unset", "method", name)
    assert choice(made) == "#!ipxe\n"
    assert made.get("/boot/choice.ipxe?mac=none")[0] == 400


def test_a_node_that_waits_is_told_at_once_that_it_is_to_be_rescued(made):
    name, key = approve(made, 1)
    ctl(made, "group", "add", "ill", name)
    ctl(made, "group", "set", "method", "rescue", "ill")
    plan = made.checkin(words={"nodeKey": key})["plan"]
    assert (plan["action"], plan["method"]) == ("boot", "rescue")
    assert plan["overlay"]["size"] > 0
    assert "capsule" not in plan
    ctl(made, "group", "remove", "ill", name)
    assert made.checkin(words={"nodeKey": key})["plan"]["action"] == "wait"


def test_the_bootstrap_of_one_node_is_told_its_network(made):
    name, _ = approve(made, 1)
    made.checkin(2)
    assert b"vnfs/site/words" not in site_cpio(made)
    ctl(made, "node", "set", "bootstrap_vlan", "100", name)
    ctl(made, "node", "set", "bootstrap_address", "static", name)
    ctl(made, "node", "set", "address", "10.86.0.150", name)
    ctl(made, "defaults", "set", "on_failure", "reboot")
    found = site_cpio(made)
    assert b"vnfs.vlan=100\nvnfs.ip=10.86.0.150/24\n" in found
    assert b"vnfs.tries=5\nvnfs.on_failure=reboot\n" in found
    assert b"vnfs.vlan" not in site_cpio(made, 2)
    assert b"vnfs.on_failure=reboot\n" in site_cpio(made, 2)
