"""``vnfsbuild lock``: what a recipe means today, written down."""

from __future__ import annotations

from dataclasses import asdict

import click

from vnfsbuild.changes import Change, KeyChange, make_changes, make_key_changes, render_changes
from vnfsbuild.childlock import make_lock
from vnfsbuild.listing import render_document
from vnfsbuild.lock import Lock
from vnfsbuild.newlock import Update
from vnfsbuild.options import DIFFERENT, json_option
from vnfsbuild.places import Places, find_recipe
from vnfsbuild.recipefiles import LoadedRecipe, load_recipe
from vnfsbuild.resolve import find_unfit, make_request, save_lock


@click.command("lock")
@click.argument("recipe")
@click.argument("names", nargs=-1, metavar="[PACKAGE]...")
@click.option("--update", is_flag=True, help="Move everything, or the PACKAGEs, to the newest.")
@click.option("--diff", is_flag=True, help="Show what a new lock would change; write nothing.")
@click.option("--check", is_flag=True, help="Only tell whether a build takes the lock as it is.")
@click.option("--exit-code", is_flag=True, help="Exit status 4 when it changes, or would.")
@click.option("--rebase", is_flag=True, help="Lay it upon its base as that is locked today.")
@click.option("--allow-older", is_flag=True, help="Take metadata older than the lock's.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    recipe: str,
    names: tuple[str, ...],
    update: bool,
    diff: bool,
    check: bool,
    exit_code: bool,
    rebase: bool,
    allow_older: bool,
    as_json: bool,
) -> None:
    """Write recipe.lock beside RECIPE: which packages it means, exactly.

    Where there is a lock, its packages stay as far as they go with the recipe; --update moves all
    of them to what the repositories have today, or only the PACKAGEs and what these force. The
    serial grows by one when anything changed. --check needs no network and writes nothing; its
    exit status is 4 when a build would want another lock.
    """
    places: Places = ctx.obj
    if names and not update:
        raise click.UsageError(f"Packages are named with --update: {' '.join(names)}")
    loaded = load_recipe(find_recipe(recipe, places))
    if check:
        if update or diff or rebase or allow_older:
            raise click.UsageError("--check goes with --json alone")
        ctx.exit(_check(loaded, as_json=as_json))
    # "What would be new?" asks about everything, unless packages are named.
    wanted = Update(everything=(update or diff) and not names, names=names)
    request = make_request(
        loaded, cache=places.cache, update=wanted, allow_older=allow_older, rebase=rebase
    )
    lock = make_lock(request)
    changes = make_changes(request.before, lock)
    keys = make_key_changes(request.before, lock)
    if not diff and lock != request.before:
        save_lock(lock, loaded)
    status = DIFFERENT if exit_code and lock != request.before else 0
    if as_json:
        found = {
            **_describe(changes, keys),
            "path": str(loaded.lock_path),
            "serial": lock.serial,
            "epoch": lock.epoch,
            "packages": len(lock.packages),
            "tools": len(lock.tools),
            "changed": lock != request.before,
            "written": not diff and lock != request.before,
        }
        click.echo(render_document(found))
        ctx.exit(status)
    if request.before is not None:
        for line in render_changes(changes, keys):
            click.echo(line)
    click.echo(f"{loaded.lock_path}: {_render_end(request.before, lock, diff=diff)}")
    ctx.exit(status)


def _check(loaded: LoadedRecipe, *, as_json: bool) -> int:
    """Tell whether a build would take the lock as it is; return the exit status."""
    reasons = find_unfit(loaded)
    if as_json:
        facts = {"path": str(loaded.lock_path), "fresh": not reasons, "reasons": reasons}
        click.echo(render_document(facts))
    elif reasons:
        click.echo("\n".join(reasons))
        click.echo(f"hint: vnfsbuild lock {loaded.directory}", err=True)
    else:
        click.echo(f"{loaded.lock_path}: fresh")
    return DIFFERENT if reasons else 0


def _describe(changes: tuple[Change, ...], keys: tuple[KeyChange, ...]) -> dict[str, object]:
    return {
        "changes": [asdict(item) for item in changes],
        "keyChanges": [asdict(item) for item in keys],
    }


def _render_end(before: Lock | None, lock: Lock, *, diff: bool) -> str:
    size = f"serial {lock.serial}, {len(lock.packages)} packages, {len(lock.tools)} of the tools"
    if lock == before:
        return f"unchanged: {size}"
    return f"would be {size}; nothing written" if diff else size
