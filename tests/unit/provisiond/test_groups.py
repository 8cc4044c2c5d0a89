"""Groups, defaults, capsule settings; nodes that are renamed and replaced; who vouches for what."""

import pytest

from provisiond.refusals import Refused
from vnfsbuild.errors import InputError
from vnfsbuild.manifest import BOOTSTRAP

MINIMAL = "debian-13-minimal"


def hwaddr(number):
    return f"52:54:00:00:00:{number:02x}"


async def add(world, *numbers, **words):
    for number in numbers:
        await world.administration.nodes.add_node(
            hwaddr(number), **{"name": None, "attributes": {}, **words}
        )


def groups_of(world):
    return {node.name: node.groups for node in world.parts.registry.nodes.values()}


def effective(world, name, key):
    (shown,) = world.administration.nodes.list_nodes([name])
    return tuple(shown["effective"][key].values())


def test_a_group_is_made_given_nodes_and_taken_from_them(in_world):
    async def story(world):
        settings = world.administration.settings
        await add(world, 1, 2, 3)
        assert await settings.add_group("compute", []) == {
            "name": "compute", "nodes": [], "missing": [],
        }  # fmt: skip
        await settings.add_group("compute", ["n0000[1-2]"])
        await settings.add_group("gpu", ["@compute!n00001"], first=True)
        assert groups_of(world) == {
            "n00001": ("compute",), "n00002": ("gpu", "compute"), "n00003": (),
        }  # fmt: skip
        await settings.set_values("group", ["compute"], {"debug": "true", "dns": "10.0.0.1"})
        await settings.set_values("group", ["gpu"], {"dns": "+10.0.0.2"})
        await settings.set_values("defaults", [""], {"timezone": "UTC"})
        assert effective(world, "n00001", "dns") == (("10.0.0.1",), "group compute")
        assert effective(world, "n00002", "dns") == (
            ("10.0.0.1", "10.0.0.2"), "group compute, group gpu",
        )  # fmt: skip
        assert effective(world, "n00003", "timezone") == ("UTC", "defaults")
        assert settings.list_groups(["gpu"]) == [
            {"name": "gpu", "attributes": {"dns": ("+", "10.0.0.2")}, "nodes": ["n00002"]}
        ]
        # Made again it is as it was.
        await settings.add_group("gpu", ["n00003"])
        assert groups_of(world)["n00003"] == ("gpu",)
        assert settings.show("group", "gpu") == {"dns": ("+", "10.0.0.2")}
        await settings.rename_group("gpu", "accel")
        assert groups_of(world)["n00002"] == ("accel", "compute")
        await settings.replace_members("accel", ["n00001"])
        assert groups_of(world) == {
            "n00001": ("compute", "accel"), "n00002": ("compute",), "n00003": (),
        }  # fmt: skip
        await settings.remove_from_group("compute", ["*"])
        assert groups_of(world)["n00001"] == ("accel",)
        await settings.delete_groups(["accel", "compute"])
        assert set(groups_of(world).values()) == {()}
        assert settings.list_groups() == []
        assert world.parts.registry.scopes.groups == {}
        assert "group compute: debug = true, dns = 10.0.0.1" in world.events("settings.changed")

    in_world(story)


def test_the_order_of_groups_is_set_as_a_whole_or_added_to(in_world):
    async def story(world):
        for name in "abc":
            await world.administration.settings.add_group(name, [])
        await add(world, 1, groups=["b"])
        await world.administration.nodes.set_attribute("groups", "+ a", ["n00001"])
        assert groups_of(world)["n00001"] == ("b", "a")
        await world.administration.nodes.set_attribute("groups", "c,a c", ["n00001"])
        assert groups_of(world)["n00001"] == ("c", "a")
        with pytest.raises(InputError, match="group d: not known"):
            await world.administration.nodes.set_attribute("groups", "a d", ["n00001"])
        await world.administration.nodes.set_attribute("groups", "", ["n00001"])
        assert groups_of(world)["n00001"] == ()

    in_world(story)


