"""``vnfsbuild tag``: names of one's own for capsules of the store."""

from __future__ import annotations

import click

from vnfsbuild.errors import InputError
from vnfsbuild.listing import render_document
from vnfsbuild.options import json_option
from vnfsbuild.places import Places
from vnfsbuild.reference import parse_reference
from vnfsbuild.store.store import Store


@click.command("tag")
@click.argument("reference")
@click.argument("tag", required=False)
@click.option("--remove", is_flag=True, help="Take the tag of REFERENCE, NAME:TAG, away.")
@json_option
@click.pass_obj
def command(places: Places, reference: str, tag: str | None, remove: bool, as_json: bool) -> None:
    """Let NAME:TAG mean the capsule REFERENCE, until another one is given the TAG.

    Numbers are serials, and promote and rollback move current and previous.
    """
    store = Store(places.store)
    wanted = parse_reference(reference)
    if remove:
        if tag is not None:
            raise InputError(f"tag --remove: found {reference} and {tag}, expected NAME:TAG alone")
        store.untag(wanted)
        facts = {"name": wanted.name, "tag": wanted.tag, "digest": None}
        told = f"{wanted.name}:{wanted.tag} means nothing any more"
    else:
        if tag is None:
            raise InputError(
                f"tag {reference}: found no TAG", hint=f"vnfsbuild tag {reference} TAG"
            )
        capsule = store.tag(wanted, tag)
        facts = {"name": capsule.name, "tag": tag, "digest": capsule.digest}
        told = f"{capsule.name}:{tag} is {capsule.digest}"
    click.echo(render_document(facts) if as_json else told)
