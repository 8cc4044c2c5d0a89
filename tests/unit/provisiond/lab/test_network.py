from ipaddress import IPv4Interface

from provisiond.lab.network import ADDRESS, RANGE, bridge_commands, tap_commands


def test_the_bridge_has_the_servers_address_and_forwards_at_once():
    assert bridge_commands(IPv4Interface("10.1.0.1/24"), "br7") == [
        "link set dev lo up",
        "link add name br7 type bridge stp_state 0 forward_delay 0",
        "address add 10.1.0.1/24 dev br7",
        "link set dev br7 up",
    ]


def test_a_tap_is_a_port_of_the_bridge():
    assert tap_commands("tap3", "br7") == [
        "tuntap add dev tap3 mode tap",
        "link set dev tap3 master br7",
        "link set dev tap3 up",
    ]


def test_the_range_is_on_the_network():
    first, last = RANGE.split("-")
    assert IPv4Interface(f"{first}/16").network == ADDRESS.network
    assert IPv4Interface(f"{last}/16").network == ADDRESS.network
