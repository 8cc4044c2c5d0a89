"""All that is set, as a document: the same bytes for the same state, and back without a change."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provisiond.nodes.differences import find_differences
from provisiond.nodes.interchange import State, parse_state, render_state
from provisiond.nodes.model import Node
from provisiond.nodes.scopes import Scopes
from vnfsbuild.errors import InputError

HASH = "$6$saltsalt$0123456789abcdefghijklmnopqrstuvwxyz"
WORD = st.from_regex(r"[a-z0-9][a-z0-9.]{0,8}", fullmatch=True)
LINES = st.text(
    st.characters(min_codepoint=32, exclude_categories=("C", "Z")), min_size=1, max_size=8
)
LISTS = st.lists(st.sampled_from(["a", "b=c", 'q"uote', "back\\slash", "0,1"]), min_size=1,
                 max_size=3).map(tuple)  # fmt: skip
SHARED = {
    "vnfs": st.sampled_from(["debian", "debian:7", f"x@sha256:{'0' * 64}"]),
    "method": st.sampled_from(["kexec", "pivot"]),
    "enabled": st.booleans(),
    "kernel_arguments": st.one_of(LISTS, LISTS.map(lambda items: ("+", *items))),
    "overlays": st.lists(WORD, min_size=1, max_size=3).map(tuple),
    "root_password": st.just(HASH),
    "description": LINES,
    "interface.eth1.mtu": st.integers(68, 65535),
    "interface.eth0.100.vlan": st.integers(1, 4094),
    "interface.bond0.onboot": st.booleans(),
    "tag.rack": LINES,
    "tag.a.b": LINES,
    "tag.tag": LINES,
}
OWN = {
    **SHARED,
    "address": st.just("10.87.0.50"),
    "interface.eth1.address": st.just("10.1.0.7/16"),
    "interface.eth1.hwaddr": st.just("52:54:00:00:00:aa"),
}


def some(values):
    return st.fixed_dictionaries({}, optional=values)


@st.composite
def states(draw):
    groups = draw(st.dictionaries(st.sampled_from(["a", "b", "rack-1", "C.x"]), some(SHARED)))
    capsules = {key: value for key, value in SHARED.items() if key != "vnfs"}
    scopes = Scopes(
        defaults=draw(some(SHARED)),
        capsules={
            name: values
            for name, values in draw(
                st.dictionaries(st.sampled_from(["debian", "a.b"]), some(capsules))
            ).items()
            if values
        },
        groups=groups,
    )
    nodes = {}
    for number in draw(st.sets(st.integers(1, 6))):
        name = draw(st.sampled_from([f"n0000{number}", f"login-{number}"]))
        hwaddrs = tuple(f"52:54:00:00:0{n}:0{number}" for n in range(draw(st.integers(1, 3))))
        named = st.lists(st.sampled_from(sorted(groups)), unique=True) if groups else st.just([])
        nodes[name] = Node(
            node_id=hwaddrs[0], name=name, hwaddrs=hwaddrs,
            uuid=draw(st.sampled_from([None, "11111111-2222-3333-4444-555555555555"])),
            approved_by=draw(st.sampled_from([None, "administrator", "registration"])),
            address=draw(st.sampled_from([None, f"10.87.0.{number}"])),
            attributes=draw(some(OWN)), groups=tuple(draw(named)),
        )  # fmt: skip
    return State(nodes=nodes, scopes=scopes)


@given(states())
def test_a_state_survives_being_written_down(state):
    text = render_state(state)
    again = parse_state(text, where="x")
    assert again == state
    assert render_state(again) == text
    assert find_differences(state, again) == []


@settings(max_examples=40)
@given(states(), states())
def test_a_difference_is_told_exactly_when_there_is_one(old, new):
    assert bool(find_differences(old, new)) == (old != new)
    assert find_differences(old, old) == []


@settings(max_examples=40)
@given(states())
def test_secrets_are_left_out_unless_they_are_asked_for(state):
    assert "saltsalt" not in render_state(replace(state, secrets=False))


EXAMPLE = """\
# All that is set for nodes. provisionctl import FILE --dry-run tells what it would change.
# Lists that begin with "+" add to what weaker scopes say; groups: the strongest first.

format = 1
secrets = false

[defaults]
vnfs = "debian-13-compute"
ntp = ["10.87.0.1"]

[capsules.debian-13-compute]
timezone = "Europe/Berlin"

[groups.compute]
kernel_arguments = ["+", "nosmt"]

