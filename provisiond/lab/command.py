"""``provisionctl lab``: virtual nodes on this machine."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import click

from provisiond.lab.laboratory import (
    Laboratory,
    Settings,
    console_tail,
    open_laboratory,
    python_paths,
    require_root,
)
from provisiond.lab.machine import ACCELERATORS, CARDS, FIRMWARES, make_machines
from provisiond.lab.run import Wish, boot
from provisiond.lab.running import find_labs, stop_lab
from provisiond.lab.watch import Outcome, outcome_value, render_outcomes
from vnfsbuild.errors import InputError, VnfsbuildError
from vnfsbuild.places import Places, find_places
from vnfsbuild.reference import parse_reference
from vnfsbuild.store.store import Store
from vnfsbuild.tools import capture
from vnfsbuild.toolstree import ensure_tools_tree

CONSOLE_LINES = 25


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """What was asked for on the command line."""

    capsule: str
    bootstrap: str
    nodes: int
    firmware: tuple[str, ...]
    memory: int
    cards: tuple[str, ...]
    wired: int
    cpus: int
    check: str | None
    method: str
    registration: str
    accel: str
    timeout: float
    keep: bool
    as_json: bool
    console_dir: Path | None


@click.group()
def lab() -> None:
    """Boot virtual nodes on this machine, to try a capsule or to prove that it boots."""


@lab.command()
@click.option("--capsule", required=True, metavar="REF|FILE", help="A capsule, or a .vnfs file.")
@click.option("--bootstrap", default="bootstrap", metavar="REF|FILE", show_default=True)
@click.option("--nodes", default=2, show_default=True, help="How many virtual nodes.")
@click.option(
    "--firmware",
    multiple=True,
    type=click.Choice(FIRMWARES),
    default=("bios",),
    show_default=True,
    help="Given more than once: the nodes take them in turn.",
)
@click.option("--memory", default=1024, show_default=True, help="MiB of each node.")
@click.option(
    "--card",
    "cards",
    multiple=True,
    type=click.Choice(tuple(CARDS)),
    default=("virtio",),
    show_default=True,
    help="A network card; given more than once: each node has several.",
)
@click.option("--wired", default=1, show_default=True, help="Which of the cards has a cable.")
@click.option("--cpus", default=2, show_default=True, help="Processors of each node.")
@click.option("--check", metavar="COMMAND", help="Each node runs it before it is ready.")
@click.option(
    "--method", type=click.Choice(("kexec", "pivot", "auto")), default="kexec", show_default=True
)
@click.option("--registration", type=click.Choice(("open", "ask")), default="open")
@click.option("--accel", type=click.Choice(ACCELERATORS), default="tcg", show_default=True)
@click.option("--timeout", default=300.0, show_default=True, help="Seconds until all are ready.")
@click.option("--keep", is_flag=True, help="Leave it running until Ctrl-C or `lab stop`.")
@click.option("--json", "as_json", is_flag=True, help="Figures as JSON on standard output.")
@click.option(
    "--console-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the console log of each node here.",
)
def run(**words: Any) -> None:
    """Boot virtual nodes with a capsule; status 0 when all are ready, 1 with the reason if not."""
    options = RunOptions(**words)
    # As an exception it lets everything that was started be stopped.
    signal.signal(signal.SIGTERM, _terminate)
    require_root()
    machines = make_machines(
        options.nodes,
        firmwares=options.firmware,
        memory_mib=options.memory,
        cpus=options.cpus,
        cards=options.cards,
        wired=options.wired,
    )
    with open_laboratory(make_settings(options, find_places())) as laboratory:
        wish = prepare(laboratory, options, find_places())
        outcomes = boot(laboratory, machines, wish, tell=_tell)
        report(laboratory, outcomes, options)
        if options.keep:
            _keep(laboratory)
        reason = verdict(outcomes)
    if reason:
        raise VnfsbuildError(reason)


@lab.command("list")
def list_labs() -> None:
    """List the laboratories that run on this machine."""
    for found in find_labs():
        click.echo(f"{found.pid}  {found.directory}")


@lab.command()
@click.argument("pid", type=int, required=False)
def stop(pid: int | None) -> None:
    """Stop the laboratory of the process PID, or the only one that runs."""
    stop_lab(pid)


def make_settings(options: RunOptions, places: Places) -> Settings:
    """Return the settings of the laboratory; fetches QEMU and firmware when they are missing.

    Raises:
        VnfsbuildError: no trust.json, or the tools cannot be had.
    """
    trust = places.site / "trust.json"
    if not trust.is_file():
        raise InputError(
            f"{trust}: not found, and without it no capsule is trusted",
            hint="vnfsbuild keys new NAME, then build again, which signs",
        )
    if options.console_dir:
        options.console_dir.mkdir(parents=True, exist_ok=True)
    return Settings(
        tree=ensure_tools_tree("lab", places.cache, progress=_tell),
        trust=trust,
        registration=options.registration,
        accelerator=options.accel,
        check=options.check,
        console_dir=options.console_dir.resolve() if options.console_dir else None,
    )


def prepare(laboratory: Laboratory, options: RunOptions, places: Places) -> Wish:
    """Give the node server bootstrap and capsule, and return what the nodes shall boot.

    Raises:
        VnfsbuildError: there is none such, or it is not trusted.
    """
    started = time.monotonic()
    _import(laboratory, options.bootstrap, places, hint="vnfsbuild bootstrap build")
    name = _import(laboratory, options.capsule, places, hint="vnfsbuild build RECIPE")
    _tell(f"node server up, {name} imported  ({time.monotonic() - started:.1f} s)")
    return Wish(capsule=name, method=options.method, timeout_seconds=options.timeout)


def report(laboratory: Laboratory, outcomes: Sequence[Outcome], options: RunOptions) -> None:
    """Print how it went: figures, consoles of those that failed, and the status table."""
    for outcome in outcomes:
        if not outcome.is_ready:
            _tell(f"\n{outcome.name} is not ready: {outcome.reason}")
            console = laboratory.console(outcome.machine)
            where = f"all: {console}" if options.console_dir else "--console-dir DIR keeps all"
            _tell(f"Last lines of its console ({where}):")
            _tell(console_tail(laboratory, outcome.machine, CONSOLE_LINES))
        if outcome.failed_units:
            _tell(f"\n{outcome.name}: failed units: {', '.join(outcome.failed_units)}")
    is_emulated = options.accel == "tcg"
    if options.as_json:
        value = {
            "ready": all(outcome.is_ready for outcome in outcomes),
            "emulated": is_emulated,
            "nodes": [outcome_value(outcome) for outcome in outcomes],
        }
        click.echo(json.dumps(value, indent=2))
        return
    click.echo("\n" + render_outcomes(outcomes, is_emulated=is_emulated))
    click.echo("\n" + status_table(laboratory))


def status_table(laboratory: Laboratory) -> str:
    """Return what ``provisionctl node status`` prints for the laboratory's node server."""
    argv = [sys.executable, "-m", "provisiond.ctl", "--socket", str(laboratory.socket)]
    return capture([*argv, "node", "status"], env=python_paths()).decode().rstrip()


