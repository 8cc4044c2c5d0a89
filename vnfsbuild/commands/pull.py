"""``vnfsbuild pull``: a capsule comes out of a registry."""

from __future__ import annotations

from pathlib import Path

import click

from vnfsbuild.listing import render_document
from vnfsbuild.options import json_option, now
from vnfsbuild.packageset import MEDIA_TYPE as PACKAGES
from vnfsbuild.places import Places
from vnfsbuild.registry.name import parse_registry_reference
from vnfsbuild.registry.pull import Pulled, pull_into
from vnfsbuild.registryoptions import ca_file_option, plain_http_option


@click.command("pull")
@click.argument("registry", metavar="oci://HOST/PATH/NAME[:TAG][@DIGEST]")
@plain_http_option
@ca_file_option
@click.option("--no-promote", is_flag=True, help="Leave NAME:current where it is.")
@click.option("--allow-older", is_flag=True, help="Take an older capsule than NAME:current.")
@click.option("--with-packages", is_flag=True, help="Fetch its package set too.")
@json_option
@click.pass_obj
def command(
    places: Places,
    registry: str,
    plain_http: bool,
    ca_file: Path | None,
    no_promote: bool,
    allow_older: bool,
    with_packages: bool,
    as_json: bool,
) -> None:
    """Fetch a capsule from a registry and add it to the store.

    It must be signed as trust.json wants it; no payload is fetched before that is sure. Without
    TAG it is the one that the registry calls `current`. NAME:current then means this capsule.
    """
    pulled = pull_into(
        places,
        parse_registry_reference(registry),
        now=now(),
        plain_http=plain_http,
        ca_file=ca_file,
        promote=not no_promote,
        allow_older=allow_older,
        types=frozenset({PACKAGES} if with_packages else ()),
    )
    _print(pulled, as_json)


def _print(pulled: Pulled, as_json: bool) -> None:
    capsule = pulled.capsule
    if as_json:
        facts = {
            "name": capsule.name,
            "serial": capsule.config.serial,
            "digest": capsule.digest,
            "tags": list(capsule.tags),
            "fetchedBytes": pulled.fetched.fetched_bytes,
            "indexBytes": pulled.fetched.index_bytes,
            "sizeBytes": pulled.fetched.payload_bytes,
        }
        click.echo(render_document(facts))
        return
    click.echo(f"{capsule.name}:{capsule.config.serial}@{capsule.digest}")
