"""provisiond.toml: text ⇄ :class:`Config`. All faults of a file are told at once.

The table :data:`SETTINGS` is what there is to set: the parser, the file that ``provisiond init``
writes, and the nearest known key in a message all come from it.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any

from provisiond.configvalues import (
    as_addresses,
    as_arguments,
    as_bool,
    as_database,
    as_device,
    as_domain,
    as_exports,
    as_integer,
    as_interface,
    as_optional_address,
    as_optional_path,
    as_path,
    as_pattern,
    as_range,
    as_registration,
    as_text,
    as_web_addresses,
)
from provisiond.nodes.attributes import nearest
from vnfsbuild.errors import InputError
from vnfsbuild.fields import Faults, parse_toml


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The settings of a node server; :data:`SETTINGS` says what each means."""

    state_dir: Path
    socket: Path
    user: str
    group: str
    trust: Path | None
    database: str
    device: str
    address: IPv4Interface
    first_address: IPv4Address
    last_address: IPv4Address
    gateway: IPv4Address | None
    dns: tuple[IPv4Address, ...]
    domain: str
    dnsmasq: bool
    ipxe_dir: Path
    port: int
    boot_port: int
    servers: tuple[str, ...]
    mirrors: tuple[str, ...]
    nfs_exports: tuple[str, ...]
    kernel_arguments: tuple[str, ...]
    name_pattern: str
    total_nodes: int
    registration: str
    new_nodes_per_second: int
    checkin_seconds: int
    node_timeout_seconds: int
    boot_timeout_seconds: int
    session_timeout_seconds: int
    overlay_files: Path | None
    overlay_directory: Path | None
    hooks_directory: Path | None
    hooks_timeout_seconds: int

    @property
    def server_url(self) -> str:
        """Where agents check in."""
        return f"https://{self.address.ip}:{self.port}"

    @property
    def server_urls(self) -> tuple[str, ...]:
        """All addresses that agents may ask, this server's first."""
        return tuple(dict.fromkeys((self.server_url, *self.servers)))

    @property
    def blob_urls(self) -> tuple[str, ...]:
        """Where blobs are, this server's first."""
        return tuple(dict.fromkeys((f"{self.boot_url}/blobs", *self.mirrors)))

    @property
    def boot_url(self) -> str:
        """Where firmware, bootstraps and blobs are fetched."""
        return f"http://{self.address.ip}:{self.boot_port}"

    @property
    def name_servers(self) -> tuple[IPv4Address, ...]:
        """The name servers that nodes are told: those that are set, else this machine's."""
        return self.dns or ((self.address.ip,) if self.dnsmasq else ())


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """A key of the file."""

    table: str
    key: str
    parse: Callable[[Any], Any]
    """From what TOML gives; raises :class:`ValueError` with what was expected."""
    meaning: str
    default: Any = None
    """In the words of the file; none: it must be there."""


_SECONDS = as_integer(1, 86400)
_PORT = as_integer(1, 65535)

