"""``vnfsbuild bootstrap``: the small system that fetches, verifies and starts capsules."""

from __future__ import annotations

from pathlib import Path

import click

from vnfsbuild.bootstrap import build_bootstrap
from vnfsbuild.options import (
    json_option,
    key_option,
    packages_option,
    print_built,
    timings_option,
)
from vnfsbuild.places import Places
from vnfsbuild.referrers.publish import publish_built
from vnfsbuild.timings import Timings


@click.group("bootstrap")
def command() -> None:
    """Build the bootstrap OS, which nodes run before their capsule."""


@command.command("build")
@click.argument("recipe", type=click.Path(path_type=Path), required=False)
@key_option
@packages_option
@timings_option
@json_option
@click.pass_obj
def build(
    places: Places,
    recipe: Path | None,
    key_name: str | None,
    with_packages: bool,
    timings: bool,
    as_json: bool,
) -> None:
    """Build the bootstrap OS from the directory RECIPE, by default the one that comes along.

    It becomes the artifact "bootstrap" of the store, signed by the same keys as capsules.
    """
    clock = Timings()
    directory = recipe or places.share / "bootstrap-kernel"
    built = build_bootstrap(
        directory, places, timings=clock, key_name=key_name, with_packages=with_packages
    )
    publish_built(built, places, key_name=key_name, timings=clock)
    print_built(built, clock, timings=timings, as_json=as_json)
