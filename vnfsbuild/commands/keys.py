"""``vnfsbuild keys``: the keys that sign capsules."""

from __future__ import annotations

from dataclasses import asdict

import click

from vnfsbuild.keys import KeyFile, list_keys, load_trust, new_key
from vnfsbuild.listing import render_document, render_table
from vnfsbuild.options import json_option, now
from vnfsbuild.places import Places


@click.group("keys")
def command() -> None:
    """Make and list the keys that sign capsules."""


@command.command("new")
@click.argument("name")
@json_option
@click.pass_obj
def new(places: Places, name: str, as_json: bool) -> None:
    """Make the key NAME.

    On a site without trust.json the root key and a trust.json by which NAME may sign every capsule
    are made as well. Where there is one, it stays as it is.
    """
    made = new_key(places.site, name, now=now())
    if as_json:
        trust = {"madeTrust": made.made_trust, "trustVersion": made.trust_version}
        click.echo(render_document({**_facts(made.key), **trust}))
        return
    click.echo(f"{places.site / 'keys' / name}.pem: key {made.key.key_id}")
    if made.made_trust:
        click.echo(f"{places.site / 'trust.json'}: version 1: {name} may sign every capsule")
        click.echo("keys/root.pem signs trust.json: keep it where no one else reads it", err=True)
    else:
        click.echo(
            f"not trusted yet: trust.json (version {made.trust_version}) does not name it", err=True
        )


@command.command("list")
@json_option
@click.pass_obj
def list_(places: Places, as_json: bool) -> None:
    """List the keys of this site, and what trust.json lets them sign."""
    has_trust = (places.site / "trust.json").exists()
    keys = list_keys(places.site, load_trust(places.site, now=now()) if has_trust else None)
    if as_json:
        click.echo(render_document([_facts(key) for key in keys]))
    else:
        click.echo(render_table(("NAME", "KEY-ID", "TRUSTED-FOR", "SECRET"), list(map(_row, keys))))


def _facts(key: KeyFile) -> dict[str, object]:
    facts = asdict(key)
    return {
        "name": facts["name"],
        "keyId": facts["key_id"],
        "canSign": facts["can_sign"],
        "root": facts["is_root"],
        "trustedFor": list(facts["rules"]),
    }


def _row(key: KeyFile) -> tuple[str, ...]:
    trusted = [*(["trust.json"] if key.is_root else []), *key.rules]
    return (key.name, key.key_id, " ".join(trusted) or "-", "here" if key.can_sign else "-")
