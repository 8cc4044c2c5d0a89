"""``vnfsbuild list``: the capsules of the store."""

from __future__ import annotations

import click

from vnfsbuild.describe import LIST_HEADER, describe_capsule, list_row
from vnfsbuild.listing import render_document, render_table
from vnfsbuild.options import json_option, load_standing
from vnfsbuild.places import Places
from vnfsbuild.store.store import Store


@click.command("list")
@json_option
@click.pass_obj
def command(places: Places, as_json: bool) -> None:
    """List the capsules of the store."""
    standing = load_standing(places.site)
    facts = [describe_capsule(found, standing) for found in Store(places.store).list_capsules()]
    if as_json:
        click.echo(render_document(facts))
    else:
        click.echo(render_table(LIST_HEADER, [list_row(item) for item in facts]))
