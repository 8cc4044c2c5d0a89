"""``vnfsbuild cache``: what came out of stages, kept for the next build."""

from __future__ import annotations

import time
from typing import Any

import click

from vnfsbuild.digest import short
from vnfsbuild.listing import render_document, render_size, render_table
from vnfsbuild.options import json_option
from vnfsbuild.places import Places
from vnfsbuild.stagecache import STAGES, Entry, StageCache, find_limit, parse_size


@click.group("cache")
def command() -> None:
    """Show and trim what came out of stages."""


@command.command("show")
@json_option
@click.pass_obj
def show(places: Places, as_json: bool) -> None:
    """List what is kept, what was used last first, and how large it may become."""
    entries = StageCache(places.cache / STAGES).list_entries()
    size_bytes, limit_bytes = sum(item.size_bytes for item in entries), find_limit()
    if as_json:
        facts = [_facts(item) for item in entries]
        found = {"entries": facts, "sizeBytes": size_bytes, "limitBytes": limit_bytes}
        click.echo(render_document(found))
        return
    rows = [
        (item.stage, item.recipe, short(item.key), render_size(item.size_bytes), _when(item))
        for item in entries
    ]
    if rows:
        click.echo(render_table(("STAGE", "RECIPE", "KEY", "SIZE", "USED"), rows))
    click.echo(
        f"{places.cache / STAGES}: {len(entries)} entries, {render_size(size_bytes)} of at most "
        f"{render_size(limit_bytes)}"
    )


@command.command("gc")
@click.option("--limit", metavar="SIZE", help="As in 500M or 20GB; else VNFS_CACHE_LIMIT, or 20GB.")
@click.option("--all", "everything", is_flag=True, help="Remove all of it.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@json_option
@click.pass_obj
def gc(places: Places, limit: str | None, everything: bool, dry_run: bool, as_json: bool) -> None:
    """Remove what was not used for longest, until the rest is within the limit.

    A build that is running keeps what it has open; whatever went is made anew when it is wanted.
    """
    if everything and limit:
        raise click.UsageError("--all goes without --limit")
    limit_bytes = parse_size(limit, where="--limit") if limit else find_limit()
    cache = StageCache(places.cache / STAGES)
    gone = cache.trim(-1 if everything else limit_bytes, dry_run=dry_run)
    size_bytes = sum(item.size_bytes for item in gone)
    if as_json:
        facts = [_facts(item) for item in gone]
        click.echo(render_document({"removed": facts, "sizeBytes": size_bytes, "dryRun": dry_run}))
        return
    for item in gone:
        click.echo(f"{item.stage} of {item.recipe} ({short(item.key)})")
    would = "would be freed" if dry_run else "freed"
    click.echo(f"{len(gone)} entries, {render_size(size_bytes)} {would}")


def _when(item: Entry) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(item.used))


def _facts(item: Entry) -> dict[str, Any]:
    return {
        "key": item.key,
        "recipe": item.recipe,
        "sizeBytes": item.size_bytes,
        "stage": item.stage,
        "used": int(item.used),
    }
