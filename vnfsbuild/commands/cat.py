"""``vnfsbuild cat``: the content of one file of a capsule."""

from __future__ import annotations

import sys

import click

from vnfsbuild.inside.look import ARCHIVES, open_archive, open_root
from vnfsbuild.inside.opened import open_capsule_at
from vnfsbuild.places import Places
from vnfsbuild.store.store import Store
from vnfsbuild.toolstree import ensure_tools_tree


@click.command("cat")
@click.argument("capsule", metavar="REFERENCE|FILE")
@click.argument("path")
@click.option("--payload", type=click.Choice(ARCHIVES), help="A file of that payload instead.")
@click.pass_obj
def command(places: Places, capsule: str, path: str, payload: str | None) -> None:
    """Write the content of the file PATH of a capsule to standard output.

    Links are followed as on a node, inside the capsule alone. The layer is verified before a byte
    of it is written; who signed the capsule is not asked here: see verify. A name with a slash or
    with the ending .vnfs is a file.
    """
    with open_capsule_at(capsule, Store(places.store)) as opened:
        if payload:
            tree = open_archive(opened, payload)
        else:
            tree = open_root(opened, find_tools=lambda: ensure_tools_tree("build", places.cache))
        found = tree.find_file(path)
        out = sys.stdout.buffer
        for data in tree.read_file(found):
            out.write(data)
        out.flush()