def verdict(outcomes: Sequence[Outcome]) -> str | None:
    """Return why not all are ready, or None when they are."""
    failed = [outcome for outcome in outcomes if not outcome.is_ready]
    if not failed:
        return None
    first = failed[0].reason.splitlines()[0] if failed[0].reason else failed[0].state
    return (
        f"laboratory: {len(failed)} of {len(outcomes)} nodes not ready: {failed[0].name}: {first}"
    )


def _import(laboratory: Laboratory, words: str, places: Places, *, hint: str) -> str:
    if words.endswith(".vnfs") or "/" in words:
        entry: dict[str, Any] = laboratory.import_file(Path(words))
        return str(entry["name"])
    path = laboratory.directory / "import.vnfs"
    try:
        found = Store(places.store).export(parse_reference(words), path)
    except InputError as error:
        raise InputError(error.message, hint=hint) from error
    laboratory.import_file(path)
    path.unlink()
    return found.name


def _keep(laboratory: Laboratory) -> None:
    _tell(
        "\nThe laboratory keeps running. In another terminal:\n"
        f"  provisionctl --socket {laboratory.socket} node status\n"
        f"  {laboratory.enter_words}ping 10.87.1.1        # a program in its network\n"
        + "".join(f"  tail -f {laboratory.console(machine)}\n" for machine in laboratory.powered_on)
        + "Stop it with Ctrl-C, or: provisionctl lab stop"
    )
    while True:
        signal.pause()


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _tell(line: str) -> None:
    click.echo(line, err=True)