[nodes.n00001]
hwaddrs = ["52:54:00:00:00:01", "52:54:00:00:00:02"]
approved = "administrator"
lease = "10.87.0.100"
groups = ["compute"]
debug = true
interface.eth1.address = "10.1.0.7/16"
interface."eth0.100".vlan = 100
tag.rack = "r1"
"""


def test_the_document_is_what_the_manual_shows():
    state = parse_state(EXAMPLE, where="x")
    assert render_state(state) == EXAMPLE.replace(
        'interface.eth1.address = "10.1.0.7/16"\ninterface."eth0.100".vlan = 100\n',
        'interface."eth0.100".vlan = 100\ninterface.eth1.address = "10.1.0.7/16"\n',
    )
    assert state.nodes["n00001"].attributes["interface.eth0.100.vlan"] == 100


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("format = 2", ["x: format: found 2, expected 1"]),
        ("", ["x: format: found None, expected 1"]),
        ("[", ["x: not TOML"]),
        ("format = 1\nnode = 1", ["x: node: unknown key, expected format, secrets, defaults"]),
        ("format = 1\ndefaults = 1\nnodes = []\ngroups.a = 1", [
            "x: defaults: found 1, expected a table", "x: nodes: found [], expected a table",
            "x: groups.a: found 1, expected a table"]),
        ('format = 1\n[defaults]\naddress = "10.0.0.1"\ndns = 7\n[groups."a b"]\n[capsules.X]', [
            "x: defaults.address: found it for defaults, expected it for node only",
            "x: defaults.dns: found 7, expected a list of texts",
            "x: groups.a b: group name: found 'a b'", "x: capsules.X: capsule: found name 'X'"]),
        ('format = 1\n[nodes.N1]\n[nodes.n1]\nhwaddrs = ["x"]\napproved = "me"\nuuid = 7\n'
         'lease = "10.0"\ngroups = ["none"]\nvnsf = "a"\ninterface.eth1.adress = "x"', [
             "x: nodes.N1: node name: found 'N1'", "x: nodes.N1.hwaddrs: missing",
             "x: nodes.n1.hwaddrs: found 'x', expected a hardware address",
             "x: nodes.n1.approved: found 'me', expected administrator",
             "x: nodes.n1.uuid: found 7", "x: nodes.n1.lease: found '10.0'",
             "x: nodes.n1.groups: found 'none', expected one of [groups.…]",
             "x: nodes.n1.vnsf: attribute 'vnsf': not known; did you mean 'vnfs'?",
             "no field 'adress'; did you mean 'address'?"]),
        ('format = 1\n[nodes.a]\nhwaddrs = ["52:54:00:00:00:01"]\n'
         '[nodes.b]\nhwaddrs = ["52:54:00:00:00:02", "52-54-00-00-00-01"]',
         ["x: nodes.b.hwaddrs: 52:54:00:00:00:01 is of a too"]),
    ],
)  # fmt: skip
def test_all_faults_of_a_document_are_told_at_once(text, told):
    with pytest.raises(InputError) as caught:
        parse_state(text, where="x")
    for line in told:
        assert line in str(caught.value)


def test_differences_say_what_becomes_of_each_thing():
    old = parse_state(EXAMPLE, where="x")
    new = parse_state(
        EXAMPLE.replace("[nodes.n00001]", "[nodes.login]")
        .replace("debug = true\n", "")
        .replace('["+", "nosmt"]', '["quiet"]')
        .replace("[groups.compute]", "[groups.gpu]\n\n[groups.compute]")
        .replace('[capsules.debian-13-compute]\ntimezone = "Europe/Berlin"\n', "")
        + '\n[nodes.n00002]\nhwaddrs = ["52:54:00:00:00:09"]\n',
        where="x",
    )
    found = [
        (item.subject, item.change, item.key, item.old, item.new)
        for item in find_differences(old, new)
    ]
    assert found == [
        ("capsule debian-13-compute", "removed", None, None, None),
        ("group compute", "changed", "kernel_arguments", "+ nosmt", "quiet"),
        ("group gpu", "added", None, None, None),
        ("node n00001", "changed", "name", "n00001", "login"),
        ("node n00001", "changed", "debug", "true", None),
        ("node n00002", "added", None, None, None),
        ("node n00002", "added", "hwaddrs", None, "52:54:00:00:00:09"),
    ]
    other = replace(old, scopes=replace(old.scopes, defaults={"root_password": HASH}))
    before = replace(old, scopes=replace(old.scopes, defaults={"root_password": f"{HASH}x"}))
    (first,) = find_differences(before, other)
    assert (first.old, first.new) == ("set", "another secret")


async def fill(world):
    await world.import_capsule()
    await world.administration.settings.add_group("compute", [])
    await world.administration.settings.set_values("group", ["compute"], {"root_password": HASH})
    await world.administration.settings.set_values("capsule", ["x"], {"root_password": HASH})
    await world.administration.settings.set_values("defaults", [""], {"ntp": "10.87.0.1"})
    await world.administration.nodes.add_node(
        "52:54:00:00:00:01", name=None, groups=["compute"],
        attributes={"vnfs": "debian-13-minimal", "root_password": HASH, "tag.a": "ü"},
    )  # fmt: skip
    machine = world.machine(2)
    world.lease(machine.hwaddr, machine.peer)
    await machine.says()


def everything(world):
    stored = world.parts.registry._database.load()
    assert stored.nodes == dict(world.parts.registry.nodes)
    assert stored.scopes == world.parts.registry.scopes
    return stored.nodes, stored.scopes


@pytest.mark.parametrize("secrets", [False, True])
def test_importing_an_export_changes_nothing(in_world, secrets):
    async def story(world):
        await fill(world)
        before = everything(world)
        text = world.administration.transfer.export(secrets=secrets)
        assert text == world.administration.transfer.export(secrets=secrets)
        assert ("saltsalt" in text) == secrets
        last = world.parts.events.last
        done = await world.administration.transfer.import_document(text, where="x", dry_run=False)
        assert done == {"changes": [], "applied": False}
        assert everything(world) == before
        assert world.parts.events.last == last

    in_world(story)


def test_what_was_exported_is_brought_back_whole(in_world):
    async def story(world):
        await fill(world)
        before = everything(world)
        text = world.administration.transfer.export(secrets=True)
        await world.administration.nodes.delete(["*"])
        await world.administration.settings.delete_groups(["compute"])
        await world.administration.settings.set_values("capsule", ["x"], {"root_password": ""})
        await world.administration.nodes.add_node("52:54:00:00:00:0f", name="other", attributes={})
        empty = everything(world)
        dry = await world.administration.transfer.import_document(text, where="x", dry_run=True)
        assert not dry["applied"]
        assert everything(world) == empty
        done = await world.administration.transfer.import_document(text, where="x", dry_run=False)
        assert (done["applied"], done["changes"]) == (True, dry["changes"])
        assert {"subject": "node other", "change": "removed", "key": None, "old": None,
                "new": None} in done["changes"]  # fmt: skip
        assert everything(world) == before
        hosts = {path.name for path in world.state.dnsmasq.hosts.iterdir()}
        assert hosts == {"52-54-00-00-00-01", "52-54-00-00-00-02"}

    in_world(story)


def test_a_document_without_secrets_keeps_those_that_are_set(in_world):
    async def story(world):
        await fill(world)
        text = world.administration.transfer.export(secrets=False)
        text = text.replace("[nodes.n00001]", "[nodes.login]").replace('tag.a = "ü"\n', "")
        done = await world.administration.transfer.import_document(text, where="x", dry_run=False)
        assert [item["key"] for item in done["changes"]] == ["name", "tag.a"]
        assert world.parts.registry.named("login").attributes["root_password"] == HASH
        assert world.parts.registry.scopes.groups["compute"] == {"root_password": HASH}
        assert world.parts.registry.scopes.capsules["x"] == {"root_password": HASH}

    in_world(story)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ('[nodes.a]\nhwaddrs = ["52:54:00:00:00:0a"]\naddress = "10.99.0.1"', "a: address: found"),
        ('[nodes.a]\nhwaddrs = ["52:54:00:00:00:0a"]\naddress = "10.87.0.101"',
         "a: address: 10.87.0.101 is the address of n00002"),
        ('[nodes.a]\nhwaddrs = ["52:54:00:00:00:0a"]\nvnfs = "none"',
         "a: vnfs: capsule none: not in the store"),
        ('[groups.g]\nvnfs = "none"', "group g: vnfs: capsule none: not in the store"),
        ('[groups.g]\nvnfs = "Big"', "x: groups.g.vnfs: reference 'Big'"),
    ],
)  # fmt: skip
def test_what_cannot_be_imported_changes_nothing(in_world, more, told):
    async def story(world):
        await fill(world)
        before = everything(world)
        text = world.administration.transfer.export(secrets=False).replace("ntp", "dns")
        with pytest.raises(InputError) as caught:
            await world.administration.transfer.import_document(
                f"{text}{more}\n", where="x", dry_run=False
            )
        assert told in str(caught.value)
        assert everything(world) == before

    in_world(story)


def test_names_are_exchanged_by_an_import(in_world):
    async def story(world):
        await fill(world)
        text = world.administration.transfer.export(secrets=False)
        swapped = (
            text.replace("nodes.n00001", "nodes.x")
            .replace("nodes.n00002", "nodes.n00001")
            .replace("nodes.x", "nodes.n00002")
        )
        await world.administration.transfer.import_document(swapped, where="x", dry_run=False)
        assert world.parts.registry.named("n00001").node_id == "52:54:00:00:00:02"
        assert world.parts.registry.named("n00002").node_id == "52:54:00:00:00:01"
        assert world.parts.registry.find(["52:54:00:00:00:02"]).name == "n00001"
        everything(world)

    in_world(story)
