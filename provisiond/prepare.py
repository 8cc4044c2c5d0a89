"""What must be in place before the daemon serves: directories, certificates, loaders."""

from __future__ import annotations

import datetime
import grp
import logging
import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from provisiond.authority import Authority
from provisiond.catalogue import Catalogue
from provisiond.config import Config
from provisiond.dnsmasq_config import BIOS_LOADER, EFI_LOADER, render_dnsmasq_config
from provisiond.statedir import StateDir
from vnfsbuild.errors import InputError, VerificationError, VnfsbuildError
from vnfsbuild.files import read_bounded, write_atomic

logger = logging.getLogger(__name__)

DNSMASQ_USER = "dnsmasq"
MAX_LOADER_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Owner:
    """Whom a process belongs to."""

    name: str
    uid: int
    gid: int


def find_owner(name: str) -> Owner | None:
    """Return the user *name*; none when there is no such user, or we could not become it."""
    if not name or os.geteuid() != 0:
        return None
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        return None
    return Owner(name=name, uid=found.pw_uid, gid=found.pw_gid)


def find_group(name: str) -> int | None:
    """Return the id of the group *name*; none when there is no such group."""
    try:
        return grp.getgrnam(name).gr_gid if name else None
    except KeyError:
        return None


def find_dnsmasq_owner(config: Config) -> Owner | None:
    """Return whom dnsmasq runs as; none: as root, as the rest when no user is configured."""
    if not config.user:
        return None
    return find_owner(DNSMASQ_USER) or find_owner("nobody")


def prepare(config: Config, state: StateDir, *, owner: Owner | None) -> None:
    """Put everything in place, owned by whom writes to it.

    Raises:
        InputError: there is no state directory, or iPXE is missing.
        VnfsbuildError: something cannot be written.
    """
    authority = Authority(state.authority)
    now = datetime.datetime.now(tz=datetime.UTC)
    try:
        authority.ensure_server_certificate(config.address.ip, now=now)
        for directory in state.served:
            directory.mkdir(mode=0o755, exist_ok=True)
        for private in (state.database.parent, state.incoming):
            private.chmod(0o700)
        for path in state.incoming.glob("*.vnfs"):
            path.unlink()
        _make_socket_directory(config.socket.parent, owner)
        if config.dnsmasq:
            _prepare_dnsmasq(config, state)
        _take_trust(config, state)
        if owner is not None:
            _hand_over(state, authority, owner)
    except OSError as error:
        raise VnfsbuildError(f"{error.filename}: {error.strerror}") from error


def _prepare_dnsmasq(config: Config, state: StateDir) -> None:
    places = state.dnsmasq
    owner = find_dnsmasq_owner(config)
    places.leases.parent.mkdir(mode=0o755, exist_ok=True)
    if owner is not None:
        os.chown(places.leases.parent, owner.uid, owner.gid)
    places.tftp.mkdir(mode=0o755, exist_ok=True)
    for name in (BIOS_LOADER, EFI_LOADER):
        _copy_loader(config.ipxe_dir / name, places.tftp / name)
    text = render_dnsmasq_config(
        device=config.device,
        address=config.address,
        first=config.first_address,
        last=config.last_address,
        gateway=config.gateway,
        name_servers=config.name_servers,
        domain=config.domain,
        boot_url=config.boot_url,
        places=places,
        as_root=owner is None,
    )
    write_atomic(state.dnsmasq_config, text.encode())


def _copy_loader(source: Path, target: Path) -> None:
    try:
        data = read_bounded(source, limit_bytes=MAX_LOADER_BYTES)
    except InputError as error:
        raise InputError(
            f"{error.message}, expected iPXE there",
            hint="apt-get install ipxe, or provisiond.toml: network.ipxe_dir",
        ) from error
    if not target.exists() or target.read_bytes() != data:
        write_atomic(target, data)


def _take_trust(config: Config, state: StateDir) -> None:
    """Copy a newer trust.json now: the serving user may not be able to read where it comes from."""
    catalogue = Catalogue(state.store, trust=state.trust, trust_source=config.trust)
    try:
        catalogue.load_trust()
    except (InputError, VerificationError) as error:
        logger.debug("%s; the server will say so", error)


def _hand_over(state: StateDir, authority: Authority, owner: Owner) -> None:
    """Give the serving user what it writes to, and the two secrets that it needs."""
    for top in state.served:
        os.chown(top, owner.uid, owner.gid)
        for directory, names, files in os.walk(top):
            for name in (*names, *files):
                os.chown(Path(directory) / name, owner.uid, owner.gid, follow_symlinks=False)
    for secret in (authority.server_key, authority.site_secret):
        os.chown(secret, owner.uid, owner.gid)


def _make_socket_directory(path: Path, owner: Owner | None) -> None:
    """Make the directory; one that is there belongs to whoever made it, and stays so."""
    if path.exists():
        return
    path.mkdir(mode=0o755, parents=True)
    if owner is not None:
        os.chown(path, owner.uid, owner.gid)
