"""What the parts of the daemon work with: each made once, by the process that serves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from provisiond.catalogue import Catalogue
from provisiond.config import Config
from provisiond.events.events import EventLog
from provisiond.hosts import HostsDirectory
from provisiond.nodes.knocks import Send
from provisiond.nodes.leases import LeaseFile
from provisiond.nodes.registry import Registry
from provisiond.overlays.overlays import Overlays
from vnfsbuild.digest import Digest


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a :class:`Service` works with."""

    config: Config
    registry: Registry
    catalogue: Catalogue
    events: EventLog
    leases: LeaseFile
    hosts: HostsDirectory
    overlays: Overlays
    clock: Callable[[], float]
    authority_digest: Digest
    """Of the certificate that agents know the server by."""
    send: Send = lambda address, port, data: None
    """Sends a datagram to a node."""
