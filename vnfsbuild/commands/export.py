"""``vnfsbuild export``: a capsule of the store becomes a ``.vnfs`` file."""

from __future__ import annotations

from pathlib import Path

import click

from vnfsbuild.capsule import payload_bytes
from vnfsbuild.places import Places
from vnfsbuild.progress import bar
from vnfsbuild.reference import parse_reference
from vnfsbuild.store import Store


@click.command("export")
@click.argument("reference")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.pass_obj
def command(places: Places, reference: str, file: Path | None) -> None:
    """Write a capsule of the store, with its signatures, to FILE (NAME.vnfs).

    REFERENCE is NAME[:TAG][@DIGEST]. A FILE that is there is replaced once the new one is whole.
    """
    store = Store(places.store)
    capsule = store.get(parse_reference(reference))
    path = file or Path(f"{capsule.name}.vnfs")
    with bar(f"export {path.name}", total_bytes=payload_bytes(capsule.head)) as advance:
        store.export(parse_reference(reference), path, advance=advance)
    click.echo(path)