@pytest.mark.parametrize(
    ("scope", "subject", "values", "told"),
    [
        ("group", "comput", {"debug": "1"}, "group comput: not known; did you mean 'compute'?"),
        ("group", "compute", {"address": "10.87.0.9"}, "attribute address: found it for group"),
        ("group", "compute", {"debgu": "1"}, "attribute 'debgu': not known; did you mean"),
        ("group", "compute", {"vnfs": "none"}, "capsule none: not in the store"),
        ("capsule", "x", {"vnfs": "x"}, "attribute vnfs: found it for capsule, expected it for"),
        ("capsule", "Big", {"debug": "1"}, "capsule: found name 'Big'"),
        ("defaults", "x", {"debug": "1"}, "scope: found 'defaults' 'x'"),
        ("node", "n00001", {"debug": "1"}, "scope: found 'node' 'n00001'"),
    ],
)
def test_what_cannot_be_set_for_many_is_told(in_world, scope, subject, values, told):
    async def story(world):
        await world.administration.settings.add_group("compute", [])
        before = world.parts.registry.scopes
        with pytest.raises(InputError) as caught:
            await world.administration.settings.set_values(scope, [subject], values)
        assert str(caught.value).startswith(told)
        assert world.parts.registry.scopes == before

    in_world(story)


def test_a_capsule_that_a_group_assigns_boots_approved_nodes_at_once(in_world):
    async def story(world):
        await world.import_capsule()
        machine = world.machine(1)
        await machine.says()
        await world.administration.settings.add_group("compute", ["n00001"])
        await world.administration.settings.set_values("group", ["compute"], {"vnfs": MINIMAL})
        assert (await machine.says()).plan.reason == (
            "n00001 waits for approval; provisionctl node approve n00001"
        )
        await world.administration.settings.set_values(
            "capsule", [MINIMAL], {"kernel_arguments": "quiet", "console": "ttyS1,9600"}
        )
        await world.administration.nodes.approve(["@compute"])
        plan = (await machine.says()).plan
        assert (plan.action, plan.capsule.name) == ("boot", MINIMAL)
        assert plan.kernel_arguments == ("panic=60", "console=ttyS1,9600", "quiet")

    in_world(story)


def test_only_an_administrator_makes_a_node_one_that_gets_secrets(in_world):
    async def story(world):
        await world.import_capsule()
        await world.machine(1).says()
        await world.administration.settings.set_values("defaults", [""], {"vnfs": MINIMAL})
        node = world.parts.registry.named("n00001")
        assert (node.approved, node.gets_secrets) == (True, False)
        await world.administration.nodes.set_attribute("debug", "true", ["n00001"])
        assert not world.parts.registry.named("n00001").gets_secrets
        await world.administration.nodes.set_attribute("vnfs", MINIMAL, ["n0000[1-9]"])
        assert world.parts.registry.named("n00001").gets_secrets

    in_world(story, registration="open")


@pytest.mark.parametrize(
    ("nodes", "approved"),
    [(["n0000[1-2]"], ["n00001", "n00002"]), (["n00001", "n*"], ["n00001"]), (["*"], []),
     (["@all"], []), (["state=init"], []), (["state=init", "n00002"], ["n00002"]),
     (["n0000[1-2]!n00001"], ["n00002"]), (["n00001,@all"], [])],
)  # fmt: skip
def test_only_a_node_that_is_named_is_approved_by_its_capsule(in_world, nodes, approved):
    async def story(world):
        await world.import_capsule()
        for number in (1, 2):
            await world.machine(number).says()
        await world.administration.settings.add_group("all", ["*"])
        answer = await world.administration.nodes.set_attribute("vnfs", MINIMAL, nodes)
        found = [node.name for node in world.parts.registry.nodes.values() if node.gets_secrets]
        assert found == approved
        assert answer["waiting"] == [name for name in answer["nodes"] if name not in approved]

    in_world(story)


