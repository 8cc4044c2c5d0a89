"""``vnfsbuild show``: all that is known of one capsule."""

from __future__ import annotations

import click

from vnfsbuild.describe import describe_capsule, render_facts
from vnfsbuild.listing import render_document
from vnfsbuild.options import json_option, load_standing
from vnfsbuild.places import Places
from vnfsbuild.reference import parse_reference
from vnfsbuild.store.store import Store


@click.command("show")
@click.argument("reference")
@json_option
@click.pass_obj
def command(places: Places, reference: str, as_json: bool) -> None:
    """Show what a capsule of the store consists of and who signed it.

    REFERENCE is NAME[:TAG][@DIGEST].
    """
    capsule = Store(places.store).get(parse_reference(reference))
    facts = describe_capsule(capsule, load_standing(places.site))
    click.echo(render_document(facts) if as_json else render_facts(facts))
