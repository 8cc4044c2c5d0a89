"""``vnfsbuild sign``: one signature more, of a key that vouches too."""

from __future__ import annotations

from pathlib import Path

import click

from vnfsbuild.capsule import Head, payload_bytes
from vnfsbuild.commands.reproduce import tell_reproduction
from vnfsbuild.digest import Digest
from vnfsbuild.errors import InputError, VerificationError
from vnfsbuild.files import size_of
from vnfsbuild.listing import render_document
from vnfsbuild.options import json_option, now
from vnfsbuild.original import is_file
from vnfsbuild.places import Places
from vnfsbuild.progress import bar
from vnfsbuild.reference import Reference, parse_reference
from vnfsbuild.reproduce import reproduce
from vnfsbuild.sign import sign_file, sign_stored
from vnfsbuild.signing.keys import SecretKey, find_signing_key, load_trust
from vnfsbuild.store.store import Store
from vnfsbuild.timings import Timings
from vnfsbuild.verdicts import find_reason


@click.command("sign")
@click.argument("capsule", metavar="REFERENCE|FILE")
@click.option(
    "--key", "key_names", multiple=True, metavar="NAME", help="Who signs; may be several."
)
@click.option(
    "--after-reproduce", is_flag=True, help="Build it again first; sign only if it is the same."
)
@click.option("--mirror", metavar="URL", help="As for reproduce.")
@click.option(
    "--packages",
    metavar="FILE",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="As for reproduce.",
)
@json_option
@click.pass_obj
def command(
    places: Places,
    capsule: str,
    key_names: tuple[str, ...],
    after_reproduce: bool,
    mirror: str | None,
    packages: Path | None,
    as_json: bool,
) -> None:
    """Add signatures to a capsule of the store, or to a .vnfs file.

    Every byte of it is verified first. With --after-reproduce it is built again first, from the
    source in it, and signed only when the same bytes came out: else the exit status is 3. A name
    with a slash or with the ending .vnfs is a file.
    """
    if (mirror or packages) and not after_reproduce:
        raise InputError("sign: --mirror and --packages are for --after-reproduce")
    keys = _find_keys(places, key_names)
    expected = None
    if after_reproduce:
        found = reproduce(
            capsule, places, timings=Timings(), mirror=mirror, packages=packages, keep=None
        )
        click.echo(tell_reproduction(found), err=True)
        if not found.same:
            raise VerificationError(
                f"{found.name}: found {found.rebuilt}, expected {found.digest}: "
                "not the same bytes, so it was not signed"
            )
        expected = found.digest
    head = _sign(places, capsule, keys, expected)
    reason = _judge(places, head)
    if as_json:
        click.echo(render_document(_facts(head, keys, reason)))
        return
    name = f"{head.name}:{head.capsule.config.serial}@{head.capsule.digest}"
    click.echo(f"{name}: signed by {', '.join(key.name for key in keys)}")
    if reason is not None:
        click.echo(f"not trusted yet: {reason}", err=True)


def _find_keys(places: Places, names: tuple[str, ...]) -> list[SecretKey]:
    keys = [find_signing_key(places.site, name) for name in names or (None,)]
    found = [key for key in keys if key is not None]
    if not found:
        raise InputError(
            f"{places.site / 'keys'}: found no key that signs",
            hint="vnfsbuild keys new NAME makes one",
        )
    return found


def _sign(places: Places, capsule: str, keys: list[SecretKey], rebuilt: Digest | None) -> Head:
    if is_file(capsule):
        path = Path(capsule)
        with bar(f"sign {path.name}", total_bytes=size_of(path)) as advance:
            return sign_file(path, keys, rebuilt=rebuilt, advance=advance)
    store = Store(places.store)
    wanted = parse_reference(capsule)
    if rebuilt is not None:
        # The tag may have moved on while it was built again.
        wanted = Reference(wanted.name, digest=rebuilt)
    with bar(f"sign {wanted}", total_bytes=payload_bytes(store.get(wanted).head)) as advance:
        return sign_stored(store, wanted, keys, rebuilt=rebuilt is not None, advance=advance)


def _judge(places: Places, head: Head) -> str | None:
    """Return why what was signed may not run yet; None when it may."""
    try:
        trust = load_trust(places.site, now=now())
    except (InputError, VerificationError) as error:
        return error.message
    return find_reason(head, trust, now=now())


def _facts(head: Head, keys: list[SecretKey], reason: str | None) -> dict[str, object]:
    return {
        "name": head.name,
        "serial": head.capsule.config.serial,
        "digest": head.capsule.digest,
        "signers": [key.key_id for key in keys],
        "trusted": reason is None,
        "reason": reason,
    }
