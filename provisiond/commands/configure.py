"""``provisionctl vnfs configure``: what counts for all nodes of a capsule, kept with its name."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from provisiond.client import Client
from provisiond.commands.context import Context
from provisiond.commands.telling import show_value
from provisiond.nodes.attributes import CAPSULE, find_attribute, parse_value, render_value
from provisiond.nodes.values import parse_password_hash
from vnfsbuild.errors import InputError, VnfsbuildError
from vnfsbuild.fields import parse_toml
from vnfsbuild.files import read_bounded
from vnfsbuild.reference import parse_reference
from vnfsbuild.tools import capture

ROOT_PASSWORD = "root_password"
QUESTIONS: Mapping[str, str] = {
    "boot_interface": "Device of the provisioning network in the capsule (as eth0)",
    "console": "Consoles, the last the main one (as tty0 ttyS0,115200)",
    "server": "Host that services of the capsule turn to",
    "dns": "Name servers",
    "ntp": "Time servers",
    "syslog": "Host that takes the log",
}
"""Attribute → what is asked for it, besides the password of root."""
MAX_FILE_BYTES = 1024 * 1024


@click.command()
@click.argument("name")
@click.option("--set", "settings", metavar="KEY=VALUE", multiple=True,
              help="Set an attribute; may stand several times.")  # fmt: skip
@click.option(
    "--root-password-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Root's password, or its hash, in the first line; - for standard input.",
)
@click.option("--from", "source", type=click.Path(path_type=Path), metavar="FILE",
              help="Attributes as TOML.")  # fmt: skip
@click.pass_obj
def configure(
    context: Context,
    name: str,
    settings: Sequence[str],
    root_password_file: Path | None,
    source: Path | None,
) -> None:
    """Set what counts for all nodes that boot the capsule NAME, whichever version of it.

    Without options it asks, on a terminal.
    """
    client = context.client()
    name = parse_reference(name).name
    values: dict[str, str] = {}
    if source is not None:
        values |= read_settings(source)
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--set: found {text!r:.80}, expected KEY=VALUE")
        values[key] = value
    if root_password_file is not None:
        values[ROOT_PASSWORD] = hash_password(_first_line(root_password_file))
    if not values:
        if not sys.stdin.isatty():
            raise InputError(
                f"vnfs configure {name}: found nothing to set, and no terminal to ask on",
                hint="--set KEY=VALUE, --root-password-file FILE, --from FILE",
            )
        values = ask_settings(_held(client, name))
    save(client, name, values)


def offer(client: Client, name: str) -> None:
    """Ask how a capsule is to be configured, when its name never was and somebody is there."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()) or _held(client, name):
        return
    click.echo(f"{name} is new here. What is set now counts for all nodes that boot it.", err=True)
    if not click.confirm("Configure it?", default=True, err=True):
        click.echo(f"later: provisionctl vnfs configure {name}", err=True)
        return
    save(client, name, ask_settings({}))


def ask_settings(held: Mapping[str, Any]) -> dict[str, str]:
    """Return the values that somebody types; Enter leaves what is *held*."""
    click.echo("Enter leaves a setting as it is; a blank and Enter unsets it.", err=True)
    values: dict[str, str] = {}
    password = _ask_password(" (set)" if ROOT_PASSWORD in held else "")
    if password:
        values[ROOT_PASSWORD] = hash_password(password) if password.strip() else ""
    for key, question in QUESTIONS.items():
        while True:
            default = show_value(held.get(key, ""))
            told = f" [{default}]" if default else ""
            text = click.prompt(question + told, default="", show_default=False, err=True)
            try:
                parse_value(key, text)
            except InputError as error:
                click.echo(error.message, err=True)
                continue
            if text:
                values[key] = text
            break
    return values


def read_settings(path: Path) -> dict[str, str]:
    """Return what the TOML file *path* sets, texts by key.

    Raises:
        InputError: it cannot be read, or holds what can be no setting.
    """
    try:
        text = read_bounded(path, limit_bytes=MAX_FILE_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: found bytes that are not UTF-8") from error
    found: dict[str, str] = {}
    for key, value in _flatten(parse_toml(text, where=str(path))):
        try:
            found[key] = render_value(parse_value(key, value))
        except InputError as error:
            raise InputError(f"{path}: {error.message}", hint=error.hint) from error
    return found


def hash_password(text: str) -> str:
    """Return the hash of the password *text*, or *text* itself when it is one.

    Raises:
        VnfsbuildError: there is no openssl.
    """
    try:
        return parse_password_hash(text)
    except InputError:
        pass
    # On standard input: what is on a command line every user of the machine can read.
    made = capture(["openssl", "passwd", "-6", "-stdin"], stdin=text.encode("utf-8") + b"\n")
    return parse_password_hash(made.decode("ascii").strip())


def save(client: Client, name: str, values: Mapping[str, str]) -> None:
    """Set *values* for the capsule *name*, all or none, and tell."""
    if not values:
        click.echo(f"{name}: nothing changed", err=True)
        return
    client.post("/v1/settings/set", {"scope": CAPSULE, "subjects": [name], "values": dict(values)})
    for key, value in values.items():
        shown = "set" if find_attribute(key).secret else value
        click.echo(f"{name}: {key} = {shown}" if value.strip() else f"{name}: {key} unset")


def _ask_password(told: str) -> str:
    """Return the password that somebody types twice; empty when it is to stay as it is."""
    while True:
        first = str(click.prompt(f"Password of root{told}", default="", show_default=False,
                                 hide_input=True, err=True))  # fmt: skip
        if not first.strip():
            return first
        again = click.prompt("The same again", default="", show_default=False, hide_input=True,
                             err=True)  # fmt: skip
        if first == again:
            return first
        click.echo("they differ", err=True)


def _held(client: Client, name: str) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/v1/settings?scope={CAPSULE}&subject={quote(name)}")
    return found


def _first_line(path: Path) -> str:
    try:
        text = sys.stdin.readline() if str(path) == "-" else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise VnfsbuildError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    lines = text.splitlines()
    if not lines or not lines[0]:
        raise InputError(f"{path}: found nothing, expected a password in the first line")
    return lines[0]


def _flatten(table: Mapping[str, Any], start: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in table.items():
        if isinstance(value, dict):
            found += _flatten(value, f"{start}{key}.")
        else:
            found.append((f"{start}{key}", value))
    return found
