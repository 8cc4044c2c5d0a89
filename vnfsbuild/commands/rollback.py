"""``vnfsbuild rollback``: back to what a bare name meant before."""

from __future__ import annotations

import click

from vnfsbuild.commands.promote import print_promotion
from vnfsbuild.options import json_option
from vnfsbuild.places import Places
from vnfsbuild.reference import parse_name
from vnfsbuild.store.store import Store


@click.command("rollback")
@click.argument("name")
@json_option
@click.pass_obj
def command(places: Places, name: str, as_json: bool) -> None:
    """Let NAME:current and NAME:previous change places; twice is once forth and back."""
    store = Store(places.store)
    moved = store.rollback(parse_name(name, where="rollback"))
    print_promotion(store, moved, as_json=as_json)
