"""``provisionctl node status`` and ``group status``: how nodes are."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import click
from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet

from provisiond.client import Client
from provisiond.commands.context import Context
from provisiond.commands.telling import JSON, SOME_NODES, get_nodes
from vnfsbuild.digest import short
from vnfsbuild.listing import render_document, render_table

NO = 4
"""The exit status when all went well, and the answer is no."""
EVENT_WAIT_SECONDS = 5
MOST_SHOWN = 2**53
LEAST_PAUSE_SECONDS = 0.5
"""Between two looks: a thousand nodes that boot are a thousand events a minute."""
FIGURES = ("Uptime", "Load", "Memory Used", "Kernel", "Capsule", "Failed Units")
CHANGES = ("node.state", "node.condition", "node.changed", "node.new")


@click.command()
@SOME_NODES
@click.option("--figures", is_flag=True, help="What nodes report: uptime, load, memory, kernel.")
@click.option("--not-ready", is_flag=True, help="Only those that are not ready.")
@click.option("--summary", is_flag=True, help="How many there are: by state, condition, capsule.")
@click.option("--expect-ready", is_flag=True, help="Exit status 4 when one is not ready.")
@click.option("--wait", "wait_seconds", type=click.FloatRange(min=0), metavar="SECONDS",
              help="Wait so long for all to be ready; means --expect-ready.")  # fmt: skip
@JSON
@click.pass_context
def status(
    ctx: click.Context,
    nodes: Sequence[str],
    figures: bool,
    not_ready: bool,
    summary: bool,
    expect_ready: bool,
    wait_seconds: float | None,
    as_json: bool,
) -> None:
    """Show how nodes are: state, address, last contact, the capsule that they report.

    A node is ready when it said so, and is not late, dead, or in conflict.
    """
    context: Context = ctx.obj
    found = _wait(context.client(), nodes, wait_seconds or 0.0)
    shown = [item for item in found if not (not_ready and item["ready"])]
    if summary:
        _show_summary(shown, as_json=as_json)
    elif figures and not as_json:
        rows = [_figures_row(item) for item in shown]
        click.echo(render_table(("HostName", "Status", *FIGURES), rows))
    else:
        _show(shown, as_json=as_json)
    missing = [item["name"] for item in found if not item["ready"]]
    if (expect_ready or wait_seconds is not None) and (missing or not found):
        told = f"{len(missing)} of {len(found)} nodes are not ready"
        click.echo(f"{told}: {fold(missing)}" if missing else "there are no nodes", err=True)
        ctx.exit(NO)


def show_status(context: Context, nodes: Sequence[str], *, as_json: bool) -> None:
    """Show how the nodes are that are asked for."""
    _show(get_nodes(context.client(), nodes), as_json=as_json)


def summarise(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return how many of the nodes *found* are in each state and condition, and run what."""
    states = Counter(item["state"] or "new" for item in found)
    conditions = Counter(name for item in found for name in item["conditions"])
    capsules = Counter(item["capsule"] or "none" for item in found)
    return {
        "nodes": len(found),
        "ready": sum(item["ready"] for item in found),
        "states": dict(sorted(states.items())),
        "conditions": dict(sorted(conditions.items())),
        "capsules": dict(capsules.most_common()),
    }


def fold(names: Sequence[str]) -> str:
    """Return *names* as ranges, ``n[0001-0900]``."""
    return str(NodeSet.fromlist(list(names), resolver=RESOLVER_NOGROUP))


def render_since(seconds: float) -> str:
    """Return how long ago something was, as ``HH:MM:SS``."""
    whole = max(0, int(seconds))
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _wait(client: Client, nodes: Sequence[str], wait_seconds: float) -> list[Any]:
    """Return the nodes as soon as all are ready, or the time is over."""
    deadline = time.monotonic() + wait_seconds
    last = client.get("/v1/status")["lastEvent"]
    while True:
        found = get_nodes(client, nodes)
        left = deadline - time.monotonic()
        if left <= 0 or (found and all(item["ready"] for item in found)):
            return found
        # Conditions come by the clock too: not only events are waited for.
        patience = max(1, int(min(left, EVENT_WAIT_SECONDS)))
        query = urlencode([("since", last), ("wait", patience), *(("kind", k) for k in CHANGES)])
        last = client.get(f"/v1/events?{query}")["last"]
        time.sleep(min(max(left, 0.0), LEAST_PAUSE_SECONDS))


def _show(found: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    if as_json:
        click.echo(render_document(found))
        return
    header = ("HostName", "Status", "IpAddr", "Last Contact", "Capsule", "Reason")
    now = time.time()
    click.echo(render_table(header, [_status_row(item, now=now) for item in found]))


def _show_summary(found: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    value = summarise(found)
    if as_json:
        click.echo(render_document(value))
        return
    rows = [("nodes", "", str(value["nodes"])), ("ready", "", str(value["ready"]))]
    for key, word in (("states", "state"), ("conditions", "condition"), ("capsules", "capsule")):
        for name, count in value[key].items():
            shown = short(name) if name.startswith("sha256:") else name
            rows.append((word, shown, str(count)))
    click.echo(render_table(("WHAT", "WHICH", "NODES"), rows))


def _figures_row(item: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what a node reported of itself; a figure that it did not is a dash."""
    report = item["report"]
    uptime = _number(report.get("uptimeCentiseconds"))
    total = _number(report.get("memoryTotalKib"))
    used = _number(report.get("memoryUsedKib")) or 0
    units = report.get("failedUnits")
    return (
        item["name"],
        item["state"] or "new",
        "-" if uptime is None else render_since(uptime / 100),
        str(report.get("load") or "-"),
        f"{used / 1048576:.1f} of {total / 1048576:.1f} GiB" if total else "-",
        str(report.get("kernel") or "-"),
        short(item["capsule"]) if item["capsule"] else "-",
        " ".join(units) if isinstance(units, list) and units else "-",
    )


def _number(value: Any) -> int | None:
    """Return *value* if it is a number that can be shown: a node says what it likes."""
    return value if type(value) is int and 0 <= value < MOST_SHOWN else None


def _status_row(item: Mapping[str, Any], *, now: float) -> tuple[str, ...]:
    contact = item["lastContact"]
    state = item["state"] or "new"
    if item["conditions"]:
        state = f"{state} ({', '.join(item['conditions'])})"
    return (
        item["name"],
        state,
        item["address"] or "-",
        "-" if contact is None else render_since(now - contact),
        short(item["capsule"]) if item["capsule"] else "-",
        " ".join(item["reason"].split()),
    )
