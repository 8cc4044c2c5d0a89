"""``vnfsbuild push``: a capsule of the store goes to a registry."""

from __future__ import annotations

from pathlib import Path

import click

from vnfsbuild.capsule import verify_head
from vnfsbuild.errors import VerificationError, VnfsbuildError
from vnfsbuild.listing import render_document
from vnfsbuild.options import json_option, load_standing, now
from vnfsbuild.packageset import MEDIA_TYPE as PACKAGES
from vnfsbuild.places import Places
from vnfsbuild.reference import Reference, parse_reference
from vnfsbuild.registry.name import RegistryReference, parse_registry_reference
from vnfsbuild.registry.push import Pushed, choose_tags, push
from vnfsbuild.registry.repository import open_repository
from vnfsbuild.registryoptions import ca_file_option, plain_http_option
from vnfsbuild.store.index import StoredCapsule
from vnfsbuild.store.store import Store
from vnfsbuild.transfer.chunkindex import attach_chunk_index


@click.command("push")
@click.argument("reference")
@click.argument("registry", metavar="oci://HOST/PATH/NAME[:TAG]")
@plain_http_option
@ca_file_option
@click.option("--with-packages", is_flag=True, help="Send its package set too.")
@click.option(
    "--replace", is_flag=True, help="Let the tag of its serial mean it, though it means another."
)
@json_option
@click.pass_obj
def command(
    places: Places,
    reference: str,
    registry: str,
    plain_http: bool,
    ca_file: Path | None,
    with_packages: bool,
    replace: bool,
    as_json: bool,
) -> None:
    """Send a capsule of the store to a registry, with its signatures and what else refers to it.

    REFERENCE is NAME[:TAG][@DIGEST]. It gets the tag of its serial, and TAG, which is `current`
    when none is given. What the registry has already is not sent.
    """
    wanted = parse_registry_reference(registry)
    store = Store(places.store)
    capsule = store.get(parse_reference(reference))
    tags = choose_tags(capsule, wanted)
    _warn(places, capsule)
    capsule = _with_chunk_index(store, capsule)
    repository = open_repository(wanted, plain_http=plain_http, ca_file=ca_file)
    try:
        pushed = push(
            repository,
            capsule,
            store,
            tags=tags,
            types=lambda kind: with_packages or kind != PACKAGES,
            replace=replace,
        )
    finally:
        repository.http.close()
    _print(wanted, capsule, pushed, as_json)


def _with_chunk_index(store: Store, capsule: StoredCapsule) -> StoredCapsule:
    """Return the capsule with its chunk index attached, which spares those who update."""
    try:
        attach_chunk_index(store, capsule)
    except VerificationError:
        raise
    except VnfsbuildError as error:  # a store that may only be read can be pushed from as well
        click.echo(f"no chunk index: {error}", err=True)
    return store.get(Reference(capsule.name, digest=capsule.digest))


def _warn(places: Places, capsule: StoredCapsule) -> None:
    """Say what those who pull it would: that they may not run it. It may yet be signed there."""
    if not capsule.envelopes:
        click.echo(
            f"warning: {capsule.name}: is not signed; nobody can pull it before somebody has "
            "signed it and pushed again",
            err=True,
        )
        return
    standing = load_standing(places.site)
    if standing.trust is not None:
        try:
            verify_head(capsule.head, trust=standing.trust, now=now())
        except VerificationError as error:
            click.echo(f"warning: this site would not let it run: {error}", err=True)


def _print(
    wanted: RegistryReference, capsule: StoredCapsule, pushed: Pushed, as_json: bool
) -> None:
    if as_json:
        facts = {
            "name": capsule.name,
            "serial": capsule.config.serial,
            "digest": capsule.digest,
            "place": wanted.place,
            "tags": list(pushed.tags),
            "referrers": pushed.referrers,
            "referrersTag": pushed.by_tag,
            "sentBytes": pushed.sent_bytes,
            "sizeBytes": pushed.size_bytes,
        }
        click.echo(render_document(facts))
        return
    click.echo(f"{wanted.place}:{pushed.tags[0]}@{capsule.digest}")
