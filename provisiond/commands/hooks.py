"""``provisionctl hooks``: the programs that are run for events, and how they do."""

from __future__ import annotations

import click

from provisiond.commands.context import Context
from provisiond.commands.telling import JSON
from vnfsbuild.listing import render_document, render_table


@click.command()
@JSON
@click.pass_obj
def command(context: Context, as_json: bool) -> None:
    """Show the programs that are run for events, and how they did since the daemon was started."""
    found = context.client().get("/v1/status")["hooks"]
    if as_json:
        click.echo(render_document(found))
        return
    rows = [
        (
            item["hook"],
            str(item["runs"]),
            str(item["failures"]),
            str(item["behind"]),
            item["lastFault"] or "-",
        )
        for item in found
    ]
    click.echo(render_table(("HOOK", "RUNS", "FAILURES", "BEHIND", "LAST FAULT"), rows))
