"""What a check-in costs does not grow with the number of nodes."""

import asyncio
import os

from provisiond.nodes.leases import LeaseFile, find_next_end, parse_leases
from provisiond.nodes.model import find_node_name
from provisiond.nodes.watchers import Changed

LEASES = "200 02:00:00:00:00:01 10.0.0.1 * *\n0 02:00:00:00:00:02 10.0.0.2 * *\n"
FIRST = {"02:00:00:00:00:01": ("10.0.0.1",)}
SECOND = {"02:00:00:00:00:02": ("10.0.0.2",)}


def test_leases_are_worked_out_again_only_when_one_ends_or_the_file_changes(tmp_path):
    path = tmp_path / "leases"
    path.write_text(LEASES)
    leases = LeaseFile(path)
    found = leases.read(now=100)
    assert found == FIRST | SECOND
    assert leases.read(now=199.9) is found
    assert leases.read(now=200) == SECOND
    path.write_text(LEASES.replace("10.0.0.2", "10.0.0.3"))
    os.utime(path, ns=(1, 1))
    assert leases.read(now=201)["02:00:00:00:00:02"] == ("10.0.0.3",)


def test_a_clock_that_is_set_back_brings_leases_back(tmp_path):
    path = tmp_path / "leases"
    path.write_text(LEASES)
    leases = LeaseFile(path)
    assert leases.read(now=300) == SECOND
    assert leases.read(now=100) == FIRST | SECOND == parse_leases(LEASES, now=100)


def test_the_next_end_is_of_a_lease_that_counts():
    assert find_next_end(LEASES, now=100) == 200
    assert find_next_end(LEASES, now=200) == float("inf")
    assert find_next_end("", now=0) == float("inf")


def test_names_are_looked_for_where_one_may_be_free():
    class Taken:
        asked = 0

        def __contains__(self, name):
            self.asked += 1
            return name != "n8"

    taken = Taken()
    assert find_node_name("n#", 9, taken, first=7) == ("n8", 8)
    assert taken.asked == 2


def test_who_waits_is_woken_by_a_change_or_by_the_clock():
    async def run():
        loop, changed = asyncio.get_running_loop(), Changed()
        begun = loop.time()
        await changed.wait(0.05)
        assert loop.time() - begun >= 0.04
        assert not changed.is_set()
        loop.call_later(0.01, changed.set)
        await asyncio.wait_for(changed.wait(60), 5)
        await asyncio.wait_for(changed.wait(60), 5)
        changed.clear()
        assert not changed.is_set()
        await changed.wait(-1.0)

    asyncio.run(run())