SETTINGS: tuple[Setting, ...] = (
    Setting(
        table="", key="state_dir", parse=as_path, default="/var/lib/provisiond",
        meaning="Database, store of capsules, certificates, leases.",
    ),
    Setting(
        table="", key="socket", parse=as_path, default="/run/provisiond/provisiond.sock",
        meaning="Where provisionctl talks to the daemon.",
    ),
    Setting(
        table="", key="user", parse=as_text, default="provisiond",
        meaning="The user that serves the network; without such a user, or when empty, it is root.",
    ),
    Setting(
        table="", key="group", parse=as_text, default="provision",
        meaning="Members of this group may use provisionctl, and root.",
    ),
    Setting(
        table="", key="trust", parse=as_optional_path, default="/etc/vnfs/trust.json",
        meaning="Whose signatures count. A newer one is taken over at start and with each import.",
    ),
    Setting(
        table="", key="database", parse=as_database, default="",
        meaning="postgresql://USER@HOST/NAME; empty: SQLite, in state_dir.",
    ),
    Setting(
        table="network", key="device", parse=as_device,
        meaning="The device of the provisioning network.",
    ),
    Setting(
        table="network", key="address", parse=as_interface,
        meaning="This machine's address on it, with the prefix length.",
    ),
    Setting(
        table="network", key="range", parse=as_range,
        meaning="The addresses that nodes get, first and last.",
    ),
    Setting(
        table="network", key="gateway", parse=as_optional_address, default="",
        meaning="The gateway that nodes are told; empty: none.",
    ),
    Setting(
        table="network", key="dns", parse=as_addresses, default=[],
        meaning="The name servers that nodes are told; empty: this machine, which knows the nodes.",
    ),
    Setting(
        table="network", key="domain", parse=as_domain, default="",
        meaning="The DNS domain of the nodes; empty: none.",
    ),
    Setting(
        table="network", key="dnsmasq", parse=as_bool, default=True,
        meaning="Run dnsmasq for DHCP, TFTP and DNS; false: something else does.",
    ),
    Setting(
        table="network", key="ipxe_dir", parse=as_path, default="/usr/lib/ipxe",
        meaning="Where undionly.kpxe and ipxe.efi are.",
    ),
    Setting(
        table="http", key="port", parse=_PORT, default=8987,
        meaning="HTTPS, for agents.",
    ),
    Setting(
        table="http", key="boot_port", parse=_PORT, default=8988,
        meaning="Plain HTTP, for firmware, bootstraps and signed blobs.",
    ),
    Setting(
        table="http", key="servers", parse=as_web_addresses("https"), default=[],
        meaning="More addresses that agents may ask, with a certificate of the same authority.",
    ),
    Setting(
        table="http", key="mirrors", parse=as_web_addresses("http", "https"), default=[],
        meaning="Base URLs with the same blobs; nodes spread over them and this server.",
    ),
    Setting(
        table="nfs", key="exports", parse=as_exports, default=[],
        meaning="SERVER:/PATH of the store's directory blobs, for nodes with transfer = nfs.",
    ),
    Setting(
        table="boot", key="kernel_arguments", parse=as_arguments,
        default=["console=tty0", "console=ttyS0,115200"],
        meaning="Kernel arguments of the bootstrap OS.",
    ),
    Setting(
        table="nodes", key="name_pattern", parse=as_pattern, default="n####",
        meaning="Names of new nodes: at least as many digits as '#' signs.",
    ),
    Setting(
        table="nodes", key="total_nodes", parse=as_integer(1, 1_000_000), default=10000,
        meaning="Not more nodes than this.",
    ),
    Setting(
        table="nodes", key="registration", parse=as_registration, default="ask",
        meaning="New nodes: ask (wait for approval), open (approved at once), closed (refused).",
    ),
    Setting(
        table="nodes", key="new_nodes_per_second", parse=as_integer(1, 10000), default=5,
        meaning="Not more new nodes in a second than this.",
    ),
    Setting(
        table="nodes", key="checkin_seconds", parse=_SECONDS, default=60,
        meaning="How often a running node checks in.",
    ),
    Setting(
        table="nodes", key="node_timeout_seconds", parse=_SECONDS, default=600,
        meaning="A node that was silent for so long is dead.",
    ),
    Setting(
        table="nodes", key="boot_timeout_seconds", parse=_SECONDS, default=300,
        meaning="A node without a word for so long after kexec has failed.",
    ),
    Setting(
        table="nodes", key="session_timeout_seconds", parse=_SECONDS, default=180,
        meaning="Another boot of a node that was heard of within this time is a conflict.",
    ),
    Setting(
        table="overlay", key="files", parse=as_optional_path, default="",
        meaning="A directory of files for all nodes; no secrets: everyone may read them.",
    ),
    Setting(
        table="overlay", key="directory", parse=as_optional_path,
        default="/etc/provisiond/overlays",
        meaning="The site's overlays, a folder each; empty: only those that come with provisiond.",
    ),
    Setting(
        table="hooks", key="directory", parse=as_optional_path, default="/etc/provisiond/hooks",
        meaning="KIND/PROGRAM here is run for each event of that kind; empty: nothing is.",
    ),
    Setting(
        table="hooks", key="timeout_seconds", parse=_SECONDS, default=60,
        meaning="A program that runs for longer than this is ended.",
    ),
)  # fmt: skip


