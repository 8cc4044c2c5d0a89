"""``vnfsbuild promote``: what a bare name means."""

from __future__ import annotations

import click

from vnfsbuild.digest import Digest
from vnfsbuild.listing import render_document
from vnfsbuild.options import json_option
from vnfsbuild.places import Places
from vnfsbuild.reference import Reference, parse_reference
from vnfsbuild.store.keeper import Promotion
from vnfsbuild.store.store import Store


@click.command("promote")
@click.argument("reference")
@json_option
@click.pass_obj
def command(places: Places, reference: str, as_json: bool) -> None:
    """Let the bare name, NAME:current, mean the capsule REFERENCE.

    What it meant until now is NAME:previous from now on.
    """
    store = Store(places.store)
    print_promotion(store, store.promote(parse_reference(reference)), as_json=as_json)


def print_promotion(store: Store, moved: Promotion, *, as_json: bool) -> None:
    """Print what a bare name means now."""
    if as_json:
        facts = {"name": moved.name, "current": moved.current, "previous": moved.previous}
        click.echo(render_document(facts))
        return
    before = f", previous is {_name(store, moved, moved.previous)}" if moved.previous else ""
    click.echo(f"{moved.name} is {_name(store, moved, moved.current)}{before}")


def _name(store: Store, moved: Promotion, digest: Digest) -> str:
    serial = store.get(Reference(moved.name, digest=digest)).config.serial
    return f"{moved.name}:{serial}@{digest}"
