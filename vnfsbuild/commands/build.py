"""``vnfsbuild build``: a recipe becomes a capsule of the store."""

from __future__ import annotations

import click

from vnfsbuild.build import build_capsule
from vnfsbuild.options import (
    json_option,
    key_option,
    packages_option,
    print_built,
    timings_option,
)
from vnfsbuild.places import Places, find_recipe
from vnfsbuild.referrers.publish import publish_built
from vnfsbuild.timings import Timings


@click.command("build")
@click.argument("recipe")
@key_option
@packages_option
@timings_option
@json_option
@click.pass_obj
def command(
    places: Places,
    recipe: str,
    key_name: str | None,
    with_packages: bool,
    timings: bool,
    as_json: bool,
) -> None:
    """Build the capsule of RECIPE, sign it, and add it to the store.

    Its bill of materials is kept beside it, and the builder's signed word on how it was made.

    RECIPE is a directory, or a name below ./recipes or among the recipes that come along.
    """
    clock = Timings()
    built = build_capsule(
        find_recipe(recipe, places),
        places,
        timings=clock,
        key_name=key_name,
        with_packages=with_packages,
    )
    publish_built(built, places, key_name=key_name, timings=clock)
    print_built(built, clock, timings=timings, as_json=as_json)
