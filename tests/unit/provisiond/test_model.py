"""Names, addresses, attributes, and which nodes are meant."""

import pytest

from provisiond.model import (
    Node,
    effective_attributes,
    make_node_name,
    parse_attribute,
    parse_hwaddr,
    parse_node_name,
)
from provisiond.selection import select_nodes
from vnfsbuild.errors import InputError


@pytest.mark.parametrize(
    ("pattern", "total", "name"),
    [
        ("n####", 10000, "n00001"),
        ("n####", 9999, "n0001"),
        ("n#", 9, "n1"),
        ("node-###", 64, "node-001"),
    ],
)
def test_a_name_is_as_wide_as_its_pattern_or_the_total(pattern, total, name):
    assert make_node_name(pattern, total, set()) == name


def test_the_lowest_free_name_is_taken():
    assert make_node_name("n#", 9, {"n1", "n2", "n4", "login"}) == "n3"
    with pytest.raises(InputError, match="all 2 of n# are taken"):
        make_node_name("n#", 2, {"n1", "n2"})


@pytest.mark.parametrize("text", ["52:54:00:AB:CD:01", "52-54-00-ab-cd-01", " 52:54:00:ab:cd:01 "])
def test_hardware_addresses_are_written_one_way(text):
    assert parse_hwaddr(text) == "52:54:00:ab:cd:01"


@pytest.mark.parametrize("text", ["", "52:54:00:ab:cd", "52:54:00:ab:cd:zz", "../../etc/passwd"])
def test_what_is_no_hardware_address_is_refused(text):
    with pytest.raises(InputError, match="expected a hardware address"):
        parse_hwaddr(text)


@pytest.mark.parametrize("text", ["", "N1", "n1.example", "-n", "n_1", "n" * 64, "n\n"])
def test_what_is_no_host_name_is_refused(text):
    with pytest.raises(InputError):
        parse_node_name(text)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("vnfs", "debian-13-minimal", "debian-13-minimal"),
        ("vnfs", f"x@sha256:{'0' * 64}", f"x@sha256:{'0' * 64}"),
        ("method", "pivot", "pivot"),
        ("enabled", "no", False),
        ("debug", "TRUE", True),
        ("address", "10.87.0.5", "10.87.0.5"),
        ("kernel_arguments", "console=ttyS1  quiet", ["console=ttyS1", "quiet"]),
        ("vnfs", "", None),
    ],
)
def test_attributes_are_typed(key, text, value):
    assert parse_attribute(key, text) == value


@pytest.mark.parametrize(
    ("key", "text", "told"),
    [
        ("vnsf", "x", "attribute 'vnsf': not known; did you mean 'vnfs'?"),
        ("method", "local", "attribute method: found 'local', expected kexec or pivot"),
        ("enabled", "maybe", "attribute enabled: found 'maybe', expected true or false"),
        ("address", "10.87.0.500", "attribute address: found '10.87.0.500', expected an IPv4"),
        ("vnfs", "Big Name", "attribute vnfs: reference 'Big Name'"),
        ("kernel_arguments", "a\nb", "attribute kernel_arguments: found"),
    ],
)
def test_values_that_cannot_be_are_told(key, text, told):
    with pytest.raises(InputError) as caught:
        parse_attribute(key, text)
    assert str(caught.value).startswith(told)


def test_the_value_that_counts_says_where_it_was_set():
    node = Node(node_id="a", name="n1", hwaddrs=("a",), attributes={"method": "pivot"})
    effective = effective_attributes(node)
    assert (effective["method"].value, effective["method"].origin) == ("pivot", "node")
    assert (effective["bootstrap"].value, effective["bootstrap"].origin) == ("bootstrap", "default")


KNOWN = ["n00001", "n00002", "n00010", "login"]


@pytest.mark.parametrize(
    ("expressions", "found", "missing"),
    [
        (["n00001"], ["n00001"], []),
        (["n0000[1-3]"], ["n00001", "n00002"], ["n00003"]),
        (["n000[01-10]"], ["n00001", "n00002", "n00010"], [f"n0000{n}" for n in range(3, 10)]),
        (["*"], sorted(KNOWN), []),
        (["n0000?", "login"], ["login", "n00001", "n00002"], []),
        (["login,n00010"], ["login", "n00010"], []),
        (["n00001", "n00001"], ["n00001"], []),
    ],
)
def test_ranges_and_patterns(expressions, found, missing):
    selection = select_nodes(expressions, KNOWN)
    assert list(selection.found) == found
    assert list(selection.missing) == missing


@pytest.mark.parametrize(
    ("expressions", "told"),
    [
        (["logn"], "nodes: found no node logn; did you mean 'login'?"),
        (["x[1-9]"], "nodes: found no node x1, x2, x3, …"),
        (["z*"], "nodes: found no node z*"),
        (["n[1-"], "nodes 'n[1-'"),
        (["@all"], "nodes"),
        ([], "nodes: found no node nothing"),
    ],
)
def test_naming_no_node_is_an_error(expressions, told):
    with pytest.raises(InputError) as caught:
        select_nodes(expressions, KNOWN)
    assert str(caught.value).startswith(told)