def parse_config(text: str, *, where: str) -> Config:
    """Return the configuration that *text* is.

    Raises:
        InputError: it is not TOML, or with every fault that it has.
    """
    document = parse_toml(text, where=where)
    faults = Faults(where)
    _find_unknown_keys(document, faults)
    values: dict[tuple[str, str], Any] = {}
    for setting in SETTINGS:
        table = document.get(setting.table, {}) if setting.table else document
        given = table.get(setting.key, setting.default) if isinstance(table, dict) else None
        if given is None:
            meant = f"{setting.meaning[0].lower()}{setting.meaning[1:-1]}"
            faults.add(_dotted(setting), f"missing: {meant}")
            continue
        try:
            values[setting.table, setting.key] = setting.parse(given)
        except ValueError as error:
            faults.add(_dotted(setting), f"found {given!r:.80}, {error}")
    if not faults.found:
        _find_contradictions(values, faults)
    faults.verify()
    return _make_config(values)


def render_config(given: Mapping[tuple[str, str], Any]) -> str:
    """Return the text of a file with *given*, by table and key, and every default told."""
    lines = ["# The node server's settings. `provisiond serve` reads them when it starts."]
    table = ""
    for setting in SETTINGS:
        if setting.table != table:
            table = setting.table
            lines += ["", f"[{table}]"]
        value = given.get((setting.table, setting.key))
        shown = setting.default if value is None else value
        comment = "# " if value is None or value == setting.default else ""
        lines += [f"# {setting.meaning}", f"{comment}{setting.key} = {_toml(shown)}"]
    return "\n".join(lines) + "\n"


def default_range(address: IPv4Interface) -> str:
    """Return the addresses of the network of *address* that nodes may have, without its own.

    The larger stretch of the network, above or below *address*.

    Raises:
        InputError: there is no room in so small a network.
    """
    network = address.network
    if network.num_addresses < 4:
        raise InputError(f"{address}: found no room for nodes, expected a larger network")
    first, last = network.network_address + 1, network.broadcast_address - 1
    below, above = int(address.ip) - int(first), int(last) - int(address.ip)
    if above >= below:
        # Some low addresses stay free for machines that are set up by hand.
        start = address.ip + (100 if above > 150 else 1)
        return f"{start}-{last}"
    return f"{first}-{address.ip - 1}"


def _dotted(setting: Setting) -> str:
    return f"{setting.table}.{setting.key}" if setting.table else setting.key


def _find_unknown_keys(document: Mapping[str, Any], faults: Faults) -> None:
    tables = {setting.table for setting in SETTINGS if setting.table}
    known = [_dotted(setting) for setting in SETTINGS]
    for key, value in document.items():
        if key not in tables:
            words = [key]
        elif isinstance(value, dict):
            words = [f"{key}.{inner}" for inner in value]
        else:
            faults.add(key, f"found {value!r:.80}, expected a table")
            continue
        for word in words:
            if word not in known:
                faults.add(word, f"unknown key{nearest(word, known)}")


def _find_contradictions(values: Mapping[tuple[str, str], Any], faults: Faults) -> None:
    address: IPv4Interface = values["network", "address"]
    first, last = values["network", "range"]
    for position, bound in (("first", first), ("last", last)):
        if bound not in address.network:
            faults.add(
                "network.range", f"found {bound} as {position}, expected one of {address.network}"
            )
    if first <= address.ip <= last:
        faults.add("network.range", f"holds {address.ip}, the address of this machine")
    if values["http", "port"] == values["http", "boot_port"]:
        faults.add("http.boot_port", "found the same as http.port, expected another")
    session = values["nodes", "session_timeout_seconds"]
    if session <= values["nodes", "checkin_seconds"]:
        # Else a node that runs well would seem gone between two check-ins.
        faults.add(
            "nodes.session_timeout_seconds", f"found {session}, expected more than checkin_seconds"
        )


def _make_config(values: Mapping[tuple[str, str], Any]) -> Config:
    """Names in the file and in :class:`Config` are the same, but for *range* and two tables."""
    fields = {
        key: value
        for (table, key), value in values.items()
        if key != "range" and table not in ("overlay", "hooks", "nfs")
    }
    first, last = values["network", "range"]
    return Config(
        **fields,
        first_address=first,
        last_address=last,
        overlay_files=values["overlay", "files"],
        overlay_directory=values["overlay", "directory"],
        nfs_exports=values["nfs", "exports"],
        hooks_directory=values["hooks", "directory"],
        hooks_timeout_seconds=values["hooks", "timeout_seconds"],
    )


def _toml(value: Any) -> str:
    """JSON and TOML agree on what is written here: texts, numbers, booleans, lists of texts."""
    if value is None:
        return '""'
    if isinstance(value, (ipaddress.IPv4Interface, Path)):
        value = str(value)
    return json.dumps(value, ensure_ascii=False)
