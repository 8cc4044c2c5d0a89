"""``vnfsbuild keys``: the keys that sign capsules."""

from __future__ import annotations

from pathlib import Path

import click

from vnfsbuild.commands.trust import load_names, print_changed
from vnfsbuild.dsse import key_id
from vnfsbuild.errors import InputError
from vnfsbuild.files import write_atomic
from vnfsbuild.listing import render_document, render_table
from vnfsbuild.options import json_option, now
from vnfsbuild.places import Places
from vnfsbuild.signing.keyfiles import render_public_key
from vnfsbuild.signing.keys import (
    KeyFile,
    list_keys,
    load_public_key,
    load_trust,
    new_external_key,
    new_key,
)
from vnfsbuild.signing.passphrase import choose_passphrase
from vnfsbuild.signing.trustfile import change_trust, find_keys
from vnfsbuild.signing.trustrules import without_key
from vnfsbuild.trust import Trust


@click.group("keys")
def command() -> None:
    """Make, list, pass on and revoke the keys that sign capsules."""


@command.command("new")
@click.argument("name")
@click.option("--passphrase", is_flag=True, help="Put the secret half under a passphrase.")
@click.option("--signer", multiple=True, metavar="WORD", help="A program signs; a word each.")
@click.option(
    "--public",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The public half of the key that the program signs with.",
)
@json_option
@click.pass_obj
def new(
    places: Places,
    name: str,
    passphrase: bool,
    signer: tuple[str, ...],
    public: Path | None,
    as_json: bool,
) -> None:
    """Make the key NAME.

    On a site without trust.json the root key and a trust.json by which NAME may sign every capsule
    are made as well. Where there is one, it stays as it is. With --signer and --public nothing is
    made but the note that NAME is a key which that program signs with.
    """
    if bool(signer) != (public is not None) or (signer and passphrase):
        raise InputError(
            "keys new: --signer and --public belong together, and exclude --passphrase"
        )
    if public is not None:
        key = new_external_key(places.site, name, command=signer, public=public, now=now())
        path = places.site / "keys" / f"{name}.signer"
        click.echo(render_document(_facts(key)) if as_json else f"{path}: key {key.key_id}")
        return
    phrase = choose_passphrase(name) if passphrase else None
    made = new_key(places.site, name, now=now(), passphrase=phrase)
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
        click.echo(f"hint: vnfsbuild trust allow 'GLOB' --key {name}", err=True)


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


@command.command("export")
@click.argument("name")
@click.option("--out", metavar="FILE", type=click.Path(path_type=Path), help="Write it there.")
@click.pass_obj
def export(places: Places, name: str, out: Path | None) -> None:
    """Print the public half of the key NAME, in PEM, for others.

    They name the file to `vnfsbuild trust allow --key`. Compare the key id by another way.
    """
    public = find_keys(places.site, (name,), _held(places))
    text = render_public_key(next(iter(public.values())))
    if out is None:
        click.echo(text.decode("ascii"), nl=False)
    else:
        write_atomic(out, text)
        click.echo(f"{out}: key {next(iter(public))}")


@command.command("revoke")
@click.argument("name", metavar="NAME|KEYID|FILE.pub")
@json_option
@click.pass_obj
def revoke(places: Places, name: str, as_json: bool) -> None:
    """Make a new version of trust.json, in which a key counts nowhere.

    It is refused when a rule, or trust.json itself, could not be met any more. Tells which capsules
    of the store may not run from now on. Its files stay where they are.
    """
    public = (
        {key_id(found): found for found in [load_public_key(Path(name))]}
        if name.endswith(".pub")
        else find_keys(places.site, (name,), _held(places))
    )
    (keyid,) = public
    shown = load_names(places.site).get(keyid, keyid[:12])
    changed = change_trust(
        places.site, lambda trust: without_key(trust, keyid, name=shown), now=now()
    )
    print_changed(changed, places, told=f"{shown} counts nowhere", as_json=as_json)


def _held(places: Places) -> Trust | None:
    """Return what is in trust.json, if there is one: keys may be named by their ids in it."""
    has_trust = (places.site / "trust.json").exists()
    return load_trust(places.site, now=0) if has_trust else None


def _facts(key: KeyFile) -> dict[str, object]:
    return {
        "name": key.name,
        "keyId": key.key_id,
        "canSign": key.can_sign,
        "external": key.external,
        "root": key.is_root,
        "trustedFor": list(key.rules),
    }


def _row(key: KeyFile) -> tuple[str, ...]:
    trusted = [*(["trust.json"] if key.is_root else []), *key.rules]
    secret = "a program" if key.external else "here" if key.can_sign else "-"
    return (key.name, key.key_id, " ".join(trusted) or "-", secret)
