"""What a node knows of its site: servers, their CA, and whose capsules it may run.

It comes beside the bootstrap as site.cpio and goes with the node's files into the capsule.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Tuple

from provisiond.protocol import SPOKEN
from vnfsbuild.errors import VnfsbuildError

FILES = ("ca.pem", "site.json", "trust.json")


@dataclass(frozen=True)
class Site:
    """The site's part of a bootstrap. Whoever handed it out vouches for it."""

    servers: Tuple[str, ...]
    """Base URLs of provisiond, tried in turn."""
    ca_file: Path
    """The only authority that certificates of servers are accepted from."""
    trust: bytes
    """The text of trust.json; not verified yet."""


def load_site(directory: Path) -> Site:
    """Return the site that *directory* describes.

    Raises:
        VnfsbuildError: a file is missing or is not what it should be.
    """
    try:
        value = json.loads((directory / "site.json").read_bytes())
        servers, protocol = value["servers"], value["protocol"]
        trust = (directory / "trust.json").read_bytes()
        (directory / "ca.pem").read_bytes()
    except OSError as error:
        raise VnfsbuildError(
            f"{error.filename}: {error.strerror}; this bootstrap was started without its site.cpio",
            hint="the boot script must load site.cpio as a second initrd",
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise VnfsbuildError(
            f"{directory}/site.json: not a site's description: {error!r}"
        ) from error
    if protocol not in SPOKEN:
        raise VnfsbuildError(
            f"{directory}/site.json: protocol {protocol}, this agent speaks {SPOKEN[-1]}"
        )
    good = isinstance(servers, list) and all(isinstance(server, str) for server in servers)
    if not good or not servers or not all(server.startswith("https://") for server in servers):
        raise VnfsbuildError(
            f"{directory}/site.json: servers: found {servers!r:.200}, expected https:// addresses"
        )
    return Site(
        servers=tuple(server.rstrip("/") for server in servers),
        ca_file=directory / "ca.pem",
        trust=trust,
    )
