"""``vnfsbuild delete``: capsules that nobody needs any more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from vnfsbuild.errors import InputError
from vnfsbuild.inside.mounts import drop_stale_pins
from vnfsbuild.listing import render_document, render_size
from vnfsbuild.options import json_option
from vnfsbuild.places import Places
from vnfsbuild.reference import parse_name, parse_reference
from vnfsbuild.store.keeper import Removed
from vnfsbuild.store.store import Store


@click.command("delete")
@click.argument("references", nargs=-1, required=True, metavar="REFERENCE...")
@click.option(
    "--keep", type=click.IntRange(min=1), metavar="N",
    help="REFERENCE is a name: delete all but its N highest serials.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only say what --keep would delete.")
@click.option("--force", is_flag=True, help="Delete what must stay, too; say why it was to stay.")
@json_option
@click.pass_obj
def command(
    places: Places,
    references: Sequence[str],
    keep: int | None,
    dry_run: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Delete capsules with all their tags, and the blobs that no other capsule has.

    All of them or none. A capsule stays, and the reasons are told, when it is pinned, or when a
    bare NAME means it and there are others of that name. With --keep what is pinned, and what has
    a tag besides its serial, is passed over.
    """
    store = Store(places.store)
    drop_stale_pins(store)
    if keep is None:
        if dry_run:
            raise InputError("delete --dry-run: only with --keep", hint="vnfsbuild show REFERENCE")
        removed = store.delete(*map(parse_reference, references), force=force)
    else:
        if force:
            raise InputError("delete: --keep passes over what must stay, --force overrides that",
                             hint="name the capsules to force")  # fmt: skip
        names = [parse_name(name, where="delete --keep") for name in references]
        removed = store.delete_old(names, keep=keep, dry_run=dry_run)
    print_removed(removed, dry_run=dry_run, as_json=as_json)


def print_removed(removed: Removed, *, dry_run: bool, as_json: bool) -> None:
    """Print what went."""
    if as_json:
        click.echo(render_document({**_facts(removed), "dryRun": dry_run}))
        return
    verb = "would delete" if dry_run else "deleted"
    for item in removed.capsules:
        click.echo(f"{verb} {item.name} {item.digest}")
        for reason in item.overridden:
            click.echo(f"warning: {item.name}: overridden: {reason}", err=True)
    for path in removed.leftovers:
        click.echo(f"{'would remove' if dry_run else 'removed'} {path}")
    click.echo(f"{len(removed.blobs)} blobs, {render_size(removed.size_bytes)}")


def _facts(removed: Removed) -> dict[str, Any]:
    return {
        "capsules": [
            {
                "name": item.name,
                "digest": item.digest,
                "tags": list(item.tags),
                "overridden": list(item.overridden),
            }
            for item in removed.capsules
        ],
        "blobs": list(removed.blobs),
        "leftovers": list(removed.leftovers),
        "sizeBytes": removed.size_bytes,
    }
