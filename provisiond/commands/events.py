"""``provisionctl events``: what happened, and what happens."""

from __future__ import annotations

import datetime
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import click

from provisiond.client import Client
from provisiond.commands.context import Context
from provisiond.commands.telling import JSON
from vnfsbuild.errors import InputError
from vnfsbuild.listing import render_document, render_table

WAIT_SECONDS = 25
_AGO = re.compile(r"([0-9]+)([smhd])\Z")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@click.command()
@click.option("--follow", is_flag=True, help="Go on with what happens from now on.")
@click.option("--since", metavar="ID|AGO|TIME",
              help="After the event ID; or from 10m, 2h, 1d ago, 2026-01-31T08:00.")  # fmt: skip
@click.option("--node", "nodes", metavar="NODES", multiple=True,
              help="About these nodes; may stand several times.")  # fmt: skip
@click.option("--kind", "kinds", metavar="KIND", multiple=True,
              help="Of this kind; may stand several times.")  # fmt: skip
@JSON
@click.pass_obj
def command(
    context: Context,
    follow: bool,
    since: str | None,
    nodes: Sequence[str],
    kinds: Sequence[str],
    as_json: bool,
) -> None:
    """Tell what happened to nodes, capsules and settings: the last 10 000 events.

    With --follow and --json a document for each event, a line each.
    """
    query = [*_parse_since(since, now=time.time())]
    query += [("nodes", item) for item in nodes] + [("kind", item) for item in kinds]
    client = context.client()
    if follow:
        for event in _follow(client, query):
            click.echo(json.dumps(event, ensure_ascii=False) if as_json else _line(event))
        return
    found = client.get(f"/v1/events?{urlencode(query)}")["events"]
    if as_json:
        click.echo(render_document(found))
        return
    rows = [_row(event) for event in found]
    click.echo(render_table(("ID", "TIME", "KIND", "NODE", "WHAT"), rows))


def _follow(client: Client, query: Sequence[tuple[str, Any]]) -> Iterator[Mapping[str, Any]]:
    rest = [(key, value) for key, value in query if key != "since"]
    since = next((value for key, value in query if key == "since"), None)
    if since is None:
        asked = any(key == "after" for key, _ in query)
        since = 0 if asked else client.get("/v1/status")["lastEvent"]
    while True:
        words = urlencode([("since", since), ("wait", WAIT_SECONDS), *rest])
        answer = client.get(f"/v1/events?{words}")
        since = answer["last"]
        yield from answer["events"]


def _parse_since(text: str | None, *, now: float) -> list[tuple[str, Any]]:
    if text is None:
        return []
    if text.isdecimal():
        return [("since", int(text))]
    ago = _AGO.match(text)
    if ago:
        return [("after", max(0, int(now) - int(ago[1]) * _UNITS[ago[2]]))]
    try:
        at = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError(
            f"--since: found {text!r:.80}, expected the id of an event, 10m, 2h, 1d, or a time as "
            "2026-01-31T08:00"
        ) from error
    return [("after", max(0, int(at.timestamp())))]


def _row(event: Mapping[str, Any]) -> tuple[str, ...]:
    at = datetime.datetime.fromtimestamp(event["time"]).astimezone().isoformat(" ", "seconds")
    return (str(event["id"]), at, event["kind"], event["node"] or "-", event["text"])


def _line(event: Mapping[str, Any]) -> str:
    return " ".join(_row(event)[1:])
