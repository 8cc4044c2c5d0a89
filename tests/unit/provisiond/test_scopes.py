"""Attributes are typed, and of what scopes say the strongest counts, or all of it adds up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisiond.nodes.attributes import (
    ATTRIBUTES,
    FAMILIES,
    GROUP,
    NODE,
    find_attribute,
    parse_attribute,
    parse_value,
    render_value,
    shown_value,
    verify_scope,
)
from provisiond.nodes.scopes import Effective, Scopes, resolve
from vnfsbuild.errors import InputError

HASH = "$6$saltsalt$0123456789abcdefghijklmnopqrstuvwxyz"


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("vnfs", "debian-13-minimal", "debian-13-minimal"),
        ("vnfs", f"x@sha256:{'0' * 64}", f"x@sha256:{'0' * 64}"),
        ("method", "pivot", "pivot"),
        ("enabled", "no", False),
        ("debug", "TRUE", True),
        ("address", "10.87.0.5", "10.87.0.5"),
        ("kernel_arguments", "console=ttyS1,9600  quiet", ("console=ttyS1,9600", "quiet")),
        ("kernel_arguments", "+quiet", ("+", "quiet")),
        ("kernel_arguments", " + a  b", ("+", "a", "b")),
        ("overlays", "slurm,munge", ("slurm", "munge")),
        ("overlays", "+slurm", ("slurm",)),
        ("dns", "10.0.0.1, fd00::1", ("10.0.0.1", "fd00::1")),
        ("root_password", HASH, HASH),
        ("timezone", "America/Argentina/Salta", "America/Argentina/Salta"),
        ("interface.eth1.address", "10.1.0.7/16", "10.1.0.7/16"),
        ("interface.eth0.100.vlan", "100", 100),
        ("interface.ib0.hwaddr", "00-11-22-33-44-55", "00:11:22:33:44:55"),
        ("interface.bond0.bond_mode", "802.3ad", "802.3ad"),
        ("interface.eth1.onboot", "off", False),
        ("tag.rack", "r 1, Süd", "r 1, Süd"),
        ("tag.a.b", "x", "x"),
        ("vnfs", "", None),
        ("kernel_arguments", "+", None),
    ],
)
def test_attributes_are_typed(key, text, value):
    assert parse_attribute(key, text) == value
    assert parse_attribute(key, render_value(value)) == value
    again = list(value) if isinstance(value, tuple) else "" if value is None else value
    assert parse_value(key, again) == value


@pytest.mark.parametrize(
    ("key", "text", "told"),
    [
        ("vnsf", "x", "attribute 'vnsf': not known; did you mean 'vnfs'?"),
        ("method", "disk", "attribute method: found 'disk', expected auto or kexec or pivot or"),
        ("enabled", "maybe", "attribute enabled: found 'maybe', expected true or false"),
        ("address", "10.87.0.500", "attribute address: found '10.87.0.500', expected an IPv4"),
        ("vnfs", "Big Name", "attribute vnfs: reference 'Big Name'"),
        ("kernel_arguments", "a\x07b", "attribute kernel_arguments: found"),
        ("overlays", "../x", "attribute overlays: found '../x', expected the name of an overlay"),
        ("interface.eth1.adress", "x", "attribute 'interface.eth1.adress': no field 'adress'; did "
         "you mean 'address'?"),
        ("interface.eth1.address", "10.1.0.7", "attribute interface.eth1.address: found"),
        ("interface.address", "x", "attribute 'interface.address': found the name ''"),
        ("interface.a/b.mtu", "9000", "attribute 'interface.a/b.mtu': found the name 'a/b'"),
        ("interface.eth1.vlan", "4095", "attribute interface.eth1.vlan: found '4095', expected 1"),
        ("tag.", "x", "attribute 'tag.': found the name ''"),
        ("interfaces.eth1.mtu", "1", "attribute 'interfaces.eth1.mtu': not known; did you mean"),
        ("syslog", "a b", "attribute syslog: found 'a b'"),
    ],
)  # fmt: skip
def test_values_that_cannot_be_are_told(key, text, told):
    with pytest.raises(InputError) as caught:
        parse_attribute(key, text)
    assert str(caught.value).startswith(told)


@pytest.mark.parametrize(
    ("key", "value"),
    [("dns", 3), ("dns", [3]), ("dns", True), ("method", ["kexec"]), ("vnfs", {"a": 1}),
     ("debug", 2), ("vnfs", None), ("kernel_arguments", ["a", ""])],
)  # fmt: skip
def test_values_of_another_type_are_told(key, value):
    with pytest.raises(InputError, match=f"attribute {key}: found"):
        parse_value(key, value)


def test_a_password_that_is_typed_instead_of_its_hash_is_not_shown():
    with pytest.raises(InputError) as caught:
        parse_attribute("root_password", "hunter2")
    assert "hunter2" not in str(caught.value)
    assert "openssl passwd" in caught.value.hint
    assert shown_value("root_password", HASH) == "set"
    assert shown_value("root_password", None) is None
    assert shown_value("vnfs", "x") == "x"


@pytest.mark.parametrize(
    ("key", "scope", "good"),
    [("vnfs", "group", True), ("vnfs", "capsule", False), ("address", "node", True),
     ("address", "group", False), ("interface.eth1.address", "defaults", False),
     ("interface.eth1.mtu", "defaults", True), ("tag.x", "capsule", True)],
)  # fmt: skip
def test_what_one_node_only_can_have_is_set_on_nodes_only(key, scope, good):
    if good:
        verify_scope(key, scope)
    else:
        with pytest.raises(InputError, match=f"attribute {key}: found it for {scope}, expected"):
            verify_scope(key, scope)


SCOPES = Scopes(
    defaults={"method": "pivot", "vnfs": "base", "dns": ("10.0.0.1",), "overlays": ("all",),
              "kernel_arguments": ("quiet",), "timezone": "UTC"},
    capsules={"base": {"timezone": "Europe/Berlin", "overlays": ("base", "chrony")},
              "gpu": {"timezone": "Asia/Tokyo", "console": ("ttyS1",)}},
    groups={
        "compute": {"vnfs": "gpu", "kernel_arguments": ("+", "nosmt"), "overlays": ("slurm",),
                    "dns": ("10.0.0.2",), "tag.rack": "r1"},
        "late": {"vnfs": "base", "dns": ("10.0.0.3",), "debug": True},
    },
)  # fmt: skip


def shown(own, groups, key):
    return resolve(own, groups, SCOPES).get(key)


@pytest.mark.parametrize(
    ("own", "groups", "key", "value", "origin"),
    [
        ({}, (), "bootstrap", "bootstrap", "built in"),
        ({}, (), "method", "pivot", "defaults"),
        ({"method": "kexec"}, ("compute",), "method", "kexec", "node"),
        ({}, (), "timezone", "Europe/Berlin", "capsule base"),
        ({}, ("compute",), "timezone", "Asia/Tokyo", "capsule gpu"),
        ({"vnfs": "gpu:7"}, (), "timezone", "Asia/Tokyo", "capsule gpu"),
        ({}, ("compute",), "console", ("ttyS1",), "capsule gpu"),
        # The first group named is the strongest.
        ({}, ("compute", "late"), "vnfs", "gpu", "group compute"),
        ({}, ("late", "compute"), "vnfs", "base", "group late"),
        ({}, ("late", "compute"), "dns", ("10.0.0.3",), "group late"),
        ({}, ("late", "compute"), "tag.rack", "r1", "group compute"),
        # Lists add up only when they say so; overlays always do.
        ({}, ("compute",), "dns", ("10.0.0.2",), "group compute"),
        ({}, ("compute",), "kernel_arguments", ("quiet", "nosmt"), "defaults, group compute"),
        ({"kernel_arguments": ("+", "x")}, ("compute",), "kernel_arguments",
         ("quiet", "nosmt", "x"), "defaults, group compute, node"),
        ({"kernel_arguments": ("x",)}, ("compute",), "kernel_arguments", ("x",), "node"),
        ({"console": ("+", "x")}, (), "console", ("x",), "node"),
        ({"overlays": ("own",)}, ("compute",), "overlays", ("all", "slurm", "own"),
         "defaults, group compute, node"),
        # Of one that is named twice the stronger place counts.
        ({"overlays": ("all",)}, ("late",), "overlays", ("base", "chrony", "all"),
         "defaults, capsule base, node"),
        ({}, ("gone",), "timezone", "Europe/Berlin", "capsule base"),
    ],
)  # fmt: skip
def test_the_value_that_counts_says_where_it_was_set(own, groups, key, value, origin):
    assert shown(own, groups, key) == Effective(value=value, origin=origin)


def test_all_attributes_are_there_and_what_is_set_of_families():
    own = {"interface.eth1.address": "10.1.0.7/16", "interface.eth1.mtu": 9000, "tag.a.b": "x"}
    attributes = resolve(own, ("compute",), SCOPES)
    assert set(attributes) == {*ATTRIBUTES, *own, "tag.rack"}
    assert len(attributes) == len(set(attributes))
    assert attributes.family("interface") == {"eth1": {"address": "10.1.0.7/16", "mtu": 9000}}
    assert attributes.family("tag") == {"a.b": {"": "x"}, "rack": {"": "r1"}}
    assert attributes.value("tag.none") is None


WORDS = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3).map(tuple)
LISTS = st.one_of(WORDS, WORDS.map(lambda items: ("+", *items)))


@given(st.lists(LISTS, max_size=5))
def test_an_added_list_is_what_follows_the_last_one_that_replaces(layers):
    """A model of the rule that is written the other way around."""
    groups = {f"g{n}": {"kernel_arguments": value} for n, value in enumerate(layers)}
    names = tuple(reversed(groups))
    found = resolve({}, names, Scopes(groups=groups))["kernel_arguments"].value
    replacing = [n for n, value in enumerate(layers) if value[0] != "+"]
    counted = layers[replacing[-1] if replacing else 0 :]
    assert found == tuple(item for value in counted for item in value if item != "+")


def test_every_attribute_of_the_table_is_sound():
    for key, attribute in ATTRIBUTES.items():
        assert find_attribute(key) is attribute
        assert attribute.meaning[-1] != "."
        assert NODE in attribute.scopes
        assert (attribute.default == ()) == attribute.is_list
        assert GROUP in attribute.scopes or attribute.scopes == {NODE}
    assert not set(FAMILIES) & set(ATTRIBUTES)
