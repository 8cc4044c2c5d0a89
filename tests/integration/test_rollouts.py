"""Rollouts with a real daemon: many nodes over TLS, a failing one, and a daemon that is killed."""

import asyncio
import json
import os
import signal
import time

import pytest
from click.testing import CliRunner

from provisiond.cli import control
from provisiond.lab.simulate import run_phase
from provisiond.lab.simulate_node import Target, make_nodes
from provisiond.lab.simulate_server import Settings, open_server
from provisiond.lab.simulate_upgrade import follow_rollout

pytestmark = pytest.mark.integration

AT_ONCE = 50


def provisionctl(server, *words):
    done = CliRunner().invoke(
        control, ["--socket", str(server.directory / "sock"), *words], standalone_mode=False
    )
    assert done.exception is None, done.exception
    return done


async def make_ready(server, count):
    """Boot nodes with the first capsule, then bring a second one."""
    server.add_capsule()
    server.assign()
    nodes = list(make_nodes(count, Target(url=server.url, context=server.context())))
    for state in ("init", "booting", "ready"):
        phase = await run_phase(
            server, state, nodes, lambda node, state=state: node.say(state), at_once=AT_ONCE
        )
        assert not phase.errors
    await asyncio.to_thread(server.add_capsule, serial=2, promote=False)
    # In the order of their names, as they have their turn.
    order = [node["nodeId"] for node in server.client.get("/v1/nodes")]
    return sorted(nodes, key=lambda node: order.index(node.hwaddr))


def start(server, *words):
    done = provisionctl(
        server, "node", "upgrade", "n*", "--capsule", "simulated:2", "--yes", "--json", *words
    )
    return json.loads(done.stdout)


def status(server):
    return json.loads(provisionctl(server, "rollout", "status", "--json").stdout)


async def until(server, condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition(shown := await asyncio.to_thread(status, server)):
        assert time.monotonic() < deadline, shown["summary"]
        await asyncio.sleep(0.2)
    return shown


@pytest.mark.parametrize("count", [40, pytest.param(1000, marks=pytest.mark.long)])
def test_nodes_go_over_in_batches(tmp_path, count):
    with open_server(Settings(nodes=count, directory=tmp_path)) as server:
        server.start()

        async def story():
            nodes = await make_ready(server, count)
            started = await asyncio.to_thread(start, server, "--batch", "25%", "--when", "now")
            assert started["batchSize"] == count // 4
            faults = await follow_rollout(nodes)
            assert faults == []
            shown = await until(server, lambda shown: shown["state"] == "done")
            assert shown["counts"]["ready"] == count
            assert shown["number"] == 4
            listed = server.client.get("/v1/nodes")
            assert {node["capsule"] for node in listed} == {shown["digest"]}
            assert {node["attributes"]["vnfs"] for node in listed} == {
                f"simulated@{shown['digest']}"
            }
            for node in nodes:
                node.close()

        asyncio.run(story())


def test_a_failing_node_stops_it_and_the_exit_status_says_so(tmp_path):
    with open_server(Settings(nodes=8, directory=tmp_path)) as server:
        server.start()

        async def story():
            nodes = await make_ready(server, 8)
            waiting = asyncio.create_task(follow_rollout(nodes, failing=nodes[3]))
            done = await asyncio.to_thread(
                provisionctl, server, "node", "upgrade", "n*", "--capsule", "simulated:2",
                "--batch", "2", "--when", "now", "--yes", "--wait", "60",
            )  # fmt: skip
            assert done.return_value == 1, done.output
            assert "stopped: n" in done.stderr
            assert "memory: too little" in done.stderr
            shown = status(server)
            assert shown["counts"]["failed"] == 1
            assert shown["counts"]["ready"] in (2, 3)
            assert shown["counts"]["waiting"] >= 4
            waiting.cancel()
            table = provisionctl(server, "rollout", "status", "1").stdout
            assert "memory: too little" in table
            assert "rollout 1: simulated@" in table
            assert "stopped" in provisionctl(server, "rollout", "list").stdout
            events = json.loads(provisionctl(server, "events", "--json").stdout)
            assert "rollout.stopped" in [event["kind"] for event in events]

        asyncio.run(story())


def test_a_daemon_that_is_killed_goes_on_where_it_was(tmp_path):
    with open_server(Settings(nodes=12, directory=tmp_path)) as server:
        server.start()

        async def story():
            nodes = await make_ready(server, 12)
            await asyncio.to_thread(start, server, "--batch", "4", "--when", "now")
            told = asyncio.create_task(follow_rollout(nodes[:4]))
            await until(server, lambda shown: shown["counts"]["ready"] == 4)
            assert await told == []
            await until(server, lambda shown: shown["number"] == 2)
            os.kill(server.pid, signal.SIGKILL)
            server.stop()
            server.start()
            shown = status(server)
            assert (shown["state"], shown["number"]) == ("running", 2)
            assert (shown["counts"]["ready"], shown["counts"]["active"]) == (4, 4)
            assert await follow_rollout(nodes[4:]) == []
            shown = await until(server, lambda shown: shown["state"] == "done")
            assert shown["counts"]["ready"] == 12

        asyncio.run(story())
