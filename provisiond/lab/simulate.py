"""Nodes without machines go through all states of a boot, together, against a real server."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from provisiond.lab.simulate_node import FAILURES, Node, Target, make_nodes
from provisiond.lab.simulate_server import ThrowAway

Step = Callable[[Node], Awaitable[object]]
Tell = Callable[["Phase"], None]

QUIET_SECONDS = 0.5
QUIET_SHARE = 0.1
"""The server has nothing to do when it takes less of a processor than this."""
SETTLE_SECONDS = 120.0
SHOWN_ERRORS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What is simulated."""

    nodes: int
    at_once: int
    """How many requests are under way at a time; long polls do not count."""
    overlays: bool = True
    payloads: str = "first"
    """``none``, ``first`` (bytes of each payload), ``all``."""
    seconds: float = 30.0
    """How long nodes that are ready go on checking in."""
    checkin_seconds: int = 60
    keep: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """What all nodes did between two moments, and what that took."""

    name: str
    latencies: tuple[float, ...]
    """In seconds, sorted; of what was answered."""
    errors: tuple[str, ...]
    seconds: float
    cpu_seconds: float
    """Of the server."""
    memory_bytes: int
    """Of the server, at the end."""

    @property
    def count(self) -> int:
        """How many steps there were."""
        return len(self.latencies) + len(self.errors)

    def latency(self, share: float) -> float | None:
        """Return the latency that *share* of the steps did not exceed; none when there were none.

        0.5 is the median.
        """
        if not self.latencies:
            return None
        return self.latencies[min(len(self.latencies) - 1, int(share * len(self.latencies)))]


@dataclass(slots=True)
class _Tally:
    latencies: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


class Simulation:
    """The nodes of *wish* and the server that they talk to."""

    def __init__(self, server: ThrowAway, wish: Wish, tell: Tell) -> None:
        self._server = server
        self._wish = wish
        self._tell = tell
        target = Target(url=server.url, context=server.context(), keep=wish.keep)
        self._nodes = list(make_nodes(wish.nodes, target))

    async def run(self) -> list[Phase]:
        """Let the nodes do all that nodes do; return what each phase took."""
        wish = self._wish
        phases = [await self._phase("init", lambda node: node.say("init"))]
        phases += await self._wait_and_release()
        steps: list[tuple[str, Step]] = [("fetching", lambda node: node.say("fetching"))]
        if wish.overlays:
            steps.append(("overlay", Node.fetch_overlay))
        if wish.payloads != "none":
            whole = wish.payloads == "all"
            steps.append(("payloads", lambda node: node.fetch_payloads(whole=whole)))
        for state in ("booting", "ready"):
            steps.append((state, functools.partial(Node.say, state=state)))
        for name, step in steps:
            phases.append(await self._phase(name, step))
        if wish.seconds > 0:
            phases.append(await self._check_in())
        for node in self._nodes:
            node.close()
        # The loop closes sockets in its next turn.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return phases

    async def _wait_and_release(self) -> list[Phase]:
        """Let all hold long polls, then assign a capsule; each phase is told once it is over."""
        tally = _Tally()
        released = asyncio.get_running_loop().create_future()
        before, begun = self._server.usage(), time.monotonic()
        polls = [asyncio.create_task(_wait_for_boot(node, tally, released)) for node in self._nodes]
        await settle(self._server)
        usage, now = self._server.usage(), time.monotonic()
        waiting = Phase(
            name="waiting", latencies=(), errors=tuple(tally.errors), seconds=now - begun,
            cpu_seconds=usage.cpu_seconds - before.cpu_seconds, memory_bytes=usage.memory_bytes,
        )  # fmt: skip
        self._tell(waiting)
        tally.errors.clear()
        released.set_result(time.monotonic())
        await asyncio.to_thread(self._server.assign)
        await asyncio.gather(*polls)
        return [waiting, self._end("plans", tally, usage.cpu_seconds, now)]

    async def _phase(self, name: str, step: Step) -> Phase:
        phase = await run_phase(self._server, name, self._nodes, step, at_once=self._wish.at_once)
        self._tell(phase)
        return phase

    async def _check_in(self) -> Phase:
        """Let all check in at intervals, each at a moment of its own."""
        tally, cpu, begun = _Tally(), self._server.usage().cpu_seconds, time.monotonic()
        interval = float(self._wish.checkin_seconds)
        end = begun + self._wish.seconds

        async def live(node: Node, first: float) -> None:
            due = first
            while due < end:
                await asyncio.sleep(due - time.monotonic())
                await _measure(node, lambda node: node.say("ready"), tally)
                due += interval

        share = interval / len(self._nodes)
        await asyncio.gather(
            *(live(node, begun + number * share) for number, node in enumerate(self._nodes))
        )
        return self._end("check-ins", tally, cpu, begun)

    def _end(self, name: str, tally: _Tally, cpu_seconds: float, begun: float) -> Phase:
        phase = _make_phase(self._server, name, tally, cpu_seconds, begun)
        self._tell(phase)
        return phase


