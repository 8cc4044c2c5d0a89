"""The overlays of nodes: rendered when fetched; of each only the digest is kept."""

from __future__ import annotations

import stat
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

from provisiond.config import Config
from provisiond.model import Node, Session, effective_attributes
from provisiond.protocol import PlannedOverlay
from provisiond.render import MAX_OVERLAY_BYTES, NodeFacts, OverlayFile, render_overlay
from vnfsbuild.digest import digest_of
from vnfsbuild.errors import InputError


class Overlays:
    """Renders overlays, with the files that the site adds for all nodes."""

    def __init__(self, config: Config, site_secret: bytes) -> None:
        self._config = config
        self._site_secret = site_secret
        self._extra: tuple[OverlayFile, ...] = ()
        self._planned: dict[str, tuple[NodeFacts, PlannedOverlay]] = {}

    def set_extra(self, files: tuple[OverlayFile, ...]) -> bool:
        """Use *files* from now on; tell whether they are others than before."""
        if files == self._extra:
            return False
        self._extra = files
        self._planned.clear()
        return True

    def plan(self, node: Node, session: Session) -> PlannedOverlay:
        """Return digest and size of the overlay of a node in this boot."""
        facts = self._facts(node, session)
        held = self._planned.get(node.node_id)
        if held is not None and held[0] == facts:
            return held[1]
        data = render_overlay(facts, self._site_secret, self._extra)
        planned = PlannedOverlay(digest=digest_of(data), size_bytes=len(data))
        self._planned[node.node_id] = (facts, planned)
        return planned

    def render(self, node: Node, session: Session) -> bytes:
        """Return the overlay itself."""
        return render_overlay(self._facts(node, session), self._site_secret, self._extra)

    def _facts(self, node: Node, session: Session) -> NodeFacts:
        config = self._config
        assigned = effective_attributes(node)["address"].value
        address = IPv4Address(assigned or node.address or session.peer)
        return NodeFacts(
            name=node.name,
            node_id=node.node_id,
            hwaddr=session.hwaddr,
            address=IPv4Interface((address, config.address.network.prefixlen)),
            gateway=config.gateway,
            name_servers=config.name_servers,
            domain=config.domain,
        )


def load_overlay_files(directory: Path) -> tuple[OverlayFile, ...]:
    """Return the files and links below *directory*, sorted.

    Raises:
        InputError: it cannot be read, holds anything else, or is too large for an overlay.
    """
    files = []
    size_bytes = 0
    try:
        for path in sorted(directory.rglob("*")):
            status = path.lstat()
            name = path.relative_to(directory).as_posix()
            if stat.S_ISLNK(status.st_mode):
                files.append(OverlayFile(path=name, data=b"", mode=0o777,
                                         link=str(path.readlink())))  # fmt: skip
            elif stat.S_ISREG(status.st_mode):
                size_bytes += status.st_size
                if size_bytes > MAX_OVERLAY_BYTES:
                    raise InputError(
                        f"{directory}: more than {MAX_OVERLAY_BYTES} bytes, too large to lay over"
                    )
                mode = stat.S_IMODE(status.st_mode)
                files.append(OverlayFile(path=name, data=path.read_bytes(), mode=mode))
            elif not stat.S_ISDIR(status.st_mode):
                raise InputError(f"{path}: found a special file, expected files and links")
    except OSError as error:
        raise InputError(f"{error.filename}: {error.strerror}") from error
    return tuple(files)
