"""``vnfsbuild verify``: may this capsule run, and is every byte of it what was signed?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from vnfsbuild.capsule import Head, payload_bytes, skim_capsule, verify_attestations, verify_head
from vnfsbuild.dsse import KeyId
from vnfsbuild.files import size_of
from vnfsbuild.listing import render_document
from vnfsbuild.options import json_option, load_standing, now
from vnfsbuild.original import is_file
from vnfsbuild.places import Places
from vnfsbuild.progress import bar
from vnfsbuild.reference import Reference, parse_reference
from vnfsbuild.referrers.attestation import verify_rebuilt
from vnfsbuild.signing.keys import load_trust
from vnfsbuild.store.index import signer_of
from vnfsbuild.store.store import Store
from vnfsbuild.trust import Trust
from vnfsbuild.verify import VerifiedCapsule


@click.command("verify")
@click.argument("capsule", metavar="FILE|REFERENCE")
@click.option(
    "--rebuilt-by",
    metavar="N",
    type=click.IntRange(min=1),
    help="N builders must say that they got these bytes, the first one included.",
)
@json_option
@click.pass_obj
def command(places: Places, capsule: str, rebuilt_by: int | None, as_json: bool) -> None:
    """Verify every byte of a capsule, and that it is signed as trust.json wants it.

    A name with a slash or with the ending .vnfs is a file; any other is looked for in the store.
    """
    trust = load_trust(places.site, now=now())
    names = load_standing(places.site).names
    if is_file(capsule):
        head, found = _verify_file(Path(capsule), trust)
    else:
        head, found = _verify_stored(places, capsule, trust)
    builders = verify_attestations(head, trust=trust)
    if rebuilt_by is not None:
        verify_rebuilt(
            builders,
            rebuilt_by,
            said=[signer_of(data) for data in head.attestations],
            names=names,
            where=f"{found.config.name}:{found.config.serial}@{found.digest[:19]}",
            hint=f"vnfsbuild reproduce {capsule} --attest, by another builder with another key",
        )
    click.echo(
        render_document(_facts(found, builders)) if as_json else _told(found, builders, names)
    )


def _verify_file(path: Path, trust: Trust) -> tuple[Head, VerifiedCapsule]:
    verdict: list[VerifiedCapsule] = []

    def admit(head: Head) -> None:
        verdict.append(verify_head(head, trust=trust, now=now()))

    with bar(f"verify {path.name}", total_bytes=size_of(path)) as advance:
        head = skim_capsule(path, admit=admit, advance=advance)
    return head, verdict[0]


def _verify_stored(places: Places, reference: str, trust: Trust) -> tuple[Head, VerifiedCapsule]:
    store = Store(places.store)
    wanted = parse_reference(reference)
    head = store.get(wanted).head
    # The very same, should the tag move meanwhile: its builders are counted afterwards.
    exact = Reference(head.name, digest=head.capsule.digest)
    with bar(f"verify {wanted}", total_bytes=payload_bytes(head)) as advance:
        return head, store.verify(exact, trust=trust, now=now(), advance=advance)


def _told(found: VerifiedCapsule, builders: tuple[KeyId, ...], names: Mapping[KeyId, str]) -> str:
    signed, built = (
        ", ".join(names.get(keyid, keyid[:12]) for keyid in keys)
        for keys in (found.signers, builders)
    )
    told = f"{found.config.name}:{found.config.serial}@{found.digest}: verified, signed by {signed}"
    return f"{told}, built by {built}" if built else told


def _facts(found: VerifiedCapsule, builders: tuple[KeyId, ...]) -> dict[str, object]:
    return {
        "name": found.config.name,
        "serial": found.config.serial,
        "digest": found.digest,
        "signers": list(found.signers),
        "builders": list(builders),
        "verified": True,
    }
