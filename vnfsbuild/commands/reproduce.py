"""``vnfsbuild reproduce``: is a capsule what its source says?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from vnfsbuild.errors import VerificationError
from vnfsbuild.listing import render_document
from vnfsbuild.options import json_option
from vnfsbuild.places import Places
from vnfsbuild.reproduce import Reproduction, reproduce
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
@json_option
@click.pass_obj
def command(
    places: Places,
    capsule: str,
    mirror: str | None,
    packages: Path | None,
    keep: Path | None,
    as_json: bool,
) -> None:
    """Build a capsule again from the source in it, elsewhere, and compare every byte.

    It is built from its source payload and the locked packages alone, without a network, in an
    environment that is varied on purpose. When other bytes come out, the files that differ are
    told, and the exit status is 3. A name with a slash or with the ending .vnfs is a file.
    """
    clock = Timings()
    found = reproduce(capsule, places, timings=clock, mirror=mirror, packages=packages, keep=keep)
    click.echo(render_document(_facts(found, clock)) if as_json else _told(found))
    if not found.same:
        raise VerificationError(
            f"{found.name}: found {found.rebuilt}, expected {found.digest}: not the same bytes",
            hint=None if keep else "--keep FILE.vnfs keeps what was built, to look into",
        )


def _told(found: Reproduction) -> str:
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
