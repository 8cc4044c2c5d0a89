"""``vnfsbuild reproduce``: is a capsule what its source says?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from vnfsbuild.dsse import KeyId
from vnfsbuild.errors import InputError, VerificationError
from vnfsbuild.listing import render_document
from vnfsbuild.options import json_option, key_option
from vnfsbuild.places import Places
from vnfsbuild.referrers.publish import attest_reproduced, require_attestable
from vnfsbuild.reproduce import Reproduction, reproduce
from vnfsbuild.store.store import Store
from vnfsbuild.timings import Timings

SHOWN = 40
"""How many differences are printed; ``--json`` has all."""


@click.command("reproduce")
@click.argument("capsule", metavar="REFERENCE|FILE")
@click.option("--mirror", metavar="URL", help="Where packages are fetched from that are not here.")
@click.option(
    "--packages",
    metavar="FILE",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A package set to take packages from first.",
)
@click.option(
    "--keep",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write what was built to FILE, when it is not the same.",
)
@click.option(
    "--attest",
    is_flag=True,
    help="When it is the same, add your signed word to the capsule that you got it too.",
)
@key_option
@json_option
@click.pass_obj
def command(
    places: Places,
    capsule: str,
    mirror: str | None,
    packages: Path | None,
    keep: Path | None,
    attest: bool,
    key_name: str | None,
    as_json: bool,
) -> None:
    """Build a capsule again from the source in it, elsewhere, and compare every byte.

    It is built from its source payload and the locked packages alone, without a network, in an
    environment that is varied on purpose. When other bytes come out, the files that differ are
    told, and the exit status is 3. A name with a slash or with the ending .vnfs is a file.
    """
    if key_name and not attest:
        raise InputError("--key: nothing is signed without --attest")
    key = require_attestable(capsule, places.site, key_name) if attest else None
    clock = Timings()
    found = reproduce(capsule, places, timings=clock, mirror=mirror, packages=packages, keep=keep)
    builders: tuple[KeyId, ...] = ()
    if found.same and key:
        builders = attest_reproduced(capsule, found.digest, Store(places.store), key)
    if as_json:
        click.echo(render_document({**_facts(found, clock), "builders": list(builders)}))
    else:
        click.echo(tell_reproduction(found))
        if key and builders:
            click.echo(f"{capsule}: attested by {key.name}, {_count(builders)}")
    if not found.same:
        raise VerificationError(
            f"{found.name}: found {found.rebuilt}, expected {found.digest}: not the same bytes",
            hint=None if keep else "--keep FILE.vnfs keeps what was built, to look into",
        )


def _count(builders: tuple[KeyId, ...]) -> str:
    return f"one of {len(builders)} builders" if len(builders) > 1 else "the only builder so far"


def tell_reproduction(found: Reproduction) -> str:
    """Return what is said of it: what was varied, and whether it is the same."""
    lines = ["varied:"]
    lines += [f"  {what + ':':<22}{how}" for what, how in found.variation.varied.items()]
    lines += ["not varied:"]
    lines += [f"  {what + ':':<22}{why}" for what, why in found.variation.not_varied.items()]
    if found.same:
        return "\n".join([*lines, f"the same: {found.digest}"])
    count = len(found.differences)
    lines += [f"{count} difference{'s' if count > 1 else ''}:"]
    lines += [f"  {difference}" for difference in found.differences[:SHOWN]]
    if count > SHOWN:
        lines += [f"  … and {count - SHOWN} more: --json has all"]
    return "\n".join([*lines, found.details] if found.details else lines)


def _facts(found: Reproduction, clock: Timings) -> dict[str, Any]:
    return {
        "name": found.name,
        "same": found.same,
        "digest": found.digest,
        "rebuilt": found.rebuilt,
        "varied": dict(found.variation.varied),
        "notVaried": dict(found.variation.not_varied),
        "differences": [asdict(difference) for difference in found.differences],
        "seconds": {name: round(spent, 3) for name, spent in clock.seconds.items()},
    }
