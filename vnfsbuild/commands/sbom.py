"""``vnfsbuild sbom``: what is in a capsule, for scanners and for people who must answer for it."""

from __future__ import annotations

from pathlib import Path

import click

from vnfsbuild.errors import VnfsbuildError
from vnfsbuild.files import write_atomic
from vnfsbuild.places import Places
from vnfsbuild.referrers.publish import read_lock
from vnfsbuild.referrers.sbom import make_sbom
from vnfsbuild.store.store import Store


@click.command("sbom")
@click.argument("capsule", metavar="FILE|REFERENCE")
@click.option(
    "--out", metavar="FILE", type=click.Path(path_type=Path), help="Write it there instead."
)
@click.pass_obj
def command(places: Places, capsule: str, out: Path | None) -> None:
    """Print the bill of materials of a capsule: SPDX 2.3, in JSON.

    It is derived from the source in the capsule, whose every byte is verified; nobody need have
    signed it.
    """
    head, lock = read_lock(capsule, Store(places.store))
    data = make_sbom(head.capsule, lock)
    if out is None:
        click.echo(data, nl=False)
        return
    try:
        write_atomic(out, data)
    except OSError as error:
        raise VnfsbuildError(f"{out}: cannot be written: {error.strerror}") from error
    click.echo(out)
