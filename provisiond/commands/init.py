"""``provisiond init``: the settings, asked for or given; the certificate authority."""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Mapping
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any

import click

from provisiond.authority import Authority
from provisiond.commands.context import Context
from provisiond.config import SETTINGS, default_range, parse_config, render_config
from provisiond.configvalues import REGISTRATIONS
from provisiond.statedir import StateDir
from vnfsbuild.errors import InputError, VnfsbuildError
from vnfsbuild.files import write_atomic
from vnfsbuild.places import find_places
from vnfsbuild.tools import ToolError, capture

_DEFAULTS = {(item.table, item.key): item.default for item in SETTINGS}


@click.command()
@click.option("--config", "config_path", type=click.Path(path_type=Path), help="The file to write.")
@click.option("--device", help="The device of the provisioning network.")
@click.option("--address", metavar="CIDR", help="This machine's address on it, as 10.87.0.1/24.")
@click.option("--range", "range_", metavar="FIRST-LAST", help="The addresses that nodes get.")
@click.option("--name-pattern", help="Names of new nodes, as n####.")
@click.option("--total-nodes", type=int, help="Not more nodes than this.")
@click.option("--registration", type=click.Choice(REGISTRATIONS), help="What to do with new nodes.")
@click.option("--state-dir", type=click.Path(path_type=Path), help="Database, capsules, keys.")
@click.option("--socket", type=click.Path(path_type=Path), help="Where provisionctl connects.")
@click.option("--trust", type=click.Path(path_type=Path), help="trust.json of the site.")
@click.option("--user", help="The user that serves the network; '' for root.")
@click.option("--port", type=int, help="HTTPS, for agents.")
@click.option("--boot-port", type=int, help="HTTP, for firmware and blobs.")
@click.option("--ipxe-dir", type=click.Path(path_type=Path), help="Where iPXE is.")
@click.option("--overlay-files", type=click.Path(path_type=Path), help="Files for all nodes.")
@click.option("--no-dnsmasq", is_flag=True, help="Something else does DHCP and TFTP.")
@click.pass_obj
def command(
    context: Context, /, config_path: Path | None, no_dnsmasq: bool, **options: Any
) -> None:
    """Write provisiond.toml, and make the certificate authority of this node server.

    On a terminal it asks for what was not given. It overwrites nothing.
    """
    target = (config_path or context.config).absolute()
    _refuse_existing(target)
    given = _collect(options, interactive=sys.stdin.isatty())
    if no_dnsmasq:
        given["network", "dnsmasq"] = False
    text = render_config(given)
    config = parse_config(text, where="init")
    authority = Authority(StateDir(path=config.state_dir).authority)
    _refuse_existing(authority.ca_certificate)
    now = datetime.datetime.now(tz=datetime.UTC)
    try:
        config.state_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        authority.create(now=now)
        authority.ensure_server_certificate(config.address.ip, now=now)
        target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        write_atomic(target, text.encode("utf-8"))
    except OSError as error:
        raise VnfsbuildError(f"{error.filename}: {error.strerror}") from error
    click.echo(f"{target}: written")
    click.echo(f"{authority.path}: certificate authority, server certificate and site secret made")
    click.echo(f"next: provisiond --config {target} serve")


def _collect(options: Mapping[str, Any], *, interactive: bool) -> dict[tuple[str, str], Any]:
    """Return the settings by table and key: given, else asked for, else worked out."""

    def ask(text: str, default: Any) -> Any:
        return click.prompt(text, default=default) if interactive else default

    devices = {} if options["device"] and options["address"] else _find_devices()
    device = options["device"] or ask("Device of the provisioning network", _choose(devices))
    if device is None:
        raise InputError(
            "init: found no device that is not this machine's way to the world",
            hint="provisiond init --device NAME --address CIDR",
        )
    address = options["address"] or ask("Address of this machine on it", devices.get(device))
    if address is None:
        raise InputError(f"init: {device} has no IPv4 address", hint="provisiond init --address …")
    asked = {
        ("network", "range"): options["range_"] or ask(
            "Addresses for nodes", _default_range(address)),
        ("nodes", "name_pattern"): options["name_pattern"] or ask(
            "Names of new nodes", _DEFAULTS["nodes", "name_pattern"]),
        ("nodes", "registration"): options["registration"] or ask(
            f"New nodes ({', '.join(REGISTRATIONS)})", _DEFAULTS["nodes", "registration"]),
    }  # fmt: skip
    trust = options["trust"] or find_places().site / "trust.json"
    plain = {
        ("", "state_dir"): _absolute(options["state_dir"]),
        ("", "socket"): _absolute(options["socket"]),
        ("", "trust"): _absolute(trust),
        ("", "user"): options["user"],
        ("network", "device"): device,
        ("network", "address"): address,
        ("network", "ipxe_dir"): _absolute(options["ipxe_dir"]),
        ("http", "port"): options["port"],
        ("http", "boot_port"): options["boot_port"],
        ("nodes", "total_nodes"): options["total_nodes"],
        ("overlay", "files"): _absolute(options["overlay_files"]),
    }
    return {key: value for key, value in (plain | asked).items() if value is not None}


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute())


def _default_range(address: str) -> str:
    try:
        if "/" not in address:
            raise ValueError("no prefix length")
        return default_range(IPv4Interface(address))
    except ValueError as error:
        raise InputError(
            f"init: found address {address!r}, expected one with its prefix length, as 10.87.0.1/24"
        ) from error


def _find_devices() -> dict[str, str]:
    """Return the network devices with their first IPv4 address, without the way to the world."""
    try:
        devices = json.loads(capture(["ip", "-json", "-4", "address", "show"]) or b"[]")
        routes = json.loads(capture(["ip", "-json", "-4", "route", "show", "default"]) or b"[]")
    except ToolError as error:
        raise InputError(f"init: {error.message}", hint="or say --device and --address") from error
    # A second DHCP server on the network of an office disturbs it: that takes an explicit word.
    world = {route.get("dev") for route in routes}
    return {
        device["ifname"]: f"{info['local']}/{info['prefixlen']}"
        for device in devices
        if device.get("addr_info") and device["ifname"] not in world and device["ifname"] != "lo"
        for info in device["addr_info"][:1]
    }


def _choose(devices: Mapping[str, str]) -> str | None:
    return next(iter(sorted(devices)), None)


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise InputError(
            f"{path}: is there already, and init overwrites nothing",
            hint="provisiond serve uses it; move it away to begin anew",
        )
