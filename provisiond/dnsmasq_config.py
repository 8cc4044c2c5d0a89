"""dnsmasq's configuration, and the file that it reads for each node."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

ETHERNET_CHARACTERS = 17
BIOS_LOADER = "undionly.kpxe"
EFI_LOADER = "ipxe.efi"


@dataclass(frozen=True, kw_only=True, slots=True)
class DnsmasqPlaces:
    """Where dnsmasq reads and writes."""

    leases: Path
    hosts: Path
    """A directory with a file per node; a new file is seen at once, a lost one at SIGHUP."""
    names: Path
    """The same for names: DHCP's part of dnsmasq knows only nodes that hold a lease."""
    tftp: Path


def render_dnsmasq_config(
    *,
    device: str,
    address: IPv4Interface,
    first: IPv4Address,
    last: IPv4Address,
    gateway: IPv4Address | None,
    name_servers: tuple[IPv4Address, ...],
    domain: str,
    boot_url: str,
    places: DnsmasqPlaces,
    as_root: bool,
) -> str:
    """Return the configuration: DHCP, TFTP, and DNS for the names of nodes, on one device.

    *as_root*: it is started as root and stays so.
    """
    servers = ",".join(str(server) for server in name_servers)
    lines = [
        "# Written by provisiond at each start.",
        "keep-in-foreground",
        "log-facility=-",
        "pid-file=",
        *(["user=root", "group=root"] if as_root else []),
        f"interface={device}",
        "except-interface=lo",
        "bind-interfaces",
        "no-hosts",
        "no-resolv",
        *_domain(domain),
        "",
        f"dhcp-range={first},{last},{address.netmask},1h",
        f"dhcp-lease-max={int(last) - int(first) + 1}",
        "dhcp-authoritative",
        "# Firmware, iPXE, bootstrap and capsule name themselves differently, and are one node.",
        "dhcp-ignore-clid",
        "# A machine does not choose its own name.",
        "dhcp-ignore-names",
        "dhcp-sequential-ip",
        "# Without this each offer takes three seconds.",
        "no-ping",
        f"dhcp-leasefile={places.leases}",
        f"dhcp-hostsdir={places.hosts}",
        f"hostsdir={places.names}",
        f"dhcp-option=option:router{f',{gateway}' if gateway else ''}",
        f"dhcp-option=option:dns-server{f',{servers}' if servers else ''}",
        "",
        "enable-tftp",
        f"tftp-root={places.tftp}",
        "dhcp-match=set:ipxe,175",
        "dhcp-match=set:efi64,option:client-arch,7",
        "dhcp-match=set:efi64,option:client-arch,9",
        "dhcp-match=set:efihttp,option:client-arch,16",
        "# Firmware passes over an HTTP Boot offer without this.",
        "dhcp-option-force=tag:efihttp,option:vendor-class,HTTPClient",
        "# The last line that matches counts.",
        f"dhcp-boot={BIOS_LOADER}",
        f"dhcp-boot=tag:efi64,{EFI_LOADER}",
        f"dhcp-boot=tag:efihttp,{boot_url}/boot/{EFI_LOADER}",
        f"dhcp-boot=tag:ipxe,{boot_url}/boot.ipxe",
    ]
    return "\n".join(lines) + "\n"


def render_host(hwaddrs: tuple[str, ...], address: str | None, name: str) -> str:
    """Return the line that gives a node its name, and its address when it has one.

    Only Ethernet addresses: dnsmasq takes InfiniBand's by client id, which is ignored here.
    """
    words = [hwaddr for hwaddr in hwaddrs if len(hwaddr) == ETHERNET_CHARACTERS]
    if not words:
        return ""
    return ",".join([*words, *([address] if address else []), name]) + "\n"


def render_name(address: str | None, name: str) -> str:
    """Return the line that says where a node is; none while it has no address."""
    return f"{address} {name}\n" if address else ""


def dnsmasq_argv(config: Path, *, owner: tuple[int, int] | None) -> list[str]:
    """Return what starts dnsmasq in the foreground.

    As *owner*, user and group, from the beginning, with the three capabilities that it needs: it
    would drop root by itself, but then the kernel forgets that it is to end with its parent.
    """
    identity = []
    if owner is not None:
        capabilities = "-all,+net_admin,+net_bind_service,+net_raw"
        identity = [
            f"--reuid={owner[0]}",
            f"--regid={owner[1]}",
            "--clear-groups",
            f"--inh-caps={capabilities}",
            f"--ambient-caps={capabilities}",
            f"--bounding-set={capabilities}",
            "--no-new-privs",
        ]
    return ["setpriv", *identity, "--pdeathsig=TERM", "--", "dnsmasq", f"--conf-file={config}"]


def _domain(domain: str) -> list[str]:
    return [f"domain={domain}", f"local=/{domain}/", "expand-hosts"] if domain else []
