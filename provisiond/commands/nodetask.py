"""``provisionctl node reboot``, ``poweroff`` and ``run``: what running nodes do once."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import click

from provisiond.client import Client
from provisiond.commands.context import Context
from provisiond.commands.telling import SOME_NODES, YES, ask, get_nodes, tell
from vnfsbuild.errors import InputError

NO = 4
"""The exit status when a node did not do it."""
POLL_SECONDS = 1.0
OPEN = ("waiting", "running")
ALL = click.option("--all", "every_node", is_flag=True, help="All nodes are meant.")


@click.command()
@SOME_NODES
@ALL
@YES
@click.pass_obj
def reboot(context: Context, nodes: Sequence[str], every_node: bool, yes: bool) -> None:
    """Let running nodes reboot: they stop in order, and boot what they are assigned."""
    _leave(context, "reboot", "Reboot {count} nodes?", nodes, every_node=every_node, yes=yes)


@click.command()
@SOME_NODES
@ALL
@YES
@click.pass_obj
def poweroff(context: Context, nodes: Sequence[str], every_node: bool, yes: bool) -> None:
    """Let running nodes stop in order, and power off."""
    _leave(context, "poweroff", "Power off {count} nodes?", nodes, every_node=every_node, yes=yes)


@click.command()
@click.argument("phase", metavar="PHASE")
@SOME_NODES
@ALL
@click.option(
    "--timeout",
    "timeout_seconds",
    type=click.IntRange(1, 86400),
    default=600,
    show_default=True,
    metavar="SECONDS",
    help="How long each script may take.",
)
@click.option(
    "--wait",
    "wait_seconds",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Wait so long for the end, and show it; exit status 4 when one failed.",
)
@click.pass_context
def run(
    ctx: click.Context,
    phase: str,
    nodes: Sequence[str],
    every_node: bool,
    timeout_seconds: int,
    wait_seconds: float | None,
) -> None:
    """Let running nodes run the scripts of /etc/vnfs/PHASE.d once, in order, until one fails."""
    context: Context = ctx.obj
    client = context.client()
    more = {"phase": phase, "timeoutSeconds": timeout_seconds}
    given = _give(client, "run", nodes, every_node=every_node, more=more)
    if wait_seconds is None:
        tell(given, f"run {phase}")
    elif not _wait(client, given, wait_seconds):
        ctx.exit(NO)


def _leave(
    context: Context, kind: str, question: str, nodes: Sequence[str], *, every_node: bool, yes: bool
) -> None:
    client = context.client()
    if not yes:
        _verify_named(kind, nodes, every_node=every_node)
        found = get_nodes(client, [] if every_node else nodes)
        ask(question.format(count=len(found)), yes=yes)
    tell(_give(client, kind, nodes, every_node=every_node, more={}), kind)


def _give(
    client: Client,
    kind: str,
    nodes: Sequence[str],
    *,
    every_node: bool,
    more: Mapping[str, Any],
) -> Any:
    _verify_named(kind, nodes, every_node=every_node)
    value = {"kind": kind, "nodes": list(nodes), "all": every_node, **more}
    given = client.post("/v1/nodes/task", value)
    for name in given["notReady"]:
        click.echo(f"warning: {name}: not ready any more, and left as it is", err=True)
    return {**given, "nodes": [name for name in given["nodes"] if name not in given["notReady"]]}


def _verify_named(kind: str, nodes: Sequence[str], *, every_node: bool) -> None:
    if bool(nodes) == every_node:
        found = "nodes and --all" if every_node else "no nodes"
        raise InputError(f"node {kind}: found {found}", hint="name the nodes, or say --all")


def _wait(client: Client, given: Mapping[str, Any], wait_seconds: float) -> bool:
    """Show the end of the task on each node as it comes; tell whether all did well in time."""
    deadline = time.monotonic() + wait_seconds
    left, good = set(given["nodes"]), True
    while left:
        for item in get_nodes(client, sorted(left)):
            task = item["task"] or {}
            if task.get("id") == given["task"] and task["state"] in OPEN:
                continue
            left.discard(item["name"])
            # Of another id: somebody gave it the next one already, its end is in the events.
            state = task["state"] if task.get("id") == given["task"] else "unknown"
            good = good and state == "done"
            for line in (task.get("detail") or "").splitlines() or [""]:
                click.echo(f"{item['name']}: {state}" + (f": {line}" if line else ""))
        if time.monotonic() >= deadline:
            break
        if left:
            time.sleep(POLL_SECONDS)
    for name in sorted(left):
        click.echo(f"{name}: not done within {wait_seconds:g} s; node show tells how far", err=True)
    return good and not left
