"""``vnfsbuild import``: a ``.vnfs`` file becomes a capsule of the store."""

from __future__ import annotations

from pathlib import Path

import click

from vnfsbuild.files import size_of
from vnfsbuild.keys import load_trust
from vnfsbuild.options import now
from vnfsbuild.places import Places
from vnfsbuild.progress import bar
from vnfsbuild.store import Store


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--no-promote", is_flag=True, help="Leave NAME:current where it is.")
@click.pass_obj
def command(places: Places, file: Path, no_promote: bool) -> None:
    """Verify the capsule in FILE and add it to the store.

    It must be signed as trust.json wants it. NAME:current then means this capsule.
    """
    trust = load_trust(places.site, now=now())
    with bar(f"import {file.name}", total_bytes=size_of(file)) as advance:
        capsule = Store(places.store).import_file(
            file, trust=trust, now=now(), current=not no_promote, advance=advance
        )
    click.echo(f"{capsule.name}:{capsule.config.serial}@{capsule.digest}")
