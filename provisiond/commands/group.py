"""``provisionctl group``: nodes that share settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

import click

from provisiond.client import Client
from provisiond.commands.context import Context
from provisiond.commands.nodestatus import show_status
from provisiond.commands.telling import (
    JSON,
    NODES,
    SOME_NODES,
    YES,
    ask,
    attribute_help,
    read_value,
    show_value,
    tell,
    tell_set,
)
from provisiond.nodes.attributes import GROUP
from vnfsbuild.listing import render_document, render_table

_GROUPS = click.argument("groups", nargs=-1, required=True, metavar="GROUPS...")
_SOME_GROUPS = click.argument("groups", nargs=-1, metavar="[GROUPS...]")
_NAME = click.argument("name", metavar="GROUP")


@click.group()
def group() -> None:
    """Groups of nodes that share settings.

    A node can be in any number of groups. Of two that set the same, the one named first for the
    node counts ('node set groups'); what is set on the node itself counts before all groups.
    """


@group.command()
@_NAME
@SOME_NODES
@click.option("--first", is_flag=True, help="Make it the strongest group of the nodes.")
@click.pass_obj
def add(context: Context, name: str, nodes: Sequence[str], first: bool) -> None:
    """Make a group, unless it is there, and put nodes into it."""
    value = {"name": name, "nodes": list(nodes), "first": first}
    answer = context.client().post("/v1/groups", value)
    if nodes:
        tell(answer, f"in the group {name}")
    else:
        click.echo(f"{name}: added")


@group.command()
@_NAME
@NODES
@click.pass_obj
def remove(context: Context, name: str, nodes: Sequence[str]) -> None:
    """Take nodes out of a group."""
    answer = context.client().post("/v1/groups/remove", {"name": name, "nodes": list(nodes)})
    tell(answer, f"not in the group {name} any more")


@group.command()
@_NAME
@NODES
@click.pass_obj
def replace(context: Context, name: str, nodes: Sequence[str]) -> None:
    """Make NODES the only nodes of a group."""
    answer = context.client().post("/v1/groups/replace", {"name": name, "nodes": list(nodes)})
    tell(answer, f"in the group {name}")


@group.command(name="set")
@click.argument("key")
@click.argument("value")
@_GROUPS
@click.pass_obj
def set_(context: Context, key: str, value: str, groups: Sequence[str]) -> None:
    """Set an attribute for all nodes of groups; '' unsets it.

    A list that begins with + adds to what weaker groups, capsule and defaults say.
    """
    _set(context.client(), key, read_value(key, value), groups)


set_.help = f"{set_.help}\n\n{attribute_help(GROUP)}"


@group.command()
@click.argument("key")
@_GROUPS
@click.pass_obj
def unset(context: Context, key: str, groups: Sequence[str]) -> None:
    """Forget what is set for groups."""
    value = {"scope": GROUP, "subjects": list(groups), "keys": [key]}
    context.client().post("/v1/settings/unset", value)
    for name in groups:
        click.echo(f"{name}: {key} unset")


@group.command()
@_GROUPS
@click.pass_obj
def enable(context: Context, groups: Sequence[str]) -> None:
    """Let the nodes of groups boot again, but for those that are disabled themselves."""
    _set(context.client(), "enabled", "true", groups)


@group.command()
@_GROUPS
@click.pass_obj
def disable(context: Context, groups: Sequence[str]) -> None:
    """Let the nodes of groups boot nothing, but for those that are enabled themselves."""
    _set(context.client(), "enabled", "false", groups)


@group.command()
@_GROUPS
@click.pass_obj
def approve(context: Context, groups: Sequence[str]) -> None:
    """Approve the nodes that are in groups now."""
    nodes = [f"@{name}" for name in groups]
    tell(context.client().post("/v1/nodes/approve", {"nodes": nodes}), "approved")


@group.command(name="list")
@_SOME_GROUPS
@JSON
@click.pass_obj
def list_(context: Context, groups: Sequence[str], as_json: bool) -> None:
    """List groups, with how many nodes are in each."""
    found = _get(context.client(), groups)
    if as_json:
        click.echo(render_document(found))
        return
    rows = [
        (item["name"], str(len(item["nodes"])), item["attributes"].get("vnfs", "-"),
         " ".join(key for key in item["attributes"] if key != "vnfs") or "-")
        for item in found
    ]  # fmt: skip
    click.echo(render_table(("NAME", "NODES", "VNFS", "ALSO SETS"), rows))


@group.command()
@_SOME_GROUPS
@JSON
@click.pass_obj
def show(context: Context, groups: Sequence[str], as_json: bool) -> None:
    """Show what groups set, and their nodes."""
    found = _get(context.client(), groups)
    if as_json:
        click.echo(render_document(found))
        return
    for item in found:
        click.echo(f"{item['name']}: nodes={' '.join(item['nodes'])}")
        for key, value in item["attributes"].items():
            click.echo(f"{item['name']}: {key}={show_value(value)}")


@group.command()
@_GROUPS
@JSON
@click.pass_obj
def status(context: Context, groups: Sequence[str], as_json: bool) -> None:
    """Show how the nodes of groups are."""
    show_status(context, [f"@{name}" for name in groups], as_json=as_json)


@group.command()
@_GROUPS
@YES
@click.pass_obj
def delete(context: Context, groups: Sequence[str], yes: bool) -> None:
    """Forget groups and what they set; their nodes stay."""
    client = context.client()
    members = {name for item in _get(client, groups) for name in item["nodes"]}
    ask(f"Delete {', '.join(groups)}, with {len(members)} nodes in it?", yes=yes)
    for name in client.post("/v1/groups/delete", {"groups": list(groups)})["groups"]:
        click.echo(f"{name}: deleted")


@group.command()
@_NAME
@click.argument("new_name", metavar="NEW-NAME")
@click.pass_obj
def rename(context: Context, name: str, new_name: str) -> None:
    """Give a group another name; nothing else changes for its nodes."""
    context.client().post("/v1/groups/rename", {"name": name, "newName": new_name})
    click.echo(f"{new_name}: renamed, was {name}")


def _set(client: Client, key: str, value: str, groups: Sequence[str]) -> None:
    client.post(
        "/v1/settings/set",
        {"scope": GROUP, "subjects": list(groups), "values": {key: value}},
    )
    for name in groups:
        click.echo(f"{name}: {tell_set(key, value)}")


def _get(client: Client, groups: Sequence[str]) -> list[Any]:
    found: list[Any] = client.get("/v1/groups?" + urlencode([(GROUP, name) for name in groups]))
    return found
