"""``provisionctl node``: who nodes are, what is set on them, how they are."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import click

from provisiond.commands.context import Context
from provisiond.commands.nodestatus import status
from provisiond.commands.nodetask import poweroff, reboot, run
from provisiond.commands.rollout import upgrade
from provisiond.commands.telling import (
    JSON,
    NODES,
    SOME_NODES,
    YES,
    ask,
    attribute_help,
    confirm,
    get_nodes,
    read_value,
    show_value,
    tell,
    tell_set,
)
from provisiond.commands.transfer import DRY_RUN, read_document, tell_changes
from provisiond.nodes.attributes import NODE
from provisiond.nodes.drivers import find_lack
from vnfsbuild.errors import InputError
from vnfsbuild.listing import render_document, render_table


@click.group()
def node() -> None:
    """Nodes: who they are, what they boot, how they are.

    NODES are names, ranges as 'n0000[1-9]', patterns as 'n*', groups as @compute, also with
    ClusterShell's operators as '@compute!@rack1'; they add up. Filters as state=ready, vnfs=NAME,
    tag.rack!=r1 narrow what is named, or all.
    """


for command in (poweroff, reboot, run, status, upgrade):
    node.add_command(command)


@node.command()
@click.argument("hwaddr", metavar="HWADDR")
@click.argument("name", required=False)
@click.option("--set", "settings", metavar="KEY=VALUE", multiple=True, help="Set an attribute too.")
@click.option("--group", "groups", metavar="GROUP", multiple=True,
              help="Put it into this group; the first is the strongest.")  # fmt: skip
@click.pass_obj
def add(
    context: Context,
    hwaddr: str,
    name: str | None,
    settings: Sequence[str],
    groups: Sequence[str],
) -> None:
    """Add and approve a node before it boots for the first time."""
    value = {
        "hwaddr": hwaddr,
        "name": name,
        "attributes": dict(_parse_setting(item) for item in settings),
        "groups": list(groups),
    }
    click.echo(context.client().post("/v1/nodes", value)["name"])


@node.command()
@NODES
@click.pass_obj
def approve(context: Context, nodes: Sequence[str]) -> None:
    """Let nodes boot what they are assigned, and get secret overlays."""
    tell(context.client().post("/v1/nodes/approve", {"nodes": list(nodes)}), "approved")


@node.command(name="set")
@click.argument("key")
@click.argument("value")
@NODES
@click.pass_obj
def set_(context: Context, key: str, value: str, nodes: Sequence[str]) -> None:
    """Set an attribute; '' unsets it. Assigning a capsule (vnfs) to nodes by name approves.

    A list that begins with + adds to what groups, capsule and defaults say. As a secret VALUE, -
    is read from standard input.
    """
    _set(context, key, read_value(key, value), nodes)


set_.help = f"{set_.help}\n\n{attribute_help(NODE)}"


@node.command()
@click.argument("key")
@NODES
@click.pass_obj
def unset(context: Context, key: str, nodes: Sequence[str]) -> None:
    """Forget what is set on the nodes themselves: groups, capsule and defaults count again."""
    answer = context.client().post("/v1/nodes/unset", {"keys": [key], "nodes": list(nodes)})
    tell(answer, f"{key} unset")


@node.command()
@NODES
@click.pass_obj
def enable(context: Context, nodes: Sequence[str]) -> None:
    """Let nodes boot again."""
    _set(context, "enabled", "true", nodes)


@node.command()
@NODES
@click.pass_obj
def disable(context: Context, nodes: Sequence[str]) -> None:
    """Let nodes boot nothing from now on; what runs goes on."""
    _set(context, "enabled", "false", nodes)


@node.command(name="list")
@SOME_NODES
@JSON
@click.pass_obj
def list_(context: Context, nodes: Sequence[str], as_json: bool) -> None:
    """List nodes, and what they are assigned."""
    found = get_nodes(context.client(), nodes)
    if as_json:
        click.echo(render_document(found))
        return
    header = ("NAME", "HARDWARE ADDRESS", "ADDRESS", "APPROVED", "GROUPS", "VNFS")
    rows = [
        (
            item["name"],
            item["nodeId"],
            item["address"] or "-",
            "yes" if item["approved"] else "no",
            " ".join(item["groups"]) or "-",
            item["effective"]["vnfs"]["value"] or "-",
        )
        for item in found
    ]
    click.echo(render_table(header, rows))


@node.command()
@SOME_NODES
@JSON
@click.pass_obj
def show(context: Context, nodes: Sequence[str], as_json: bool) -> None:
    """Show all that is known of nodes, a line for each thing.

    Values say where they were set; authority.* says who vouches for what runs there.
    """
    found = get_nodes(context.client(), nodes, path="/v1/nodes/show")
    if as_json:
        click.echo(render_document(found))
        return
    for item in found:
        for line in _show(item):
            click.echo(f"{item['name']}: {line}")


@node.command()
@NODES
@YES
@click.pass_obj
def delete(context: Context, nodes: Sequence[str], yes: bool) -> None:
    """Forget nodes. One that still runs comes back as a new node."""
    client = context.client()
    confirm(client, nodes, "Delete {count} nodes?", yes=yes)
    tell(client.post("/v1/nodes/delete", {"nodes": list(nodes)}), "deleted")


@node.command()
@NODES
@click.pass_obj
def retry(context: Context, nodes: Sequence[str]) -> None:
    """Let nodes that fell back boot what they are assigned again."""
    tell(context.client().post("/v1/nodes/retry", {"nodes": list(nodes)}), "tries again")


@node.command()
@click.argument("name")
@click.argument("new_name", metavar="NEW-NAME")
@click.pass_obj
def rename(context: Context, name: str, new_name: str) -> None:
    """Give a node another name; it learns it with its next boot, or overlay."""
    context.client().post("/v1/nodes/rename", {"name": name, "newName": new_name})
    click.echo(f"{new_name}: renamed, was {name}")


@node.command()
@click.argument("name")
@click.argument("hwaddr", metavar="NEW-HWADDR")
@YES
@click.pass_obj
def replace(context: Context, name: str, hwaddr: str, yes: bool) -> None:
    """Make another machine this node: it keeps name, address, groups and all that is set.

    The machine that it was loses its node key at once, and comes back as a new node.
    """
    ask(f"Make {hwaddr} the node {name}?", yes=yes)
    shown = context.client().post("/v1/nodes/replace", {"name": name, "hwaddr": hwaddr})
    click.echo(f"{shown['name']}: is {shown['nodeId']} now")


@node.command(name="import")
@click.argument("file")
@click.option("--format", "file_format", type=click.Choice(["csv", "dhcpd", "nodes.conf"]),
              help="What FILE is; without it that is found out.")  # fmt: skip
@DRY_RUN
@JSON
@click.pass_obj
def import_(
    context: Context, file: str, file_format: str | None, dry_run: bool, as_json: bool
) -> None:
    """Add the nodes of another system's FILE, approved, and tell each difference.

    A CSV table with a header, a dhcpd.conf of ISC, or Warewulf's nodes.conf. All of it is added, or
    nothing. What has no counterpart here is told; other nodes stay as they are.
    """
    value = {
        "document": read_document(file),
        "where": file,
        "format": file_format,
        "dryRun": dry_run,
    }
    done = context.client().post("/v1/nodes/import", value)
    for note in done["notes"]:
        click.echo(f"note: {note}", err=True)
    if as_json:
        click.echo(render_document(done))
    else:
        tell_changes(done["changes"])


def _set(context: Context, key: str, value: str, nodes: Sequence[str]) -> None:
    answer = context.client().post(
        "/v1/nodes/set", {"key": key, "value": value, "nodes": list(nodes)}
    )
    tell(answer, tell_set(key, value))


def _parse_setting(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not sign:
        raise InputError(f"--set: found {text!r}, expected KEY=VALUE")
    return key, value


def _show(item: Mapping[str, Any]) -> list[str]:
    """Return ``key=value`` lines, of attributes with where the value was set."""
    approved = f"yes ({item['approvedBy']})" if item["approved"] else "no"
    lines = [
        f"hwaddrs={' '.join(item['hwaddrs'])}",
        f"uuid={item['uuid'] or ''}",
        f"approved={approved}",
        f"groups={' '.join(item['groups'])}",
        f"ipaddr={item['address'] or ''}",
    ]
    lines += [
        f"{key}={show_value(entry['value'])} ({entry['from']})"
        for key, entry in item["effective"].items()
    ]
    lines += [f"authority.{what}={row['text']}" for what, row in item["authority"].items()]
    lines += [
        f"state={item['state'] or ''}",
        f"detail={' '.join(item['detail'].split())}",
        f"conditions={' '.join(item['conditions'])}",
        f"reason={item['reason']}",
        f"capsule={item['capsule'] or ''}",
        f"planned={item['planned'] or ''}",
        f"last_good={item['lastGood'] or ''}",
        f"last_error={' '.join(item['lastError'].split())}",
    ]
    lines += [f"failures.{key}={count}" for key, count in item["failures"].items()]
    lines += [f"seconds.{key}={seconds:g}" for key, seconds in item["phaseSeconds"].items()]
    lines += _show_task(item["task"])
    lines.append(f"drivers.cpio={find_lack(item['drivers']) or item['drivers']['why'] or 'no'}")
    # What a node reports is one line each, or it could forge others.
    lines += [
        " ".join(f"report.{key}={value}".split()) for key, value in sorted(item["report"].items())
    ]
    return lines


def _show_task(task: Mapping[str, Any] | None) -> list[str]:
    if task is None:
        return []
    since = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(task["since"]))
    told = f"{task['kind']} {task['phase']}".strip()
    detail = " ".join(task["detail"].split())
    return [f"task={told}: {task['state']} since {since}" + (f": {detail}" if detail else "")]
