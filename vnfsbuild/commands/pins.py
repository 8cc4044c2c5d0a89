"""``vnfsbuild pins``: what must stay in the store, and why."""

from __future__ import annotations

import click

from vnfsbuild.digest import parse_digest, short
from vnfsbuild.errors import InputError, VerificationError
from vnfsbuild.inside.mounts import drop_stale_pins
from vnfsbuild.listing import render_document, render_table
from vnfsbuild.options import json_option
from vnfsbuild.places import Places
from vnfsbuild.reference import parse_reference
from vnfsbuild.store.pins import OWN, Pin, parse_reason
from vnfsbuild.store.store import Store

_OWNER = click.option(
    "--owner", default=OWN, show_default=True, metavar="NAME", help="Whose pin it is."
)


@click.group("pins")
def command() -> None:
    """List and change what must not be deleted, and why."""


@command.command("list")
@json_option
@click.pass_obj
def list_(places: Places, as_json: bool) -> None:
    """List all pins: of the node server, of mounts, and those made by hand."""
    store = Store(places.store)
    drop_stale_pins(store)
    names = {found.digest: f"{found.name}:{found.config.serial}" for found in store.list_capsules()}
    facts = [_facts(pin, names.get(pin.digest)) for pin in store.pins()]
    if as_json:
        click.echo(render_document(facts))
        return
    header = ("CAPSULE", "DIGEST", "OWNER", "REASON")
    rows = [
        (item["name"] or "not here", short(str(item["digest"])), item["owner"], item["reason"])
        for item in facts
    ]
    click.echo(render_table(header, [tuple(map(str, row)) for row in rows]))


@command.command("add")
@click.argument("reference")
@click.option("--reason", required=True, help="Told to who would delete it.")
@_OWNER
@json_option
@click.pass_obj
def add(places: Places, reference: str, reason: str, owner: str, as_json: bool) -> None:
    """Pin the capsule that REFERENCE means now: delete refuses it, with the reason."""
    store = Store(places.store)
    wanted = parse_reference(reference)
    try:
        parse_reason(reason, where="--reason")
    except VerificationError as error:
        raise InputError(error.message) from error
    digest = store.pin(wanted, owner=owner, reason=reason)
    pin = Pin(owner=owner, digest=digest, reason=reason)
    told = f"{wanted.name}@{digest} stays: {reason}"
    click.echo(render_document(_facts(pin, str(wanted))) if as_json else told)


@command.command("remove")
@click.argument("reference", metavar="REFERENCE|DIGEST")
@_OWNER
@json_option
@click.pass_obj
def remove(places: Places, reference: str, owner: str, as_json: bool) -> None:
    """Take a pin away. The capsule may be gone: then its DIGEST is given."""
    store = Store(places.store)
    is_digest = reference.startswith("sha256:")
    digest = (
        parse_digest(reference, where="pins remove")
        if is_digest
        else store.get(parse_reference(reference)).digest
    )
    if not store.unpin(digest, owner=owner):
        raise InputError(f"{reference}: not pinned by {owner}", hint="vnfsbuild pins list")
    facts = {"digest": digest, "owner": owner}
    click.echo(render_document(facts) if as_json else f"{digest} is not pinned by {owner} any more")


def _facts(pin: Pin, name: str | None) -> dict[str, str | None]:
    return {"name": name, "digest": pin.digest, "owner": pin.owner, "reason": pin.reason}
