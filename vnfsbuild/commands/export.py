"""``vnfsbuild export``: a capsule of the store becomes a ``.vnfs`` file."""

from __future__ import annotations

from pathlib import Path

import click

from vnfsbuild.capsule import payload_bytes
from vnfsbuild.errors import InputError
from vnfsbuild.packageset import MEDIA_TYPE as PACKAGES
from vnfsbuild.places import Places
from vnfsbuild.progress import bar
from vnfsbuild.reference import parse_reference
from vnfsbuild.store.store import Store
from vnfsbuild.transfer.chunkindex import attach_chunk_index
from vnfsbuild.transfer.chunks import MEDIA_TYPE as CHUNKS


@click.command("export")
@click.argument("reference")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option(
    "--packages",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write its package set to FILE too.",
)
@click.option("--chunks", is_flag=True, help="Write its chunk index to FILE.chunks too.")
@click.pass_obj
def command(
    places: Places, reference: str, file: Path | None, packages: Path | None, chunks: bool
) -> None:
    """Write a capsule of the store, with its signatures, to FILE (NAME.vnfs).

    REFERENCE is NAME[:TAG][@DIGEST]. A FILE that is there is replaced once the new one is whole.
    The package set, which build --with-packages keeps, is no part of that file. Neither is the
    chunk index: on a web server it lies beside the file, and import URL fetches less by it.
    """
    store = Store(places.store)
    capsule = store.get(parse_reference(reference))
    path = file or Path(f"{capsule.name}.vnfs")
    if packages:
        if capsule.attached(PACKAGES) is None:
            raise InputError(
                f"{reference}: has no package set", hint="vnfsbuild build --with-packages RECIPE"
            )
        store.export_attachment(capsule, PACKAGES, packages)
    with bar(f"export {path.name}", total_bytes=payload_bytes(capsule.head)) as advance:
        store.export(parse_reference(reference), path, advance=advance)
    if chunks:
        attach_chunk_index(store, capsule)
        beside = path.with_name(f"{path.name}.chunks")
        store.export_attachment(store.get(parse_reference(reference)), CHUNKS, beside)
    click.echo(path)
