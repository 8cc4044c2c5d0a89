"""``provisionctl export`` and ``import``: all that is set, as one file to keep in git."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from provisiond.commands.context import Context
from provisiond.commands.telling import JSON, YES, ask
from vnfsbuild.errors import InputError
from vnfsbuild.files import read_bounded, write_atomic
from vnfsbuild.listing import render_document

MAX_DOCUMENT_BYTES = 60 * 1024 * 1024
SHOWN_GONE = 5
STANDARD = "-"
DRY_RUN = click.option("--dry-run", is_flag=True, help="Only tell what would change.")

_SIGNS = {"added": "+", "changed": "~", "removed": "-"}


@click.command()
@click.argument("file", required=False, default=STANDARD)
@click.option("--secrets", is_flag=True, help="Password hashes too; only the owner reads the file.")
@click.pass_obj
def export(context: Context, file: str, secrets: bool) -> None:
    """Write defaults, groups, capsules' settings and nodes as TOML, to FILE or standard output.

    The same state gives the same bytes. Without --secrets, import keeps the secrets that are set.
    """
    document = context.client().get(f"/v1/export?secrets={int(secrets)}")["document"]
    if file == STANDARD:
        click.echo(document, nl=False)
        return
    write_atomic(Path(file), document.encode("utf-8"), mode=0o600 if secrets else 0o644)


@click.command()
@click.argument("file")
@DRY_RUN
@YES
@JSON
@click.pass_obj
def import_(context: Context, file: str, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Make FILE all that is set, and tell each difference; - is standard input.

    What it does not name is forgotten: nodes, groups, values. All of it is done, or nothing.
    """
    client = context.client()
    value = {"document": read_document(file), "where": file, "dryRun": True}
    found = client.post("/v1/import", value)["changes"]
    if not as_json:
        tell_changes(found)
    gone = [item["subject"] for item in found if item["change"] == "removed"]
    if gone and not dry_run:
        more = ", …" if len(gone) > SHOWN_GONE else ""
        ask(f"Forget {', '.join(gone[:SHOWN_GONE])}{more}?", yes=yes)
    done = {"changes": found, "applied": False}
    if not dry_run:
        done = client.post("/v1/import", {**value, "dryRun": False})
    if as_json:
        click.echo(render_document(done))


def read_document(file: str) -> str:
    """Return the text of *file*; ``-`` is standard input.

    Raises:
        InputError: it cannot be read, is too large, or is not UTF-8.
    """
    if file == STANDARD:
        data = sys.stdin.buffer.read(MAX_DOCUMENT_BYTES + 1)
        if len(data) > MAX_DOCUMENT_BYTES:
            raise InputError(f"standard input: more than {MAX_DOCUMENT_BYTES} bytes")
    else:
        data = read_bounded(Path(file), limit_bytes=MAX_DOCUMENT_BYTES)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: found bytes that are not UTF-8") from error


def tell_changes(changes: Sequence[Mapping[str, Any]]) -> None:
    """Show each difference on a line: + is added, ~ changed, - removed."""
    for item in changes:
        line = f"{_SIGNS[item['change']]} {item['subject']}"
        if item["key"] is not None:
            line += f": {item['key']}: {_change(item['old'], item['new'])}"
        click.echo(line)


def _change(old: str | None, new: str | None) -> str:
    if old is None:
        return str(new)
    return f"{old} → {'nothing' if new is None else new}"
