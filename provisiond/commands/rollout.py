"""``provisionctl node upgrade`` and ``rollout``: running nodes go over to another capsule."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import click

from provisiond.client import Client
from provisiond.commands.context import Context
from provisiond.commands.nodestatus import NO, render_since
from provisiond.commands.telling import JSON, NODES, YES, confirm, warn_missing
from vnfsbuild.digest import short
from vnfsbuild.listing import render_document, render_table

FAILED = 1
EVENT_WAIT_SECONDS = 5
LEAST_PAUSE_SECONDS = 0.5
KINDS = ("rollout.batch", "rollout.stopped", "rollout.resumed", "rollout.done", "node.state")

WAIT = click.option(
    "--wait", "wait_seconds", type=click.FloatRange(min=0), metavar="SECONDS",
    help="Wait so long for its end; exit status 1 when it stops, 4 when it is not done.",
)  # fmt: skip
NUMBER = click.argument("number", type=click.IntRange(min=1), required=False)


@click.command()
@NODES
@click.option("--capsule", "reference", metavar="REF", required=True,
              help="What they go over to; its digest is settled now.")  # fmt: skip
@click.option("--batch", default="10%", show_default=True, metavar="SIZE",
              help="How many at a time: a share of the nodes, or a number.")  # fmt: skip
@click.option("--when", type=click.Choice(["idle", "now"]), default="idle", show_default=True,
              help="idle: as the drain scripts of each node say.")  # fmt: skip
@WAIT
@YES
@JSON
@click.pass_context
def upgrade(
    ctx: click.Context,
    nodes: Sequence[str],
    reference: str,
    batch: str,
    when: str,
    wait_seconds: float | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Let running nodes go over to another capsule, without their firmware, in batches.

    They fetch what they lack of it beside their work, verify it, and start its kernel. It stops at
    the first batch in which a node fails; that node boots again what it ran. 'rollout status' shows
    how far it is.
    """
    context: Context = ctx.obj
    client = context.client()
    confirm(client, nodes, f"Let {{count}} nodes go over to {reference}?", yes=yes)
    value = {"nodes": list(nodes), "capsule": reference, "batch": batch, "when": when}
    started = client.post("/v1/rollouts", value)
    warn_missing(started["missing"])
    _finish(ctx, client, started, wait_seconds, as_json=as_json)


@click.group()
def rollout() -> None:
    """Rollouts: nodes that go over to another capsule, batch after batch.

    'provisionctl node upgrade' begins one.
    """


@rollout.command(name="list")
@JSON
@click.pass_obj
def list_(context: Context, as_json: bool) -> None:
    """List rollouts, and how far they are."""
    found = context.client().get("/v1/rollouts")
    if as_json:
        click.echo(render_document(found))
        return
    header = ("ID", "STATE", "CAPSULE", "NODES", "BATCH", "WHEN", "SINCE", "RESULT")
    now = time.time()
    rows = [
        (
            str(item["id"]),
            item["state"],
            f"{item['capsule']}@{short(item['digest'])}",
            str(item["nodes"]),
            item["batch"],
            item["when"],
            render_since(now - item["created"]),
            item["reason"] or item["summary"],
        )
        for item in found
    ]
    click.echo(render_table(header, rows))


@rollout.command()
@NUMBER
@WAIT
@JSON
@click.pass_context
def status(
    ctx: click.Context, number: int | None, wait_seconds: float | None, as_json: bool
) -> None:
    """Show how far a rollout is, and each of its nodes; without NUMBER the newest."""
    context: Context = ctx.obj
    client = context.client()
    found = client.get(_path(number))
    if wait_seconds is not None:
        found = _wait(client, found["id"], wait_seconds)
    if as_json:
        click.echo(render_document(found))
    else:
        _show(found)
    if wait_seconds is not None:
        _exit(ctx, found)


@rollout.command()
@NUMBER
@JSON
@click.pass_obj
def stop(context: Context, number: int | None, as_json: bool) -> None:
    """Let no more nodes leave what they run; who is on the way goes on.

    The rollout that runs, or NUMBER.
    """
    _tell(context.client().post("/v1/rollouts/stop", {"id": number}), as_json=as_json)


@rollout.command()
@NUMBER
@click.option("--retry", is_flag=True, help="Also with the nodes that failed.")
@WAIT
@JSON
@click.pass_context
def resume(
    ctx: click.Context,
    number: int | None,
    retry: bool,
    wait_seconds: float | None,
    as_json: bool,
) -> None:
    """Go on with the rollout that is stopped, or NUMBER."""
    context: Context = ctx.obj
    client = context.client()
    resumed = client.post("/v1/rollouts/resume", {"id": number, "retry": retry})
    _finish(ctx, client, resumed, wait_seconds, as_json=as_json)


def _finish(
    ctx: click.Context,
    client: Client,
    begun: Mapping[str, Any],
    wait_seconds: float | None,
    *,
    as_json: bool,
) -> None:
    if wait_seconds is None:
        _tell(begun, as_json=as_json)
        return
    found = _wait(client, begun["id"], wait_seconds)
    _tell(found, as_json=as_json)
    _exit(ctx, found)


def _exit(ctx: click.Context, found: Mapping[str, Any]) -> None:
    if found["state"] == "stopped":
        click.echo(f"rollout {found['id']} stopped: {found['reason']}", err=True)
        ctx.exit(FAILED)
    if found["state"] != "done":
        click.echo(f"rollout {found['id']} is not done: {found['summary']}", err=True)
        ctx.exit(NO)


def _wait(client: Client, number: int, wait_seconds: float) -> Any:
    """Return the rollout once it has ended, or the time is over."""
    deadline = time.monotonic() + wait_seconds
    last = client.get("/v1/status")["lastEvent"]
    while True:
        found = client.get(_path(number))
        left = deadline - time.monotonic()
        # One that is stopped has an end when who was on the way has arrived.
        if left <= 0 or (found["state"] != "running" and not found["counts"]["booting"]):
            return found
        patience = max(1, int(min(left, EVENT_WAIT_SECONDS)))
        query = urlencode([("since", last), ("wait", patience), *(("kind", k) for k in KINDS)])
        last = client.get(f"/v1/events?{query}")["last"]
        time.sleep(min(max(left, 0.0), LEAST_PAUSE_SECONDS))


def _path(number: int | None) -> str:
    return f"/v1/rollouts/show?id={number or 0}"


def _tell(found: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(render_document(found))
    else:
        click.echo(_line(found))


def _line(found: Mapping[str, Any]) -> str:
    told = f"rollout {found['id']}: {found['capsule']}@{short(found['digest'])}: {found['state']}"
    return f"{told}, {found['summary']}" + (f": {found['reason']}" if found["reason"] else "")


def _show(found: Mapping[str, Any]) -> None:
    click.echo(_line(found))
    now = time.time()
    rows = [
        (
            item["name"],
            str(item["batch"] or "-"),
            item["step"] if item["state"] == "active" and item["step"] else item["state"],
            render_since(now - item["since"]),
            " ".join((item["reason"] or item["detail"]).split()),
        )
        for item in found["members"]
    ]
    click.echo(render_table(("NODE", "BATCH", "STATE", "SINCE", "REASON"), rows))