def test_a_renamed_node_keeps_all_but_its_name(in_world):
    async def story(world):
        await add(world, 1, 2, attributes={"debug": "true"})
        before = world.parts.registry.named("n00001")
        await world.administration.nodes.rename("n00001", "login")
        after = world.parts.registry.named("login")
        assert (after.node_id, after.attributes) == (before.node_id, before.attributes)
        assert "n00001" not in world.parts.registry.names
        assert (world.state.dnsmasq.hosts / "52-54-00-00-00-01").read_text().endswith(",login\n")
        for name, new_name, told in (
            ("logn", "x", "did you mean 'login'?"), ("login", "n00002", "the name n00002 is taken"),
            ("login", "N1", "node name"),
        ):  # fmt: skip
            with pytest.raises(InputError, match=told.replace("?", r"\?")):
                await world.administration.nodes.rename(name, new_name)

    in_world(story)


async def running(world, number):
    machine = world.machine(number)
    world.lease(machine.hwaddr, machine.peer)
    await machine.says()
    await world.administration.nodes.set_attribute("vnfs", MINIMAL, [f"n0000{number}"])
    await machine.says()
    await machine.says("ready")
    return machine


def test_a_replaced_node_keeps_name_and_address_and_its_old_machine_loses_its_key(in_world):
    async def story(world):
        await world.import_capsule()
        old = await running(world, 1)
        await world.administration.settings.add_group("compute", ["n00001"])
        shown = await world.administration.nodes.replace("n00001", "52-54-00-00-00-77")
        assert (shown["name"], shown["nodeId"]) == ("n00001", "52:54:00:00:00:77")
        assert (shown["address"], shown["groups"]) == ("10.87.0.100", ["compute"])
        assert (shown["state"], shown["attributes"]) == (None, {"vnfs": MINIMAL})
        hosts = {path.name: path.read_text() for path in world.state.dnsmasq.hosts.iterdir()}
        assert hosts == {"52-54-00-00-00-77": "52:54:00:00:00:77,10.87.0.100,n00001\n"}
        new = world.machine(0x77)
        new.peer = "10.87.0.100"
        answer = await new.says()
        assert (answer.plan.name, answer.plan.action) == ("n00001", "boot")
        assert answer.node_key
        # What was n00001 is a stranger now: its key opens nothing, and it starts as a new node.
        with pytest.raises(Refused):
            old.overlay()
        again = await old.says(node_key=old.node_key)
        assert (again.plan.name, again.node_key) == ("n00002", None)
        assert world.parts.registry.named("n00002").address is None

    in_world(story)


def test_a_machine_that_registered_by_itself_becomes_the_node_that_it_replaces(in_world):
    async def story(world):
        await world.import_capsule()
        await running(world, 1)
        new = world.machine(9)
        world.lease(new.hwaddr, new.peer)
        await new.says()
        assert new.plan.name == "n00002"
        await world.administration.nodes.replace("n00001", new.hwaddr)
        assert set(world.parts.registry.names) == {"n00001"}
        await new.says()
        assert (new.plan.name, new.plan.action) == ("n00001", "boot")

    in_world(story)


def test_a_machine_that_somebody_cares_for_is_not_taken(in_world):
    async def story(world):
        await add(world, 1, 2)
        before = dict(world.parts.registry.nodes)
        for words, told in (
            (("n00001", hwaddr(2)), f"{hwaddr(2)} is n00002 already"),
            (("n00001", hwaddr(1)), "is an address of n00001 already"),
            (("n00003", hwaddr(9)), "found no node n00003; did you mean"),
            (("n00001", "x"), "expected a hardware address"),
        ):
            with pytest.raises(InputError, match=told):
                await world.administration.nodes.replace(*words)
        assert world.parts.registry.nodes == before

    in_world(story)


