"""Names, addresses, attributes, and which nodes are meant."""

import pytest

from provisiond.nodes.model import make_node_name, parse_group_name, parse_node_name
from provisiond.nodes.values import parse_hwaddr
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


@pytest.mark.parametrize("text", ["", "@x", "a b", "a:b", "a&b", "a[1]", "x" * 65])
def test_what_a_selection_would_read_otherwise_is_no_name_of_a_group(text):
    with pytest.raises(InputError):
        parse_group_name(text)
