"""``provisionctl overlay``: the files that make capsules nodes, as each node gets them."""

from __future__ import annotations

import base64
import sys
from collections.abc import Sequence
from urllib.parse import urlencode

import click

from provisiond.commands.context import Context
from provisiond.commands.telling import JSON, SHOWN_MISSING, SOME_NODES
from vnfsbuild.listing import render_document, render_size, render_table

BAD = 2


@click.group()
def overlay() -> None:
    """Files that are laid over capsules: docs/overlays.md."""


@overlay.command(name="list")
@JSON
@click.pass_obj
def list_(context: Context, as_json: bool) -> None:
    """List the overlays that there are, with how many nodes get each."""
    found = context.client().get("/v1/overlays")
    if as_json:
        click.echo(render_document(found))
        return
    rows = [
        (
            item["name"],
            "built in" if item["builtIn"] else "site",
            "secret" if item["secret"] else "",
            str(item["nodes"]),
            item["fault"].partition("\n")[0] or item["description"],
        )
        for item in found
    ]
    click.echo(render_table(("OVERLAY", "FROM", "", "NODES", "DESCRIPTION"), rows))


@overlay.command()
@click.argument("node")
@click.argument("path", required=False)
@click.option("--secrets", is_flag=True, help="Show a file of a secret overlay too.")
@JSON
@click.pass_obj
def show(context: Context, node: str, path: str | None, secrets: bool, as_json: bool) -> int:
    """Show what NODE gets, or the file PATH of it, byte for byte."""
    query = {"node": node, "secrets": "1" if secrets else "0"}
    found = context.client().get(
        "/v1/overlays/show?" + urlencode(query | ({} if path is None else {"path": path}))
    )
    if path is not None:
        sys.stdout.flush()
        sys.stdout.buffer.write(base64.b64decode(found["data"]))
        sys.stdout.buffer.flush()
        return 0
    if as_json:
        click.echo(render_document(found))
        return BAD if found["faults"] else 0
    rows = [
        (
            item["mode"],
            f"{item['owner']}:{item['group']}",
            "" if item["directory"] or item["link"] else render_size(item["sizeBytes"]),
            item["overlay"] or "-",
            item["path"] + (f" -> {item['link']}" if item["link"] else "")
            + ("/" if item["directory"] else ""),
        )
        for item in found["files"]
    ]  # fmt: skip
    click.echo(render_table(("MODE", "OWNER", "SIZE", "OVERLAY", "PATH"), rows))
    if found["heldBack"]:
        click.echo(
            f"held back, until an administrator approves {node}: {', '.join(found['heldBack'])}",
            err=True,
        )
    for fault in found["faults"]:
        click.echo(f"error: {fault}", err=True)
    return BAD if found["faults"] else 0


@overlay.command()
@SOME_NODES
@JSON
@click.pass_obj
def check(context: Context, nodes: Sequence[str], as_json: bool) -> int:
    """Make the overlays of NODES, without any of all, and tell all that is wrong with them."""
    found = context.client().get(
        "/v1/overlays/check?" + urlencode([("nodes", item) for item in nodes])
    )
    if as_json:
        click.echo(render_document(found))
        return BAD if found["faults"] else 0
    for fault in found["faults"]:
        names = fault["nodes"]
        more = f" and {len(names) - SHOWN_MISSING} more" if len(names) > SHOWN_MISSING else ""
        whom = f" ({', '.join(names[:SHOWN_MISSING])}{more})" if names else ""
        click.echo(f"{fault['text']}{whom}", err=True)
    if found["heldBack"]:
        click.echo(
            f"{found['heldBack']} nodes get no secret overlays: no administrator approved them",
            err=True,
        )
    faults = len(found["faults"])
    click.echo(f"{found['nodes']} nodes: {f'{faults} faults' if faults else 'no fault'}")
    return BAD if found["faults"] else 0
