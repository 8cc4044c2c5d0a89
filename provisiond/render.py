"""The overlay of a node: the files that make one capsule this node, as a tar.

Deterministic: equal inputs give equal bytes, so that the digest says whether anything changed. No
secret is in it; who may fetch it is decided elsewhere.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import tarfile
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface

from vnfsbuild.errors import InputError

MAX_OVERLAY_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class OverlayFile:
    """A file or a symbolic link; directories are made as they are needed."""

    path: str
    """Without a leading slash."""
    data: bytes
    mode: int = 0o644
    link: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeFacts:
    """What the files of a node are made from."""

    name: str
    node_id: str
    hwaddr: str
    """Of the device that it was booted from."""
    address: IPv4Interface
    gateway: IPv4Address | None
    name_servers: tuple[IPv4Address, ...]
    domain: str


def render_overlay(facts: NodeFacts, site_secret: bytes, extra: tuple[OverlayFile, ...]) -> bytes:
    """Return the tar of the files of a node; of two with the same path *extra* counts.

    Raises:
        InputError: a path is too long for the format, or all of it is too large.
    """
    files = {file.path: file for file in (*_node_files(facts, site_secret), *extra)}
    size_bytes = sum(len(file.data) for file in files.values())
    if size_bytes > MAX_OVERLAY_BYTES:
        raise InputError(f"overlay: {size_bytes} bytes, expected {MAX_OVERLAY_BYTES} at most")
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in sorted(files):
            try:
                archive.addfile(_member(files[path]), io.BytesIO(files[path].data))
            except ValueError as error:
                raise InputError(f"overlay: {path}: {error}") from error
    return stream.getvalue()


def make_machine_id(site_secret: bytes, node_id: str) -> str:
    """Return the machine id of a node: stable, and not to be guessed from its address."""
    message = b"machine-id " + node_id.encode("ascii")
    return hmac.new(site_secret, message, hashlib.sha256).hexdigest()[:32]


def _node_files(facts: NodeFacts, site_secret: bytes) -> tuple[OverlayFile, ...]:
    texts = {
        "etc/hostname": f"{facts.name}\n",
        "etc/hosts": _hosts(facts),
        "etc/machine-id": f"{make_machine_id(site_secret, facts.node_id)}\n",
        "etc/systemd/network/10-vnfs.network": _network(facts),
    }
    if facts.name_servers:
        texts["etc/resolv.conf"] = _resolver(facts)
    return tuple(OverlayFile(path=path, data=text.encode()) for path, text in texts.items())


def _hosts(facts: NodeFacts) -> str:
    full = f"{facts.name}.{facts.domain} " if facts.domain else ""
    return (
        "127.0.0.1 localhost\n"
        "::1 localhost ip6-localhost ip6-loopback\n"
        f"{facts.address.ip} {full}{facts.name}\n"
    )


def _network(facts: NodeFacts) -> str:
    lines = [
        "[Match]",
        f"MACAddress={facts.hwaddr}",
        "",
        "[Link]",
        "RequiredForOnline=yes",
        "",
        "[Network]",
        f"Address={facts.address}",
    ]
    if facts.gateway:
        lines.append(f"Gateway={facts.gateway}")
    lines += [f"DNS={server}" for server in facts.name_servers]
    if facts.domain:
        lines.append(f"Domains={facts.domain}")
    return "\n".join(lines) + "\n"


def _resolver(facts: NodeFacts) -> str:
    search = f"search {facts.domain}\n" if facts.domain else ""
    return search + "".join(f"nameserver {server}\n" for server in facts.name_servers)


def _member(file: OverlayFile) -> tarfile.TarInfo:
    member = tarfile.TarInfo(file.path)
    member.mode = file.mode
    if file.link is not None:
        member.type, member.linkname = tarfile.SYMTYPE, file.link
    else:
        member.size = len(file.data)
    return member
