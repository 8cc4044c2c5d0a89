"""``vnfsbuild vendor``: a repository of exactly the packages of a lock."""

from __future__ import annotations

from pathlib import Path

import click

from vnfsbuild.listing import render_document, render_size
from vnfsbuild.lock import lay_over
from vnfsbuild.options import json_option
from vnfsbuild.packageset import list_packages
from vnfsbuild.places import Places, find_recipe
from vnfsbuild.resolve import fetch_chain, load_locks, load_recipe, save_new_lock
from vnfsbuild.vendored import write_vendored


@click.command("vendor")
@click.argument("recipe")
@click.argument("directory", type=click.Path(path_type=Path))
@json_option
@click.pass_obj
def command(places: Places, recipe: str, directory: Path, as_json: bool) -> None:
    """Make the new DIRECTORY a repository of exactly the packages that RECIPE's lock names.

    It serves fetch and build of that lock as a mirror: --mirror, VNFS_MIRROR or the recipe's
    mirror, by path, file:// or any web server.
    """
    loaded = load_recipe(find_recipe(recipe, places))
    if not loaded.lock_path.exists():
        save_new_lock(loaded, cache=places.cache)
    locks = load_locks(loaded)
    fetch_chain(loaded, locks, cache=places.cache)
    lock = lay_over(locks)
    packages = list_packages(lock)
    write_vendored(lock, directory.absolute(), cache=places.cache)
    size_bytes = sum(item.size_bytes for item in packages)
    if as_json:
        found = {"path": str(directory), "packages": len(packages), "sizeBytes": size_bytes}
        click.echo(render_document(found))
    else:
        click.echo(f"{directory}: {len(packages)} packages, {render_size(size_bytes)}")
