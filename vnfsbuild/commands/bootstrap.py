"""``vnfsbuild bootstrap``: the small system that fetches, verifies and starts capsules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from vnfsbuild.bootstrap import build_bootstrap
from vnfsbuild.inside.drivers import ARCHIVE, INITRD, Driver, Found, find_drivers, total_bytes
from vnfsbuild.inside.opened import Opened, open_capsule_at
from vnfsbuild.listing import printable, render_document, render_size, render_table
from vnfsbuild.options import (
    json_option,
    key_option,
    packages_option,
    print_built,
    timings_option,
)
from vnfsbuild.places import Places
from vnfsbuild.referrers.publish import publish_built
from vnfsbuild.store.store import Store
from vnfsbuild.timings import Timings


@click.group("bootstrap")
def command() -> None:
    """Build the bootstrap OS, which nodes run before their capsule; look into it."""


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


@command.command("show")
@click.argument("bootstrap", metavar="[REFERENCE|FILE]", default="bootstrap")
@click.option("--all", "show_all", is_flag=True, help="Modules that no hardware asks for, too.")
@json_option
@click.pass_obj
def show(places: Places, bootstrap: str, show_all: bool, as_json: bool) -> None:
    """Show what is in a bootstrap: sizes, protocol, and which hardware it drives.

    The drivers of the initrd are there on every node; those of drivers.cpio are given to nodes
    whose hardware takes one of them, or whose attribute "drivers" is true.
    """
    with open_capsule_at(bootstrap, Store(places.store)) as opened:
        found = find_drivers(opened)
        value = describe_bootstrap(opened, found)
    if as_json:
        click.echo(render_document(value))
        return
    sizes = value["sizes"]
    told = ", ".join(f"{name} {render_size(size)}" for name, size in sizes.items())
    lines = [
        ("name", f"{value['name']}:{value['serial']}"),
        ("digest", value["digest"]),
        ("kernel", value["kernel"]),
        ("protocol", str(found.protocol)),
        ("size", told),
        ("every node", f"{render_size(sizes['kernel'] + sizes['initrd'])}: kernel and initrd"),
    ]
    click.echo("\n".join(f"{label + ':':<12}{text}" for label, text in lines))
    for payload, title in ((INITRD, "in the initrd"), (ARCHIVE, "in drivers.cpio")):
        mine = [driver for driver in found.drivers if driver.payload == payload]
        if mine:
            total = render_size(total_bytes(found.drivers, payload))
            click.echo(f"\n{title}: {len(mine)} modules, {total}\n")
            click.echo(_render_drivers(mine, show_all=show_all))


def describe_bootstrap(opened: Opened, found: Found) -> dict[str, Any]:
    """Return what ``bootstrap show --json`` tells."""
    config = opened.head.capsule.config
    return {
        "name": config.name,
        "serial": config.serial,
        "digest": opened.digest,
        "kernel": config.kernel.version,
        "protocol": found.protocol,
        "sizes": {
            name: payload.size_bytes
            for name, payload in opened.payloads.items()
            if name != "source"
        },
        "drivers": [
            {
                "name": driver.name,
                "payload": driver.payload,
                "group": driver.group,
                "description": driver.description,
                "hardware": driver.hardware,
                "firmware": list(driver.firmware),
                "sizeBytes": driver.size_bytes,
            }
            for driver in found.drivers
        ],
    }


def _render_drivers(drivers: Sequence[Driver], *, show_all: bool) -> str:
    shown = [driver for driver in drivers if driver.hardware or show_all]
    rows = [
        (
            driver.group,
            driver.name,
            render_size(driver.size_bytes),
            printable(driver.description) + (" (firmware files)" if driver.firmware else ""),
        )
        for driver in shown
    ]
    table = render_table(("FOR", "MODULE", "SIZE", "DRIVES"), rows)
    left = len(drivers) - len(shown)
    return f"{table}\nand {left} that these need, or that are asked for: --all" if left else table
