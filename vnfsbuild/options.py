"""What several verbs share: options, the clock, what the site thinks of keys, what was built."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vnfsbuild.describe import Standing
from vnfsbuild.errors import VerificationError
from vnfsbuild.listing import render_document, render_size, render_table
from vnfsbuild.signing.keys import list_keys, load_trust
from vnfsbuild.timings import Timings

if TYPE_CHECKING:
    from vnfsbuild.build import BuiltCapsule

DIFFERENT = 4
"""The exit status that says: all went well, and the answer is no. Only where it is asked for."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
key_option = click.option(
    "--key", "key_name", metavar="NAME", help="The key that signs; needed when there are several."
)
packages_option = click.option(
    "--with-packages", is_flag=True, help="Keep all packages beside it in the store."
)
timings_option = click.option("--timings", is_flag=True, help="Print the seconds of each stage.")


def now() -> int:
    """Return the time, in seconds since 1970."""
    return int(time.time())


def load_standing(site: Path) -> Standing:
    """Return what *site* thinks of keys, for verbs that show. A bad trust.json is only told."""
    trust = None
    try:
        if (site / "trust.json").exists():
            trust = load_trust(site, now=now())
    except VerificationError as error:
        click.echo(f"warning: {error}", err=True)
    names = {key.key_id: key.name for key in list_keys(site, trust)}
    return Standing(trust=trust, names=names, now=now())


def print_built(built: BuiltCapsule, clock: Timings, *, timings: bool, as_json: bool) -> None:
    """Print what was built, and how long it took."""
    if as_json:
        click.echo(
            render_document(
                {
                    "name": built.reference.name,
                    "reference": str(built.reference),
                    "digest": built.digest,
                    "sizeBytes": built.size_bytes,
                    "signers": list(built.signers),
                    "seconds": {name: round(spent, 3) for name, spent in clock.seconds.items()},
                    "stages": [asdict(item) for item in built.stages],
                }
            )
        )
        return
    if timings:
        rows = [(name, f"{spent:.1f}") for name, spent in clock.seconds.items()]
        click.echo(render_table(("STAGE", "SECONDS"), [*rows, ("total", f"{clock.total:.1f}")]))
    signed = "signed" if built.signers else "not signed"
    click.echo(f"{built.reference}@{built.digest}: {render_size(built.size_bytes)}, {signed}")
    if not built.signers:
        click.echo("hint: vnfsbuild keys new NAME makes a key; then build again", err=True)
