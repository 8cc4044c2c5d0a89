"""``site.cpio``: what the bootstrap OS must know of a site, beside its own initramfs.

The bootstrap itself holds nothing of a site, so that one serves all; this names the authorities
that it is pinned to. Nothing in it is secret.
"""

from __future__ import annotations

import stat

from provisiond.protocol import PROTOCOL
from vnfsbuild.digest import render_json
from vnfsbuild.newc import render_archive

DIRECTORY = "vnfs/site"


def render_site(
    *, trust: bytes | None, ca: bytes, servers: tuple[str, ...], words: bytes = b""
) -> bytes:
    """Return the archive with trust.json, the certificate authority and the servers' addresses.

    *words* are what the bootstrap is told of its own node, beside its kernel arguments.
    """
    files = {
        "ca.pem": ca,
        "site.json": render_json({"protocol": PROTOCOL, "servers": list(servers)}),
    }
    if trust is not None:
        files["trust.json"] = trust
    if words:
        files["words"] = words
    entries = [("vnfs", stat.S_IFDIR | 0o755, b""), (DIRECTORY, stat.S_IFDIR | 0o755, b"")]
    entries += [
        (f"{DIRECTORY}/{name}", stat.S_IFREG | 0o644, data) for name, data in sorted(files.items())
    ]
    return render_archive(entries)
