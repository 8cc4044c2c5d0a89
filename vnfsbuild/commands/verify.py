"""``vnfsbuild verify``: may this capsule run, and is every byte of it what was signed?"""

from __future__ import annotations

import os
from pathlib import Path

import click

from vnfsbuild.capsule import payload_bytes, verify_file
from vnfsbuild.files import size_of
from vnfsbuild.keys import load_trust
from vnfsbuild.listing import render_document
from vnfsbuild.options import json_option, load_standing, now
from vnfsbuild.places import Places
from vnfsbuild.progress import bar
from vnfsbuild.reference import parse_reference
from vnfsbuild.store import Store
from vnfsbuild.trust import Trust
from vnfsbuild.verify import VerifiedCapsule


@click.command("verify")
@click.argument("capsule", metavar="FILE|REFERENCE")
@json_option
@click.pass_obj
def command(places: Places, capsule: str, as_json: bool) -> None:
    """Verify every byte of a capsule, and that it is signed as trust.json wants it.

    A name with a slash or with the ending .vnfs is a file; any other is looked for in the store.
    """
    trust = load_trust(places.site, now=now())
    if os.sep in capsule or capsule.endswith(".vnfs"):
        path = Path(capsule)
        with bar(f"verify {path.name}", total_bytes=size_of(path)) as advance:
            found = verify_file(path, trust=trust, now=now(), advance=advance)
    else:
        found = _verify_stored(places, capsule, trust)
    names = load_standing(places.site).names
    if as_json:
        click.echo(render_document(_facts(found)))
    else:
        signers = ", ".join(names.get(keyid, keyid[:12]) for keyid in found.signers)
        click.echo(
            f"{found.config.name}:{found.config.serial}@{found.digest}: "
            f"verified, signed by {signers}"
        )


def _verify_stored(places: Places, reference: str, trust: Trust) -> VerifiedCapsule:
    store = Store(places.store)
    wanted = parse_reference(reference)
    total_bytes = payload_bytes(store.get(wanted).head)
    with bar(f"verify {wanted}", total_bytes=total_bytes) as advance:
        return store.verify(wanted, trust=trust, now=now(), advance=advance)


def _facts(found: VerifiedCapsule) -> dict[str, object]:
    return {
        "name": found.config.name,
        "serial": found.config.serial,
        "digest": found.digest,
        "signers": list(found.signers),
        "verified": True,
    }
