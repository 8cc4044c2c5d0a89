"""Nodes without machines take part in a rollout: they say what an agent would say."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from provisiond.lab.simulate_node import FAILURES, Node
from provisiond.planned import NextReport
from provisiond.protocol import MAX_WAIT_SECONDS

BOOT_SECONDS = 0.2
"""Between the last word of the old system and the first of the new one."""


async def go_over(node: Node, *, fails: str = "") -> None:
    """Let *node*, which is ready, wait until it is told to go over, and do so.

    With *fails* it says that instead, as a node does that cannot.

    Raises:
        NodeError: refused.
        WireError: not answered.
    """
    planned = node.plan.next
    while planned is None:
        planned = (await node.say("ready", wait_seconds=MAX_WAIT_SECONDS)).next
    digest = planned.capsule.digest
    state = "failed" if fails else "fetched"
    report = NextReport(digest, state, fails, planned.attempt)
    held = (await node.say("ready", report=report)).next
    while not fails and held is not None and held.attempt == planned.attempt:
        if held.go:
            await node.say("booting", runs=digest)
            await asyncio.sleep(BOOT_SECONDS)
            await node.say("ready", runs=digest)
            return
        held = (await node.say("ready", wait_seconds=MAX_WAIT_SECONDS, report=report)).next


async def follow_rollout(nodes: Sequence[Node], failing: Node | None = None) -> list[str]:
    """Let *nodes* go over as they are told; return what went wrong.

    *failing* cannot. Those that never have their turn wait until this is cancelled.
    """

    async def live(node: Node) -> str:
        try:
            await go_over(node, fails="memory: too little" if node is failing else "")
        except FAILURES as error:
            return f"{node.hwaddr}: {error}"
        return ""

    told = await asyncio.gather(*map(live, nodes))
    return [fault for fault in told if fault]
