"""Each node has an order of its own, and all together ask all servers alike."""

import itertools
from collections import Counter

from provisiond.agent.order import order_blobs, spread

SERVERS = ("https://10.0.0.1:8987", "https://10.0.0.2:8987", "http://mirror.example.org/blobs")
NODES = [f"52:54:00:00:{n >> 8:02x}:{n & 255:02x}" for n in range(6000)]


def test_the_same_node_has_the_same_order_however_the_servers_are_listed():
    for node in NODES[:50]:
        orders = {spread(servers, node) for servers in itertools.permutations(SERVERS)}
        assert len(orders) == 1
        assert sorted(orders.pop()) == sorted(SERVERS)


def test_over_many_nodes_each_order_is_as_frequent_as_any_other():
    orders = Counter(spread(SERVERS, node) for node in NODES)
    assert len(orders) == 6
    # 1000 each; by chance alone 29 off is usual, and five times as much does not happen.
    assert all(abs(count - 1000) < 150 for count in orders.values()), orders


def test_when_one_server_is_gone_all_others_get_as_many_of_its_nodes():
    first = [node for node in NODES if spread(SERVERS, node)[0] == SERVERS[0]]
    second = Counter(spread(SERVERS, node)[1] for node in first)
    assert abs(second[SERVERS[1]] - len(first) / 2) < len(first) / 10


def test_another_server_takes_nodes_and_moves_no_others():
    more = (*SERVERS, "http://new.example.org/blobs")
    moved = [node for node in NODES if spread(SERVERS, node)[0] != spread(more, node)[0]]
    assert {spread(more, node)[0] for node in moved} == {more[-1]}
    assert abs(len(moved) - len(NODES) / 4) < len(NODES) / 20


def test_near_servers_come_before_all_others():
    near = ("http://rack7/blobs", "http://rack8/blobs")
    found = {order_blobs((*near, *SERVERS), 2, node) for node in NODES[:200]}
    assert {frozenset(order[:2]) for order in found} == {frozenset(near)}
    assert len({order[:2] for order in found}) == 2
    assert all(sorted(order[2:]) == sorted(SERVERS) for order in found)


def test_who_is_listed_twice_is_asked_once():
    assert order_blobs(("a", "b", "a"), 1, "n") == ("a", "b")
    assert spread([], "n") == ()
