"""``provisionctl simulate``: how much a node server on this machine can do."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

import click

from provisiond.lab.laboratory import require_root
from provisiond.lab.simulate import (
    SHOWN_ERRORS,
    Phase,
    Simulation,
    Wish,
    phase_value,
    render_phases,
)
from provisiond.lab.simulate_server import Settings, ThrowAway, open_server
from vnfsbuild.errors import VnfsbuildError

MAX_NODES = 100_000


@click.command()
@click.option("--nodes", required=True, type=click.IntRange(1, MAX_NODES), help="How many.")
@click.option(
    "--at-once", default=64, show_default=True, type=click.IntRange(1, MAX_NODES),
    help="How many requests are under way at a time.",
)  # fmt: skip
@click.option(
    "--seconds", default=30.0, show_default=True, type=click.FloatRange(0),
    help="How long nodes go on checking in once they are ready.",
)  # fmt: skip
@click.option(
    "--checkin-seconds", default=60, show_default=True, type=click.IntRange(1, 86400),
    help="How often each does.",
)  # fmt: skip
@click.option(
    "--payloads", default="first", show_default=True, type=click.Choice(("none", "first", "all")),
    help="What nodes fetch of the capsule: nothing, 64 KiB of each payload, all.",
)  # fmt: skip
@click.option("--payload-mib", default=16, show_default=True, type=click.IntRange(1, 1024 * 1024),
              help="Size of the capsule.")  # fmt: skip
@click.option("--overlay/--no-overlay", default=True, show_default=True, help="Fetch overlays.")
@click.option("--keep", is_flag=True, help="Keep connections, as agents do not.")
@click.option("--database", default="", metavar="URL", help="postgresql://…; else SQLite.")
@click.option(
    "--directory", default=Path("/var/tmp"), show_default=True,
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Where its state lies meanwhile: on the disk that is to be tried.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print figures as JSON.")
def command(
    nodes: int, at_once: int, seconds: float, checkin_seconds: int, payloads: str,
    payload_mib: int, overlay: bool, keep: bool, database: str, directory: Path, as_json: bool,
) -> int:  # fmt: skip
    """Let nodes without machines boot from a node server that is made for it.

    The running node server, if there is one, is not touched. Exits with 1 when not every node
    came to ready.
    """
    require_root()
    wish = Wish(
        nodes=nodes, at_once=at_once, overlays=overlay, payloads=payloads, seconds=seconds,
        checkin_seconds=checkin_seconds, keep=keep,
    )  # fmt: skip
    settings = Settings(
        nodes=nodes, payload_bytes=payload_mib * 1024 * 1024, checkin_seconds=checkin_seconds,
        directory=directory, database=database,
    )  # fmt: skip
    begun = time.monotonic()
    with open_server(settings) as server:
        server.start()
        server.add_capsule()
        phases = asyncio.run(Simulation(server, wish, tell_phase).run())
        ready = count_ready(server)
        peak_bytes = server.usage().peak_bytes
    failed = sum(len(phase.errors) for phase in phases)
    if as_json:
        value = {
            "nodes": nodes,
            "ready": ready,
            "serverPeakBytes": peak_bytes,
            "phases": [phase_value(phase) for phase in phases],
        }
        click.echo(json.dumps(value, indent=1))
    else:
        click.echo(render_phases(phases))
        click.echo(
            f"{ready} of {nodes} nodes ready, {failed} errors, "
            f"{time.monotonic() - begun:.0f} s, server's peak {peak_bytes / 1e6:.0f} MB"
        )
    return 0 if ready == nodes and not failed else 1


def count_ready(server: ThrowAway) -> int:
    """Return how many nodes are ready, as the server has it.

    Raises:
        VnfsbuildError: it does not answer.
    """
    listed = server.client.get("/v1/nodes")
    if not isinstance(listed, list):
        raise VnfsbuildError(f"simulate: /v1/nodes: found {type(listed).__name__}")
    return sum(node["state"] == "ready" for node in listed)


def tell_phase(phase: Phase) -> None:
    """Say on standard error that *phase* is over, and what went wrong in it."""
    for error in dict.fromkeys(phase.errors[:SHOWN_ERRORS]):
        click.echo(f"{phase.name}: {error}", err=True)
    if sys.stderr.isatty():
        click.echo(f"{phase.name}: {phase.count} in {phase.seconds:.1f} s", err=True)
