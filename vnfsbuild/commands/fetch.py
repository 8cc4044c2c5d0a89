"""``vnfsbuild fetch``: the packages of a lock into the cache, from wherever they are."""

from __future__ import annotations

from pathlib import Path

import click

from vnfsbuild.errors import InputError
from vnfsbuild.listing import render_document, render_size
from vnfsbuild.lock import lay_over
from vnfsbuild.options import json_option
from vnfsbuild.packageset import import_package_set, list_packages
from vnfsbuild.places import Places, find_recipe
from vnfsbuild.recipefiles import load_recipe
from vnfsbuild.resolve import fetch_chain, load_locks


@click.command("fetch")
@click.argument("recipe")
@click.option("--mirror", "mirrors", multiple=True, metavar="URL", help="Asked before all others.")
@click.option(
    "--packages",
    "sets",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A package set to take them from.",
)
@json_option
@click.pass_obj
def command(
    places: Places, recipe: str, mirrors: tuple[str, ...], sets: tuple[Path, ...], as_json: bool
) -> None:
    """Bring all packages of RECIPE's lock into the cache, so that it builds without a network."""
    loaded = load_recipe(find_recipe(recipe, places))
    for item in loaded.chain:
        if not item.lock_path.exists():
            raise InputError(
                f"{item.lock_path}: no such lock, expected one that says what to fetch",
                hint=f"vnfsbuild lock {item.directory if item is not loaded else recipe}",
            )
    locks = load_locks(loaded)
    for path in sets:
        import_package_set(path, cache=places.cache)
    fetched = fetch_chain(loaded, locks, cache=places.cache, mirrors=[as_url(m) for m in mirrors])
    packages = list_packages(lay_over(locks))
    size_bytes = sum(item.size_bytes for item in packages)
    if as_json:
        found = {"packages": len(packages), "fetched": fetched, "sizeBytes": size_bytes}
        click.echo(render_document(found))
    else:
        click.echo(
            f"{loaded.lock_path}: {len(packages)} packages in the cache, "
            f"{render_size(size_bytes)}; {fetched} of them fetched"
        )


def as_url(mirror: str) -> str:
    """Return *mirror* as an URL; a directory may be given by its path.

    Raises:
        InputError: it is neither.
    """
    if "://" in mirror:
        return mirror
    if not Path(mirror).is_dir():
        raise InputError(f"--mirror: found {mirror!r}, expected an URL or a directory")
    return Path(mirror).absolute().as_uri()