async def run_phase(
    server: ThrowAway, name: str, nodes: Sequence[Node], step: Step, *, at_once: int
) -> Phase:
    """Let all *nodes* take *step*, *at_once* at a time; return what that took of *server*."""
    tally, cpu, begun = _Tally(), server.usage().cpu_seconds, time.monotonic()
    gate = asyncio.Semaphore(at_once)

    async def do(node: Node) -> None:
        async with gate:
            await _measure(node, step, tally)

    await asyncio.gather(*map(do, nodes))
    return _make_phase(server, name, tally, cpu, begun)


async def settle(server: ThrowAway) -> None:
    """Return when *server* has nothing to do any more."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline:
        before = server.usage().cpu_seconds
        begun = time.monotonic()
        await asyncio.sleep(QUIET_SECONDS)
        spent = server.usage().cpu_seconds - before
        if spent < QUIET_SHARE * (time.monotonic() - begun):
            return


def _make_phase(
    server: ThrowAway, name: str, tally: _Tally, cpu_seconds: float, begun: float
) -> Phase:
    seconds, usage = time.monotonic() - begun, server.usage()
    return Phase(
        name=name,
        latencies=tuple(sorted(tally.latencies)),
        errors=tuple(tally.errors),
        seconds=seconds,
        cpu_seconds=usage.cpu_seconds - cpu_seconds,
        memory_bytes=usage.memory_bytes,
    )


async def _measure(node: Node, step: Step, tally: _Tally) -> None:
    begun = time.monotonic()
    try:
        await step(node)
    except FAILURES as error:
        tally.errors.append(str(error))
    else:
        tally.latencies.append(time.monotonic() - begun)


async def _wait_for_boot(node: Node, tally: _Tally, released: asyncio.Future[float]) -> None:
    """Let *node* wait; its latency counts from the moment when nodes were *released*."""
    try:
        await node.wait_for_boot()
        begun = await released
    except FAILURES as error:
        tally.errors.append(str(error))
    else:
        tally.latencies.append(time.monotonic() - begun)


def render_phases(phases: Sequence[Phase]) -> str:
    """Return *phases* as a table."""
    head = ("phase", "count", "errors", "p50 ms", "p99 ms", "slowest", "per s", "server CPU s",
            "CPU ms each", "server MB")  # fmt: skip
    rows = [head, *map(_row, phases)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    )


def phase_value(phase: Phase) -> dict[str, object]:
    """Return *phase* as a JSON object."""

    def milliseconds(share: float) -> float | None:
        found = phase.latency(share)
        return None if found is None else round(1000 * found, 1)

    return {
        "phase": phase.name,
        "count": phase.count,
        "errors": len(phase.errors),
        "firstErrors": list(phase.errors[:SHOWN_ERRORS]),
        "p50Milliseconds": milliseconds(0.5),
        "p99Milliseconds": milliseconds(0.99),
        "slowestMilliseconds": milliseconds(1.0),
        "seconds": round(phase.seconds, 2),
        "serverCpuSeconds": round(phase.cpu_seconds, 2),
        "serverMemoryBytes": phase.memory_bytes,
    }


def _row(phase: Phase) -> tuple[str, ...]:
    def shown(share: float) -> str:
        found = phase.latency(share)
        return "" if found is None else f"{1000 * found:.0f}"

    count = phase.count
    return (
        phase.name,
        str(count) if count else "",
        str(len(phase.errors)),
        shown(0.5),
        shown(0.99),
        shown(1.0),
        f"{count / phase.seconds:.0f}" if count else "",
        f"{phase.cpu_seconds:.2f}",
        f"{1000 * phase.cpu_seconds / count:.2f}" if count else "",
        f"{phase.memory_bytes / 1e6:.0f}",
    )
