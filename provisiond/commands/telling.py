"""What verbs about nodes share: options, questions on a terminal, and how results are told."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import click

from provisiond.client import Client
from provisiond.nodes.attributes import (
    ATTRIBUTES,
    FAMILIES,
    NODE,
    SHOWN_SECRET,
    family_form,
    is_secret,
    render_value,
)
from vnfsbuild.errors import InputError

FROM_INPUT = "-"
SHOWN_MISSING = 5

JSON = click.option("--json", "as_json", is_flag=True, help="All of it, for machines.")
NODES = click.argument("nodes", nargs=-1, required=True, metavar="NODES...")
SOME_NODES = click.argument("nodes", nargs=-1, metavar="[NODES...]")
YES = click.option("--yes", is_flag=True, help="Do not ask.")


def get_nodes(client: Client, nodes: Sequence[str], *, path: str = "/v1/nodes") -> list[Any]:
    """Return the nodes that are asked for, without any all."""
    found: list[Any] = client.get(f"{path}?" + urlencode([("nodes", item) for item in nodes]))
    return found


def confirm(client: Client, nodes: Sequence[str], question: str, *, yes: bool) -> None:
    """Ask on a terminal, unless it is said beforehand, with the names of the nodes.

    Raises:
        Abort: the answer is no.
    """
    if yes or not sys.stdin.isatty():
        return
    names = [item["name"] for item in get_nodes(client, nodes)]
    click.echo(" ".join(names))
    click.confirm(question.format(count=len(names)), abort=True)


def ask(question: str, *, yes: bool) -> None:
    """Ask on a terminal, unless it is said beforehand.

    Raises:
        Abort: the answer is no.
    """
    if not yes and sys.stdin.isatty():
        click.confirm(question, abort=True)


def tell(answer: Mapping[str, Any], what: str) -> None:
    """Show what was done; nodes of a range that are yet to come are worth a warning."""
    warn_missing(answer["missing"])
    waiting = answer.get("waiting", [])
    if waiting:
        more = ", …" if len(waiting) > SHOWN_MISSING else ""
        click.echo(
            f"warning: {len(waiting)} of them are not named one by one and wait for approval: "
            f"{', '.join(waiting[:SHOWN_MISSING])}{more}; provisionctl node approve NODES",
            err=True,
        )
    for name in answer["nodes"]:
        click.echo(f"{name}: {what}")


def warn_missing(missing: Sequence[str]) -> None:
    """Tell which nodes of a range are not known."""
    if missing:
        more = ", …" if len(missing) > SHOWN_MISSING else ""
        click.echo(
            f"warning: {len(missing)} of the nodes named are not known: "
            f"{', '.join(missing[:SHOWN_MISSING])}{more}",
            err=True,
        )


def read_value(key: str, value: str) -> str:
    """Return *value*; when it is ``-`` and *key* is secret, the line that standard input has.

    What stands on a command line, every user of the machine can see.
    """
    if value != FROM_INPUT or not _is_secret(key):
        return value
    if sys.stdin.isatty():
        return str(click.prompt(key, hide_input=True, err=True))
    return sys.stdin.readline()


def tell_set(key: str, value: str) -> str:
    """Return what setting *key* to *value* did, in words."""
    if not value.strip():
        return f"{key} unset"
    return f"{key} = {SHOWN_SECRET if _is_secret(key) else value}"


def _is_secret(key: str) -> bool:
    try:
        return is_secret(key)
    except InputError:
        # The daemon says so, with the nearest key.
        return False


def show_value(value: Any) -> str:
    """Return a value of an attribute, as JSON has it, as a line shows it."""
    return " ".join(value) if isinstance(value, list) else render_value(value)


def attribute_help(scope: str) -> str:
    """Return the table of what can be set in *scope*, for ``--help``."""
    lines = [
        (key, attribute.meaning) for key, attribute in ATTRIBUTES.items()
        if scope in attribute.scopes
    ]  # fmt: skip
    if scope == NODE:
        lines.insert(0, ("groups", "the groups it is in, the strongest first"))
    for name, family in FAMILIES.items():
        fields = [field for field in family.fields if field]
        told = f": {', '.join(fields)}" if fields else ""
        lines.append((family_form(name), f"{family.meaning}{told}"))
    return "\b\n" + "\n".join(f"{key:<17} {meaning}" for key, meaning in lines)
