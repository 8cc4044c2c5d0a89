"""``vnfsbuild lock``: what a recipe means today, written down."""

from __future__ import annotations

import click

from vnfsbuild.listing import render_document
from vnfsbuild.options import json_option
from vnfsbuild.places import Places, find_recipe
from vnfsbuild.resolve import load_recipe, save_new_lock


@click.command("lock")
@click.argument("recipe")
@json_option
@click.pass_obj
def command(places: Places, recipe: str, as_json: bool) -> None:
    """Choose the packages of RECIPE anew and write recipe.lock beside it.

    The serial grows by one when anything changed; otherwise the lock stays as it is.
    """
    loaded = load_recipe(find_recipe(recipe, places))
    lock = save_new_lock(loaded, cache=places.cache)
    if as_json:
        found = {
            "path": str(loaded.lock_path),
            "serial": lock.serial,
            "epoch": lock.epoch,
            "packages": len(lock.packages),
        }
        click.echo(render_document(found))
    else:
        click.echo(f"{loaded.lock_path}: serial {lock.serial}, {len(lock.packages)} packages")
