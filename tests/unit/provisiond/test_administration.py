"""What an administrator asks: values are judged, names resolved, changes durable and told."""

import asyncio

import pytest

from provisiond.administration.administration import Administration
from provisiond.events.events import Wanted
from vnfsbuild.errors import InputError, VerificationError
from vnfsbuild.manifest import BOOTSTRAP


async def add(world, *numbers):
    for number in numbers:
        await world.administration.nodes.add_node(
            f"52:54:00:00:00:{number:02x}", name=None, attributes={}
        )


def test_added_nodes_are_approved_and_named_in_order(in_world):
    async def story(world):
        await add(world, 5, 6)
        shown = await world.administration.nodes.add_node(
            "52-54-00-00-00-AA", name="login", attributes={"address": "10.87.0.20"}
        )
        assert shown["approved"]
        assert shown["address"] == "10.87.0.20"
        assert shown["state"] is None
        names = [node["name"] for node in world.administration.nodes.list_nodes()]
        assert names == ["login", "n00001", "n00002"]
        assert (world.state.dnsmasq.hosts / "52-54-00-00-00-aa").read_text() == (
            "52:54:00:00:00:aa,10.87.0.20,login\n"
        )

    in_world(story)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"hwaddr": "52:54:00:00:00:01"}, "52:54:00:00:00:01 is n00001 already"),
        ({"name": "n00001"}, "the name n00001 is taken"),
        ({"name": "N1"}, "node name: found 'N1'"),
        ({"hwaddr": "x"}, "expected a hardware address"),
        ({"attributes": {"adress": "1"}}, "did you mean 'address'?"),
        ({"attributes": {"address": "10.87.0.1"}}, "found 10.87.0.1, expected one of"),
        ({"attributes": {"address": "10.88.0.7"}}, "found 10.88.0.7, expected one of"),
        ({"attributes": {"vnfs": "none"}}, "capsule none: not in the store"),
    ],
)
def test_what_cannot_be_added_is_told_and_nothing_changes(in_world, words, told):
    async def story(world):
        await add(world, 1)
        before = world.administration.nodes.list_nodes()
        asked = {"hwaddr": "52:54:00:00:00:09", "name": None, "attributes": {}, **words}
        hwaddr = asked.pop("hwaddr")
        with pytest.raises(InputError) as caught:
            await world.administration.nodes.add_node(hwaddr, **asked)
        assert told in str(caught.value)
        assert world.administration.nodes.list_nodes() == before

    in_world(story)


def test_setting_and_unsetting(in_world):
    async def story(world):
        await add(world, 1, 2, 3)
        answer = await world.administration.nodes.set_attribute("method", "pivot", ["n0000[2-4]"])
        assert answer == {"nodes": ["n00002", "n00003"], "missing": ["n00004"], "waiting": []}
        methods = [node["effective"]["method"] for node in world.administration.nodes.list_nodes()]
        assert methods == [
            {"value": "auto", "from": "built in"},
            {"value": "pivot", "from": "node"},
            {"value": "pivot", "from": "node"},
        ]
        await world.administration.nodes.set_attribute("method", "", ["*"])
        assert all(not node["attributes"] for node in world.administration.nodes.list_nodes())

    in_world(story)


@pytest.mark.parametrize(
    ("key", "value", "nodes", "told"),
    [
        ("vnsf", "x", ["n00001"], "did you mean 'vnfs'?"),
        ("vnfs", "debian-13-minimul", ["n00001"], "did you mean 'debian-13-minimal'?"),
        ("vnfs", "bootstrap", ["n00001"], "capsule bootstrap: not in the store"),
        ("bootstrap", "debian-13-minimal", ["n00001"], "bootstrap debian-13-minimal: not in"),
        ("vnfs", "debian-13-minimal:7", ["n00001"], "not in the store"),
        ("enabled", "perhaps", ["n00001"], "expected true or false"),
        (
            "address",
            "10.87.0.50",
            ["*"],
            "n00002: address: 10.87.0.50 is the address of n00001",
        ),
        ("address", "10.87.0.60", ["n00001"], "is the address of n00002"),
        ("method", "pivot", ["n00009"], "did you mean"),
    ],
)
def test_what_cannot_be_set_is_told_and_nothing_changes(in_world, key, value, nodes, told):
    async def story(world):
        await world.import_capsule()
        await world.import_capsule("bootstrap", kind=BOOTSTRAP)
        await add(world, 1, 2)
        await world.administration.nodes.set_attribute("address", "10.87.0.60", ["n00002"])
        before = world.administration.nodes.list_nodes()
        with pytest.raises(InputError) as caught:
            await world.administration.nodes.set_attribute(key, value, nodes)
        assert told in str(caught.value)
        assert world.administration.nodes.list_nodes() == before

    in_world(story)


