"""What lies where below ``state_dir``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from provisiond.dnsmasq_config import DnsmasqPlaces


@dataclass(frozen=True, kw_only=True, slots=True)
class StateDir:
    """The directories of a node server.

    The user that serves the network owns only what it writes: ``database``, ``store``,
    ``incoming``, ``site``, ``hosts``, ``names``; dnsmasq owns its leases, root the rest.
    """

    path: Path

    @property
    def lock(self) -> Path:
        """Held while a daemon serves."""
        return self.path / "lock"

    @property
    def authority(self) -> Path:
        """Certificate authority, server certificate, site secret."""
        return self.path / "authority"

    @property
    def database(self) -> Path:
        """The file of the database, in a directory of its own, for SQLite's other files."""
        return self.path / "database/provisiond.db"

    @property
    def store(self) -> Path:
        """Capsules and bootstraps: an OCI image layout."""
        return self.path / "store"

    @property
    def incoming(self) -> Path:
        """Capsules on their way in."""
        return self.path / "incoming"

    @property
    def trust(self) -> Path:
        """The daemon's own copy of trust.json."""
        return self.path / "site/trust.json"

    @property
    def dnsmasq_config(self) -> Path:
        """The configuration of dnsmasq."""
        return self.path / "dnsmasq.conf"

    @property
    def dnsmasq(self) -> DnsmasqPlaces:
        """What dnsmasq reads and writes."""
        return DnsmasqPlaces(
            leases=self.path / "leases/dnsmasq.leases",
            hosts=self.path / "hosts",
            names=self.path / "names",
            tftp=self.path / "tftp",
        )

    @property
    def served(self) -> tuple[Path, ...]:
        """The directories that the serving user writes to."""
        return (
            self.database.parent,
            self.store,
            self.incoming,
            self.trust.parent,
            self.dnsmasq.hosts,
            self.dnsmasq.names,
        )
