"""``vnfsbuild mount``: a capsule as a directory, to look at."""

from __future__ import annotations

from pathlib import Path

import click

from vnfsbuild.inside.mounts import mount_capsule, require_root
from vnfsbuild.options import now
from vnfsbuild.places import Places
from vnfsbuild.signing.keys import load_trust
from vnfsbuild.store.store import Store


@click.command("mount")
@click.argument("capsule", metavar="REFERENCE|FILE")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.pass_obj
def command(places: Places, capsule: str, directory: Path) -> None:
    """Mount a capsule read-only on the empty directory DIR, as a node will see it.

    Every byte of it is verified before, and that it is signed as trust.json wants it. A capsule of
    the store is pinned as long as it is mounted. A name with a slash or with the ending .vnfs is a
    file. Needs root.
    """
    require_root("mount")
    trust = load_trust(places.site, now=now())
    done = mount_capsule(capsule, directory, Store(places.store), trust=trust, now=now())
    click.echo(f"{capsule}@{done.digest}: mounted on {done.directory}", err=True)
