"""``provisionctl defaults``: what counts for nodes where nothing else is set."""

from __future__ import annotations

from collections.abc import Sequence

import click

from provisiond.commands.context import Context
from provisiond.commands.telling import JSON, attribute_help, read_value, show_value, tell_set
from provisiond.nodes.attributes import DEFAULTS
from vnfsbuild.listing import render_document


@click.group()
def defaults() -> None:
    """What counts for nodes where neither node, group nor capsule says otherwise."""


@defaults.command(name="set")
@click.argument("key")
@click.argument("value")
@click.pass_obj
def set_(context: Context, key: str, value: str) -> None:
    """Set an attribute for all nodes; '' unsets it."""
    value = read_value(key, value)
    context.client().post(
        "/v1/settings/set", {"scope": DEFAULTS, "subjects": [""], "values": {key: value}}
    )
    click.echo(f"defaults: {tell_set(key, value)}")


set_.help = f"{set_.help}\n\n{attribute_help(DEFAULTS)}"


@defaults.command()
@click.argument("keys", nargs=-1, required=True, metavar="KEYS...")
@click.pass_obj
def unset(context: Context, keys: Sequence[str]) -> None:
    """Forget what is set for all nodes."""
    context.client().post(
        "/v1/settings/unset", {"scope": DEFAULTS, "subjects": [""], "keys": list(keys)}
    )
    click.echo(f"defaults: {', '.join(keys)} unset")


@defaults.command()
@JSON
@click.pass_obj
def show(context: Context, as_json: bool) -> None:
    """Show what is set for all nodes."""
    found = context.client().get(f"/v1/settings?scope={DEFAULTS}")
    if as_json:
        click.echo(render_document(found))
        return
    for key, value in found.items():
        click.echo(f"{key}={show_value(value)}")
