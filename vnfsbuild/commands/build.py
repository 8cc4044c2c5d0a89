"""``vnfsbuild build``: a recipe becomes a capsule of the store."""

from __future__ import annotations

from collections.abc import Sequence

import click

from vnfsbuild.build import build_capsule
from vnfsbuild.listing import render_table
from vnfsbuild.options import (
    json_option,
    key_option,
    packages_option,
    print_built,
    timings_option,
)
from vnfsbuild.places import Places, find_recipe
from vnfsbuild.referrers.publish import publish_built
from vnfsbuild.stagerecord import StageReport
from vnfsbuild.timings import Timings

SHOWN = 8
"""How many reasons of a stage are printed; ``--json`` has all."""


@click.command("build")
@click.argument("recipe")
@key_option
@packages_option
@click.option("--no-cache", is_flag=True, help="Make every stage: for releases, and to compare.")
@click.option("--explain", is_flag=True, help="Tell which stage was reused, and why others not.")
@timings_option
@json_option
@click.pass_obj
def command(
    places: Places,
    recipe: str,
    key_name: str | None,
    with_packages: bool,
    no_cache: bool,
    explain: bool,
    timings: bool,
    as_json: bool,
) -> None:
    """Build the capsule of RECIPE, sign it, and add it to the store.

    Its bill of materials is kept beside it, and the builder's signed word on how it was made.

    RECIPE is a directory, or a name below ./recipes or among the recipes that come along.

    Stages whose inputs did not change are taken from the cache; the bytes are those that making
    them gives. What leaves the house is built with --no-cache, which also writes nothing there.
    """
    clock = Timings()
    built = build_capsule(
        find_recipe(recipe, places),
        places,
        timings=clock,
        key_name=key_name,
        with_packages=with_packages,
        use_cache=not no_cache,
    )
    publish_built(built, places, key_name=key_name, timings=clock)
    if explain and not as_json:
        click.echo(render_stages(built.stages))
    print_built(built, clock, timings=timings, as_json=as_json)


def render_stages(stages: Sequence[StageReport]) -> str:
    """Return what became of *stages*, and why, as a table."""
    rows = []
    for item in stages:
        shown = list(item.why[:SHOWN])
        if len(item.why) > SHOWN:
            shown.append(f"and {len(item.why) - SHOWN} more: --json has all")
        rows.append((item.stage, item.recipe, item.what, shown[0] if shown else ""))
        rows += [("", "", "", line) for line in shown[1:]]
    return render_table(("STAGE", "RECIPE", "", "WHY"), rows)
