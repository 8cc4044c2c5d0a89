"""``provisionctl simulate``: nodes without machines go through all states."""

import asyncio
import json

import pytest
from click.testing import CliRunner

from provisiond.cli import control
from provisiond.lab.simulate import Simulation, Wish
from provisiond.lab.simulate_node import NodeError, Target, make_nodes
from provisiond.lab.simulate_server import Settings, open_server

pytestmark = pytest.mark.integration

NODES = 20


def test_twenty_nodes_go_through_all_states(tmp_path):
    done = CliRunner().invoke(control, [
        "simulate", "--nodes", str(NODES), "--seconds", "1.5", "--checkin-seconds", "1",
        "--payloads", "all", "--payload-mib", "1", "--directory", str(tmp_path), "--json",
    ], standalone_mode=False)  # fmt: skip
    assert done.exception is None, done.exception
    assert done.return_value == 0, done.output
    found = json.loads(done.stdout)
    phases = {phase["phase"]: phase for phase in found["phases"]}
    assert found["ready"] == NODES
    assert list(phases) == [
        "init", "waiting", "plans", "fetching", "overlay", "payloads", "booting", "ready",
        "check-ins",
    ]  # fmt: skip
    for name, phase in phases.items():
        assert phase["errors"] == 0
        assert phase["count"] == {"waiting": 0, "check-ins": 2 * NODES}.get(name, NODES) or (
            name == "check-ins" and NODES <= phase["count"] <= 2 * NODES
        )
    assert list(tmp_path.iterdir()) == [], "something was left behind"


def test_every_check_of_the_server_is_made(tmp_path):
    """A simulated node is no better than another: from another's address it is refused."""
    with open_server(Settings(nodes=2, directory=tmp_path)) as server:
        server.start()
        server.add_capsule()

        async def ask():
            target = Target(url=server.url, context=server.context())
            first, second = make_nodes(2, target)
            await first.say("init")
            first._wire._source = second._wire._source
            with pytest.raises(NodeError, match="expected 127"):
                await first.say("fetching")
            await asyncio.sleep(0.01)

        asyncio.run(ask())


def test_what_goes_wrong_is_counted_and_told(tmp_path):
    told = []
    with open_server(Settings(nodes=3, directory=tmp_path)) as server:
        server.start()
        server.add_capsule()
        wish = Wish(nodes=3, at_once=2, seconds=0)
        simulation = Simulation(server, wish, told.append)
        # A node that asks from the address of another is refused.
        simulation._nodes[0]._wire._source = simulation._nodes[1]._wire._source

        async def run():
            return await simulation.run()

        phases = asyncio.run(asyncio.wait_for(run(), 30))
    assert phases == told
    assert len(phases[0].errors) == 1
    assert "expected 127" in phases[0].errors[0]
