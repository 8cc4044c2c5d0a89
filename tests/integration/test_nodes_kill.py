"""``kill -9`` of the node server during a thousand changes.

Nothing that was acknowledged is lost, and nothing is half-written: of a change of many nodes all
of it is there or nothing.
"""

import os
import random
import signal
import time

import pytest

from provisiond.lab.simulate_server import Settings, open_server
from provisiond.nodes.database import NodeDatabase
from vnfsbuild.errors import VnfsbuildError

pytestmark = pytest.mark.integration

CHANGES = 1000
NODES = 12
FIRST_KILLS = (0.2, 1.2)
"""Between how many seconds after a start the server is killed."""


class Truth:
    """What was acknowledged, and the one change that was under way when the server died."""

    def __init__(self):
        self.tags = {}
        self.groups = {}
        self.acknowledged = 0

    def change(self, client, number):
        """Make change *number*; what it does depends on the number alone."""
        if number % 5 == 4:
            group = f"g{number % 7}"
            client.post("/v1/settings/set", {
                "scope": "group", "subjects": [group],
                "values": {"tag.first": str(number), "tag.second": str(number)},
            })  # fmt: skip
            self.groups[group] = number
        else:
            # One change of all nodes: they must never differ.
            client.post("/v1/nodes/set", {
                "key": f"tag.t{number % 3}", "value": str(number), "nodes": ["*"],
            })  # fmt: skip
            self.tags[f"tag.t{number % 3}"] = number
        self.acknowledged += 1

    def verify(self, database, under_way):
        """Compare with what is on the disk; *under_way* was not acknowledged: it may be there."""
        stored = database.load()
        assert len(stored.nodes) == NODES
        for key, number in self.tags.items():
            found = {node.attributes.get(key) for node in stored.nodes.values()}
            assert len(found) == 1, f"{key}: half of a change: {found}"
            assert found <= {str(number), str(under_way)}, f"{key}: {number} was acknowledged"
        for group, number in self.groups.items():
            held = stored.scopes.groups[group]
            found = {held.get("tag.first"), held.get("tag.second")}
            assert len(found) == 1, f"{group}: half of a change: {found}"
            assert found <= {str(number), str(under_way)}, f"{group}: {number} was acknowledged"


def prepare(server):
    server.start()
    for number in range(NODES):
        server.client.post("/v1/nodes", {"hwaddr": f"52:54:00:00:01:{number:02x}"})
    for number in range(7):
        server.client.post("/v1/groups", {"name": f"g{number}"})


def change_until_dead(server, truth, number, *, seconds):
    """Make changes until the server is killed; return the number of the first not acknowledged."""
    deadline = time.monotonic() + seconds
    pid = server.pid
    child = os.fork()
    if child == 0:
        time.sleep(max(0.0, deadline - time.monotonic()))
        os.kill(pid, signal.SIGKILL)
        os._exit(0)
    try:
        while number < CHANGES:
            truth.change(server.client, number)
            number += 1
    except (VnfsbuildError, OSError):
        pass  # it is dead
    os.waitpid(child, 0)
    return number


def test_nothing_acknowledged_is_lost_and_nothing_half_written(tmp_path):
    chance, truth, number, kills = random.Random(5), Truth(), 0, 0
    with open_server(Settings(nodes=NODES, directory=tmp_path)) as server:
        prepare(server)
        while number < CHANGES:
            reached = change_until_dead(server, truth, number, seconds=chance.uniform(*FIRST_KILLS))
            kills += 1
            server.stop()
            database = NodeDatabase(server.state.database)
            truth.verify(database, under_way=reached)
            database.close()
            number = reached + 1
            server.start()
        assert {node["name"] for node in server.client.get("/v1/nodes")} == {
            f"n{number + 1:04d}" for number in range(NODES)
        }
    assert truth.acknowledged + kills >= CHANGES
    assert kills >= 3, "the server was too fast to be killed in the midst"
