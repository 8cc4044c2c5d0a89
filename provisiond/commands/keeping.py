"""``provisionctl vnfs promote|rollback|tag|delete``: what the node server's capsules are called,
and which of them stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from provisiond.commands.context import Context
from vnfsbuild.errors import InputError
from vnfsbuild.listing import render_document, render_size

_JSON = click.option("--json", "as_json", is_flag=True, help="All of it, for machines.")


@click.command("promote")
@click.argument("reference")
@_JSON
@click.pass_obj
def promote(context: Context, reference: str, as_json: bool) -> None:
    """Let the bare NAME mean the capsule REFERENCE: nodes that follow NAME boot it from now on.

    What it meant until now is NAME:previous.
    """
    _print_moved(
        context.client().post("/v1/capsules/promote", {"reference": reference}), as_json=as_json
    )


@click.command("rollback")
@click.argument("name")
@_JSON
@click.pass_obj
def rollback(context: Context, name: str, as_json: bool) -> None:
    """Let NAME:current and NAME:previous change places."""
    _print_moved(context.client().post("/v1/capsules/rollback", {"name": name}), as_json=as_json)


@click.command("tag")
@click.argument("reference")
@click.argument("tag", required=False)
@click.option("--remove", is_flag=True, help="Take the tag of REFERENCE, NAME:TAG, away.")
@_JSON
@click.pass_obj
def tag(context: Context, reference: str, tag: str | None, remove: bool, as_json: bool) -> None:
    """Let NAME:TAG mean the capsule REFERENCE, until another one is given the TAG."""
    if remove == (tag is not None):
        raise InputError(
            f"tag {reference}: expected either a TAG or --remove",
            hint=f"provisionctl vnfs tag {reference} TAG",
        )
    answer = context.client().post("/v1/capsules/tag", {"reference": reference, "tag": tag})
    if as_json:
        click.echo(render_document(answer))
    else:
        click.echo(f"{answer['name']}:{answer['tag']} is {answer['digest'] or 'nothing any more'}")


@click.command("delete")
@click.argument("references", nargs=-1, required=True, metavar="REFERENCE...")
@click.option("--force", is_flag=True, help="Delete what nodes need, too; say who needs it.")
@_JSON
@click.pass_obj
def delete(context: Context, references: Sequence[str], force: bool, as_json: bool) -> None:
    """Delete capsules, all of them or none; refused, with the nodes, while nodes need one."""
    asked = {"references": list(references), "force": force}
    answer = context.client().post("/v1/capsules/delete", asked)
    if as_json:
        click.echo(render_document(answer))
        return
    for item in answer["capsules"]:
        click.echo(f"deleted {item['name']} {item['digest']}")
        for reason in item["overridden"]:
            click.echo(f"warning: {item['name']}: overridden: {reason}", err=True)
    click.echo(f"{answer['blobs']} blobs, {render_size(answer['sizeBytes'])}")


def _print_moved(answer: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(render_document(answer))
        return
    before = f", previous is {answer['previous']}" if answer["previous"] else ""
    click.echo(f"{answer['name']} is {answer['current']}{before}")
