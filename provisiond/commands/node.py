"""``provisionctl node``: add, approve, set, list, show, status, delete."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import click

from provisiond.commands.context import Context
from provisiond.model import ATTRIBUTES
from vnfsbuild.digest import short
from vnfsbuild.listing import render_document, render_table

SHOWN_MISSING = 5

_NODES = click.argument("nodes", nargs=-1, required=True, metavar="NODES...")
_SOME_NODES = click.argument("nodes", nargs=-1, metavar="[NODES...]")
_JSON = click.option("--json", "as_json", is_flag=True, help="All of it, for machines.")


@click.group()
def node() -> None:
    """Nodes: who they are, what they boot, how they are.

    NODES are names, ranges as 'n0000[1-9]', or patterns as 'n*'.
    """


@node.command()
@click.argument("hwaddr", metavar="HWADDR")
@click.argument("name", required=False)
@click.pass_obj
def add(context: Context, hwaddr: str, name: str | None) -> None:
    """Add and approve a node before it boots for the first time."""
    added = context.client().post("/v1/nodes", {"hwaddr": hwaddr, "name": name})
    click.echo(added["name"])


@node.command()
@_NODES
@click.pass_obj
def approve(context: Context, nodes: Sequence[str]) -> None:
    """Let nodes boot what they are assigned."""
    _tell(context.client().post("/v1/nodes/approve", {"nodes": list(nodes)}), "approved")


@node.command(name="set")
@click.argument("key")
@click.argument("value")
@_NODES
@click.pass_obj
def set_(context: Context, key: str, value: str, nodes: Sequence[str]) -> None:
    """Set an attribute; '' unsets it. Assigning a capsule (vnfs) approves."""
    answer = context.client().post(
        "/v1/nodes/set", {"key": key, "value": value, "nodes": list(nodes)}
    )
    _tell(answer, f"{key} = {value}" if value.strip() else f"{key} unset")


set_.help = f"{set_.help}\n\n\b\n" + "\n".join(
    f"{key:<17} {attribute.meaning}" for key, attribute in ATTRIBUTES.items()
)


@node.command(name="list")
@_SOME_NODES
@_JSON
@click.pass_obj
def list_(context: Context, nodes: Sequence[str], as_json: bool) -> None:
    """List nodes, and what they are assigned."""
    found = _get_nodes(context, nodes)
    if as_json:
        click.echo(render_document(found))
        return
    header = ("NAME", "HARDWARE ADDRESS", "ADDRESS", "APPROVED", "VNFS")
    rows = [
        (
            item["name"],
            item["nodeId"],
            item["address"] or "-",
            "yes" if item["approved"] else "no",
            item["effective"]["vnfs"]["value"] or "-",
        )
        for item in found
    ]
    click.echo(render_table(header, rows))


@node.command()
@_SOME_NODES
@_JSON
@click.pass_obj
def show(context: Context, nodes: Sequence[str], as_json: bool) -> None:
    """Show all that is known of nodes, a line for each thing."""
    found = _get_nodes(context, nodes)
    if as_json:
        click.echo(render_document(found))
        return
    for item in found:
        for line in _show(item):
            click.echo(f"{item['name']}: {line}")


@node.command()
@_SOME_NODES
@_JSON
@click.pass_obj
def status(context: Context, nodes: Sequence[str], as_json: bool) -> None:
    """Show how nodes are: state, address, last contact, the capsule that they report."""
    found = _get_nodes(context, nodes)
    if as_json:
        click.echo(render_document(found))
        return
    header = ("HostName", "Status", "IpAddr", "Last Contact", "Capsule", "Reason")
    now = time.time()
    click.echo(render_table(header, [_status_row(item, now=now) for item in found]))


@node.command()
@_NODES
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def delete(context: Context, nodes: Sequence[str], yes: bool) -> None:
    """Forget nodes. One that still runs comes back as a new node."""
    client = context.client()
    if sys.stdin.isatty() and not yes:
        names = [item["name"] for item in client.get(_nodes_path(nodes))]
        click.echo(" ".join(names))
        click.confirm(f"Delete {len(names)} nodes?", abort=True)
    _tell(client.post("/v1/nodes/delete", {"nodes": list(nodes)}), "deleted")


def render_since(seconds: float) -> str:
    """Return how long ago something was, as ``HH:MM:SS``."""
    whole = max(0, int(seconds))
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _get_nodes(context: Context, nodes: Sequence[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = context.client().get(_nodes_path(nodes))
    return found


def _nodes_path(nodes: Sequence[str]) -> str:
    return "/v1/nodes?" + urlencode([("nodes", item) for item in nodes])


def _tell(answer: Mapping[str, list[str]], what: str) -> None:
    """Show what was done; nodes of a range that are yet to come are worth a warning."""
    missing = answer["missing"]
    if missing:
        more = ", …" if len(missing) > SHOWN_MISSING else ""
        click.echo(
            f"warning: {len(missing)} of the nodes named are not known: "
            f"{', '.join(missing[:SHOWN_MISSING])}{more}",
            err=True,
        )
    for name in answer["nodes"]:
        click.echo(f"{name}: {what}")


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


def _show(item: Mapping[str, Any]) -> list[str]:
    """Return ``key=value`` lines, of attributes with where the value was set."""
    lines = [
        f"hwaddrs={' '.join(item['hwaddrs'])}",
        f"uuid={item['uuid'] or ''}",
        f"approved={'yes' if item['approved'] else 'no'}",
        f"ipaddr={item['address'] or ''}",
    ]
    for key, entry in item["effective"].items():
        value = entry["value"]
        shown = " ".join(value) if isinstance(value, list) else "" if value is None else value
        lines.append(f"{key}={str(shown).lower() if value in (True, False) else shown}"
                     f" ({entry['from']})")  # fmt: skip
    lines += [
        f"state={item['state'] or ''}",
        f"detail={' '.join(item['detail'].split())}",
        f"conditions={' '.join(item['conditions'])}",
        f"reason={item['reason']}",
        f"capsule={item['capsule'] or ''}",
        f"planned={item['planned'] or ''}",
    ]
    lines += [f"report.{key}={value}" for key, value in sorted(item["report"].items())]
    return lines
