"""``vnfsbuild gc``: what nothing in the store names goes."""

from __future__ import annotations

import click

from vnfsbuild.commands.delete import print_removed
from vnfsbuild.options import json_option
from vnfsbuild.places import Places
from vnfsbuild.store.store import Store


@click.command("gc")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@json_option
@click.pass_obj
def command(places: Places, dry_run: bool, as_json: bool) -> None:
    """Remove blobs that nothing names, and what killed commands left.

    No capsule goes: delete does that. What a build or an import that is running has brought stays.
    """
    removed = Store(places.store).gc(dry_run=dry_run)
    print_removed(removed, dry_run=dry_run, as_json=as_json)
