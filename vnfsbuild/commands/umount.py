"""``vnfsbuild umount``: the end of looking at a mounted capsule."""

from __future__ import annotations

from pathlib import Path

import click

from vnfsbuild.inside.mounts import unmount_capsule
from vnfsbuild.places import Places
from vnfsbuild.store.store import Store


@click.command("umount")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.pass_obj
def command(places: Places, directory: Path) -> None:
    """Undo what mount did on DIR, and take the capsule's pin back.

    After a crash or a reboot only the pin may be left: then that is what goes.
    """
    if unmount_capsule(directory, Store(places.store)) is None:
        click.echo(f"{directory}: was not mounted any more; its pin is taken back", err=True)
