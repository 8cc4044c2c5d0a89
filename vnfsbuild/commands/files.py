"""``vnfsbuild files``: what is in a capsule, as a node will see it."""

from __future__ import annotations

import stat
from datetime import UTC, datetime
from os import major, minor
from typing import Any

import click

from vnfsbuild.errors import InputError
from vnfsbuild.inside.capability import render_capabilities
from vnfsbuild.inside.look import ARCHIVES, Tree, open_archive, open_layer_alone, open_root
from vnfsbuild.inside.opened import open_capsule_at
from vnfsbuild.inside.union import WHITEOUT, Placed, is_chosen, is_whiteout, plain, shown, type_of
from vnfsbuild.layer import CAPABILITY, Entry
from vnfsbuild.listing import render_document, render_table
from vnfsbuild.options import json_option
from vnfsbuild.places import Places
from vnfsbuild.store.store import Store
from vnfsbuild.toolstree import ensure_tools_tree

LONG_HEADER = ("MODE", "OWNER", "SIZE", "TIME", "PATH")


@click.command("files")
@click.argument("capsule", metavar="REFERENCE|FILE")
@click.argument("globs", nargs=-1, metavar="[GLOB]...")
@click.option("--long", "is_long", is_flag=True, help="Mode, owner, size, time, attributes too.")
@click.option("--layer", metavar="NAME", help="One layer alone, with its whiteouts.")
@click.option("--payload", type=click.Choice(ARCHIVES), help="What is in that payload instead.")
@json_option
@click.pass_obj
def command(
    places: Places,
    capsule: str,
    globs: tuple[str, ...],
    is_long: bool,
    layer: str | None,
    payload: str | None,
    as_json: bool,
) -> None:
    """List the files of a capsule as a node will see them: all layers as one tree.

    Every byte that is read has the digest that the capsule names; who signed it is not asked here:
    see verify. A GLOB with a slash is a path, one without a name anywhere; both mean a directory
    with all that is in it. A name with a slash or with the ending .vnfs is a file.
    """
    if layer and payload:
        raise click.UsageError("--layer and --payload do not go together")
    with open_capsule_at(capsule, Store(places.store)) as opened:
        if payload:
            tree = open_archive(opened, payload)
        elif layer:
            tree = open_layer_alone(
                opened, layer, find_tools=lambda: ensure_tools_tree("build", places.cache)
            )
        else:
            tree = open_root(opened, find_tools=lambda: ensure_tools_tree("build", places.cache))
    found = [item for item in tree.listed if is_chosen(item.entry.path, globs)]
    if globs and not found:
        raise InputError(f"{tree.where}: has no file {' or '.join(map(plain, globs))}")
    if as_json:
        click.echo(render_document([describe(item, tree) for item in found]))
    elif is_long:
        click.echo(render_table(LONG_HEADER, [_row(item.entry) for item in found]))
    else:
        click.echo("\n".join(shown(item.entry.path) for item in found))


def describe(placed: Placed, tree: Tree) -> dict[str, Any]:
    """Return what ``--json`` tells of a file."""
    entry = placed.entry
    capability = entry.xattrs.get(CAPABILITY)
    facts: dict[str, Any] = {
        "path": "/" if entry.path == "." else f"/{entry.path}",
        "type": _type(entry),
        "mode": f"{stat.S_IMODE(entry.mode):04o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "sizeBytes": entry.size_bytes,
        "mtime": entry.mtime,
        "layer": tree.names[placed.layer],
        "xattrs": {name: value.hex() for name, value in sorted(entry.xattrs.items())},
    }
    if stat.S_ISLNK(entry.mode):
        facts["target"] = entry.target
    if _is_device(entry):
        facts["device"] = [major(entry.device), minor(entry.device)]
    if capability is not None:
        facts["capabilities"] = render_capabilities(capability)
    return facts


def _row(entry: Entry) -> tuple[str, ...]:
    size = str(entry.size_bytes)
    if _is_device(entry):
        size = f"{major(entry.device)},{minor(entry.device)}"
    told = shown(entry.path)
    if is_whiteout(entry):
        told = f"{told}  (whiteout)"
    if stat.S_ISLNK(entry.mode):
        told = f"{told} -> {plain(entry.target)}"
    for name, value in sorted(entry.xattrs.items()):
        text = render_capabilities(value) if name == CAPABILITY else f"{name}={value.hex()}"
        told = f"{told}  [{text}]"
    return (
        stat.filemode(entry.mode),
        f"{entry.uid}:{entry.gid}",
        size,
        f"{datetime.fromtimestamp(entry.mtime, UTC):%Y-%m-%d %H:%M:%S}",
        told,
    )


def _type(entry: Entry) -> str:
    return WHITEOUT if is_whiteout(entry) else type_of(entry)


def _is_device(entry: Entry) -> bool:
    return stat.S_ISCHR(entry.mode) or stat.S_ISBLK(entry.mode)