def test_a_node_may_keep_its_address(in_world):
    async def story(world):
        await add(world, 1)
        for _ in range(2):
            await world.administration.nodes.set_attribute("address", "10.87.0.60", ["n00001"])

    in_world(story)


def test_an_assignment_is_kept_as_typed(in_world):
    async def story(world):
        first = await world.import_capsule(serial=1)
        await add(world, 1, 2)
        await world.administration.nodes.set_attribute("vnfs", "debian-13-minimal", ["n00001"])
        await world.administration.nodes.set_attribute(
            "vnfs", f"debian-13-minimal@{first}", ["n00002"]
        )
        second = await world.import_capsule(serial=2)
        shown = world.administration.nodes.list_nodes()
        assert [node["planned"] for node in shown] == [second, first]

    in_world(story)


def test_deleting_a_node_makes_its_name_free_and_ends_its_wait(in_world):
    async def story(world):
        machine = world.machine(1)
        await machine.says()
        assert await world.administration.nodes.delete(["n00001"]) == {
            "nodes": ["n00001"], "missing": [],
        }  # fmt: skip
        assert list(world.state.dnsmasq.hosts.iterdir()) == []
        assert (await machine.says()).plan.name == "n00001"

    in_world(story)


def test_what_is_imported_is_listed_with_the_nodes_that_boot_it(in_world):
    async def story(world):
        digest = await world.import_capsule()
        await world.import_capsule("bootstrap", kind=BOOTSTRAP)
        await add(world, 1, 2)
        await world.administration.nodes.set_attribute("vnfs", "debian-13-minimal", ["*"])
        bootstrap, capsule = world.administration.list_capsules()
        assert (bootstrap["name"], bootstrap["type"]) == ("bootstrap", "bootstrap")
        assert capsule == {
            "name": "debian-13-minimal", "digest": digest, "serial": 1, "type": "capsule",
            "tags": ["1", "current"], "kernel": "6.12.0-test", "sizeBytes": capsule["sizeBytes"],
            "nodes": ["n00001", "n00002"],
        }  # fmt: skip

    in_world(story)


def test_an_unsigned_capsule_is_refused_and_the_store_stays_as_it_was(in_world):
    async def story(world):
        with pytest.raises(VerificationError, match="not signed"):
            await world.import_capsule(signed=False)
        assert world.administration.list_capsules() == []

    in_world(story)


def test_a_flipped_bit_is_refused(in_world):
    async def story(world):
        path, _ = world.builder.build()
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        with pytest.raises(VerificationError):
            await world.administration.import_file(path, promote=True)
        assert world.administration.list_capsules() == []

    in_world(story)


def test_without_trust_nothing_is_imported(in_world):
    async def story(world):
        path, _ = world.builder.build()
        with pytest.raises(InputError, match=r"no trust\.json says whose capsules may run"):
            await world.administration.import_file(path, promote=True)

    in_world(story, trust=None)


def test_the_daemon_keeps_its_own_trust_when_the_source_is_gone(in_world):
    async def story(world):
        await world.import_capsule(serial=1)
        world.builder.trust.unlink()
        await world.administration.import_file(world.builder.files / "debian-13-minimal-1.vnfs",
                                               promote=True)  # fmt: skip

    in_world(story)


def test_a_trust_by_strangers_is_not_taken_over(in_world, tmp_path):
    async def story(world):
        await world.import_capsule(serial=1)
        stranger = type(world.builder)(tmp_path / "stranger")
        world.builder.trust.write_bytes(stranger.trust.read_bytes())
        path, _ = stranger.build(serial=2)
        with pytest.raises(VerificationError):
            await world.administration.import_file(path, promote=True)
        assert len(world.administration.list_capsules()) == 1

    (tmp_path / "stranger").mkdir()
    in_world(story)


def test_status_counts(in_world):
    async def story(world):
        await add(world, 9)
        await world.machine(1).says()
        status = world.administration.status()
        assert status["nodes"] == 2
        assert status["counts"] == {"new": 1, "init": 1}

    in_world(story)


def test_events_are_waited_for(in_world):
    async def story(world):
        administration: Administration = world.administration
        waiting = asyncio.create_task(administration.events(Wanted(), wait_seconds=5))
        await asyncio.sleep(0.01)
        await add(world, 1)
        answer = await asyncio.wait_for(waiting, 1)
        assert [(event["kind"], event["node"]) for event in answer["events"]] == [
            ("node.changed", "n00001")
        ]
        assert answer["last"] == 1
        nothing = await administration.events(Wanted(since=1), wait_seconds=0)
        assert nothing == {"events": [], "last": 1}

    in_world(story)
