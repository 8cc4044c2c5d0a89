"""What the node server does for many nodes: check-ins, plans, overlays, memory.

Server and load run on one machine; the figure that counts is what the server took of a processor.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import Figure
from provisiond.lab.simulate import FAILURES, Phase, run_phase, settle
from provisiond.lab.simulate_node import Node, Target, make_address, make_hwaddr, make_nodes
from provisiond.lab.simulate_server import Settings, ThrowAway, open_server
from provisiond.nodes.database import NodeDatabase
from provisiond.nodes.model import BY_ADMINISTRATOR
from provisiond.nodes.model import Node as KnownNode

KNOWN = 10_000
AT_ONCE = 16
BURST = 1024
PLANS = 2000
OVERLAYS = 1000
KEPT_ROUNDS = 3
STEADY_SECONDS = 20
CHECKIN_SECONDS = 300
"""Long, so that no node counts as dead while others are measured."""


def measure(work: Path, known: int = KNOWN) -> list[Figure]:
    """Measure with *known* nodes, each part on a server of its own."""
    parts: tuple[Callable[[ThrowAway, int], Coroutine[Any, Any, list[Figure]]], ...] = (
        _checkins, _kept, _bursts, _plans, _overlays, _long_polls,
    )  # fmt: skip
    figures = []
    for part in parts:
        settings = Settings(nodes=known, checkin_seconds=CHECKIN_SECONDS, directory=work)
        with open_server(settings) as server:
            _add_known(server, known)
            server.start()
            server.add_capsule()
            server.assign()
            found = asyncio.run(part(server, known))
        for figure in found:
            print("  ", figure.name, dict(figure.facts), flush=True)
        figures += found
    return figures


def _add_known(server: ThrowAway, count: int) -> None:
    """Put nodes into the database, as an administrator added and approved them."""
    server.state.database.parent.mkdir()
    database = NodeDatabase(server.state.database)
    width = max(4, len(str(count)))
    database.save_nodes(
        KnownNode(
            node_id=make_hwaddr(number),
            name=f"n{number + 1:0{width}d}",
            hwaddrs=(make_hwaddr(number),),
            approved_by=BY_ADMINISTRATOR,
            address=make_address(number),
            created=1_700_000_000,
        )
        for number in range(count)
    )
    database.close()


async def _checkins(server: ThrowAway, known: int) -> list[Figure]:
    nodes = _nodes(server, known)
    said = []
    for name, state in (
        ("the first of a boot, each durable", "booting"),
        ("another state, each durable", "ready"),
        ("ready as before, written within 10 s", "ready"),
    ):
        phase = await run_phase(server, name, nodes, _say(state), at_once=AT_ONCE)
        said.append(phase)
    worst = min(_per_cpu(phase) for phase in said)
    p99 = max(_milliseconds(phase) for phase in said)
    memory = server.usage()
    figures = [_row(f"check-ins by new TLS connections, {known} nodes", phase) for phase in said]
    return [
        *figures,
        _goal("check-ins/s per core of server CPU, new connections", worst, 400, "≥"),
        _goal("p99 of these, ms", p99, 250, "<"),
        _goal(f"MB, {known} nodes checking in", memory.peak_bytes / 1e6, 200, "≤"),
        *_errors(said),
    ]


async def _kept(server: ThrowAway, known: int) -> list[Figure]:
    nodes = _nodes(server, min(known, 500), keep=True)
    said = [await run_phase(server, "first", nodes, _say("ready"), at_once=AT_ONCE)]

    async def again(node: Node) -> None:
        for _ in range(20):
            await node.say("ready")

    for number in range(KEPT_ROUNDS):
        phase = await run_phase(server, f"round {number}", nodes, again, at_once=AT_ONCE)
        said.append(phase)
    for node in nodes:
        node.close()
    best = sorted(20 * _per_cpu(phase) for phase in said[1:])[KEPT_ROUNDS // 2]
    return [
        _goal("check-ins/s per core of server CPU, kept connections", best, 3000, "≥"),
        *_errors(said),
    ]


async def _bursts(server: ThrowAway, known: int) -> list[Figure]:
    count = min(known, BURST)
    nodes = _nodes(server, count)
    said = []
    for number, state in enumerate(("booting", "ready", "ready")):
        name = f"time {number + 1}"
        said.append(await run_phase(server, name, nodes, _say(state), at_once=count))
    slowest = max(phase.latency(1.0) or 0.0 for phase in said)
    return [
        *[_row(f"{count} clients at once", phase) for phase in said],
        _goal(f"{count} clients at once, three times: s to the last", slowest, 10, "≤"),
        *_errors(said),
    ]


async def _plans(server: ThrowAway, known: int) -> list[Figure]:
    """Power comes back: all ask for a plan, as firmware lets them, and each for its node key."""
    count = min(known, PLANS)
    phase = await run_phase(server, "init", _nodes(server, count), _say("init"), at_once=count)
    return [
        _row(f"{count} plans at once", phase),
        _told(f"{count} plans at once: s to the last", phase.seconds),
        *_errors([phase]),
    ]


async def _overlays(server: ThrowAway, known: int) -> list[Figure]:
    """Plans with overlays are given, and the overlays fetched."""
    count = min(known, OVERLAYS)
    nodes = _nodes(server, count)
    before = server.usage()
    planned = await run_phase(server, "plans", nodes, _say("init"), at_once=AT_ONCE)
    fetched = await run_phase(server, "overlays", nodes, Node.fetch_overlay, at_once=AT_ONCE)
    after = server.usage()
    return [
        _row(f"overlays of {count} nodes", planned),
        _row(f"overlays of {count} nodes", fetched),
        _goal(f"overlays of {count} nodes rendered, CPU s, their check-ins among them",
              planned.cpu_seconds, 3, "≤"),
        _goal("MB kept for these, sessions among them",
              (after.memory_bytes - before.memory_bytes) / 1e6, 30, "≤"),
        *_errors([planned, fetched]),
    ]  # fmt: skip


async def _long_polls(server: ThrowAway, known: int) -> list[Figure]:
    """All wait: no capsule may be had, since all nodes are disabled."""
    server.client.post(
        "/v1/settings/set",
        {"scope": "defaults", "subjects": [""], "values": {"enabled": "false"}},
    )
    nodes = _nodes(server, known)
    said = await run_phase(server, "init", nodes, _say("init"), at_once=AT_ONCE)
    errors: list[str] = []

    async def poll(node: Node) -> None:
        try:
            await node.say("init", wait_seconds=300)
        except FAILURES as error:
            errors.append(str(error))

    polls = []
    for number in range(0, known, AT_ONCE):
        polls += [asyncio.create_task(poll(node)) for node in nodes[number : number + AT_ONCE]]
        await asyncio.sleep(0.02)
    await settle(server)
    # What their handshakes needed is given back to the kernel every few seconds.
    await asyncio.sleep(STEADY_SECONDS)
    memory, under_way = server.usage(), sum(not task.done() for task in polls)
    for task in polls:
        task.cancel()
    await asyncio.gather(*polls, return_exceptions=True)
    return [
        _goal(f"MB, {under_way} nodes on long polls", memory.memory_bytes / 1e6, 500, "≤"),
        *_errors([said]),
        *([_told("errors among these", float(len(errors)))] if errors else []),
    ]


def _nodes(server: ThrowAway, count: int, *, keep: bool = False) -> list[Node]:
    target = Target(url=server.url, context=server.context(), keep=keep)
    return list(make_nodes(count, target))


def _say(state: str) -> Callable[[Node], Coroutine[Any, Any, object]]:
    return lambda node: node.say(state)


def _per_cpu(phase: Phase) -> float:
    return len(phase.latencies) / max(phase.cpu_seconds, 0.01)


def _milliseconds(phase: Phase) -> float:
    return 1000 * (phase.latency(0.99) or 0.0)


def _row(group: str, phase: Phase) -> Figure:
    return Figure(
        group=group,
        name=phase.name,
        facts={
            "count": phase.count,
            "errors": len(phase.errors),
            "seconds": round(phase.seconds, 2),
            "p50Ms": round(1000 * (phase.latency(0.5) or 0.0)),
            "p99Ms": round(_milliseconds(phase)),
            "serverCpuSeconds": round(phase.cpu_seconds, 2),
            "perCpuSecond": round(_per_cpu(phase)),
        },
    )


def _goal(name: str, measured: float, goal: float, relation: str) -> Figure:
    reached = measured >= goal if relation == "≥" else measured <= goal
    return Figure(
        group="goals",
        name=name,
        facts={
            "measured": round(measured, 1),
            "goal": f"{relation} {goal:g}",
            "reached": "yes" if reached else "NO",
        },
    )


def _told(name: str, measured: float) -> Figure:
    return Figure(group="goals", name=name, facts={"measured": round(measured, 2)})


def _errors(phases: Sequence[Phase]) -> list[Figure]:
    """Return a row that says what was not answered, if anything was not."""
    found = [error for phase in phases for error in phase.errors]
    if not found:
        return []
    return [
        Figure(
            group="goals",
            name=f"not answered: {found[0]:.60}",
            facts={"measured": len(found), "goal": "0", "reached": "NO"},
        )
    ]