def test_a_replaced_node_is_whole_after_a_restart(in_world):
    async def story(world):
        await add(world, 1, attributes={"debug": "true"})
        await world.administration.nodes.replace("n00001", hwaddr(9))
        stored = world.parts.registry._database.load()
        assert stored.nodes == dict(world.parts.registry.nodes)
        assert list(stored.nodes) == [hwaddr(9)]

    in_world(story)


def test_filters_ask_for_what_counts_and_for_how_nodes_are(in_world):
    async def story(world):
        await world.import_capsule()
        await running(world, 1)
        await add(world, 2, 3, attributes={"tag.rack": "r7"})
        await world.administration.settings.add_group("a", ["n00003"])
        await world.administration.settings.set_values("group", ["a"], {"enabled": "no"})

        def found(*expressions):
            return [item["name"] for item in world.administration.nodes.list_nodes(expressions)]

        assert found("state=ready") == ["n00001"]
        assert found("state=new") == ["n00002", "n00003"]
        assert found(f"vnfs={MINIMAL}") == ["n00001"]
        assert found("enabled=false") == ["n00003"]
        assert found("condition=disabled") == ["n00003"]
        assert found("condition=dead") == []
        assert found("group=a", "tag.rack=r*") == ["n00003"]
        assert found("tag.rack=") == ["n00001"]
        assert found("address=10.87.0.1*") == ["n00001"]
        assert found(f"hwaddr={hwaddr(2)}") == ["n00002"]
        world.now += 10_000
        assert found("condition=dead") == ["n00001"]
        with pytest.raises(InputError, match="found no node that is meant"):
            await world.administration.nodes.approve(["state=failed"])

    in_world(story)


def authority(world, name="n00001"):
    (shown,) = world.administration.nodes.show_nodes([name])
    return shown["authority"]


def test_a_node_says_who_vouches_for_what_runs_there(in_world):
    async def story(world):
        first = await world.import_capsule()
        await world.import_capsule("bootstrap", kind=BOOTSTRAP)
        await add(world, 1)
        (key,) = world.parts.catalogue.capsules[0].signers
        rows = authority(world)
        assert rows["image"]["text"] == "nobody: no capsule is assigned"
        assert rows["site"]["text"].startswith("https://10.87.0.1:8987, by the certificate auth")
        assert rows["site"]["digest"] == world.parts.authority_digest
        assert rows["bootstrap"]["keys"] == [key]
        assert "worth what the provisioning network is worth" in rows["bootstrap"]["text"]
        await world.administration.nodes.set_attribute("vnfs", MINIMAL, ["n00001"])
        row = authority(world)["image"]
        assert (row["digest"], row["keys"]) == (first, [key])
        assert f"signed by {key}: the rule '*' of trust.json version 1 asks" in row["text"]
        # What runs counts, whatever is assigned for the next boot.
        machine = world.machine(1)
        await machine.says("ready", capsule=first)
        second = await world.import_capsule(serial=2)
        assert authority(world)["image"]["digest"] == first
        await machine.says("halted")
        assert authority(world)["image"]["digest"] == second

    in_world(story)


def test_a_password_hash_is_never_shown(in_world):
    async def story(world):
        secret = "$6$saltsalt$0123456789abcdefghijklmnopqrstuvwxyz"
        await add(world, 1, attributes={"root_password": secret})
        await world.administration.settings.add_group("a", ["n00001"])
        await world.administration.settings.set_values("group", ["a"], {"root_password": secret})
        await world.administration.nodes.set_attribute("root_password", secret, ["n00001"])
        told = str(
            [
                world.administration.nodes.show_nodes(),
                world.administration.settings.list_groups(),
                [event.text for event in world.parts.events.since(0)],
            ]
        )
        assert "saltsalt" not in told
        assert "root_password = set" in told
        assert world.parts.registry.named("n00001").attributes["root_password"] == secret

    in_world(story)
