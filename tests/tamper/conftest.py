"""A desk: a site, a store, a node server and a node, which all know the good capsule."""

from __future__ import annotations

import pytest

from . import judges
from .forge import SIGNERS, WORKSHOP, Forgery

FAR = 4_000_000_000
"""Seconds since 1970; the trust of the table does not expire before."""


def good_trust(**words):
    """Return the text of the site's trust.json: two must sign, nothing older than serial 2."""
    fields = {"threshold": 2, "least_serial": 2, "expires": FAR, "version": 5, **words}
    return WORKSHOP.signed_trust(WORKSHOP.trust(*SIGNERS, **fields))


class Desk:
    """Where judges sit."""

    def __init__(self, directory):
        self.directory = directory
        self.site, self.trust = directory / "site", good_trust()
        (self.site / "keys").mkdir(parents=True)
        (self.site / "trust.json").write_bytes(self.trust)
        self.command_line = judges.CommandLine(directory / "store", self.site)
        self.good = directory / "good.vnfs"
        self.good.write_bytes(Forgery().file())
        self.server = judges.Server(directory / "server", self.site / "trust.json", self.trust)
        # The stores hold another capsule, so that there is something to be harmed.
        other = directory / "other.vnfs"
        other.write_bytes(Forgery(config={**Forgery().config, "name": "other"}).file())
        assert judges.ImportFile(self).of_file(other).status == 0
        for path in (other, self.good):
            assert self.server.upload(path).status == 0
        self.server.ask(
            "/v1/nodes",
            {"hwaddr": judges.NODE_ID, "name": judges.NODE, "attributes": {"vnfs": "toy"}},
        )

    def file(self, data):
        """Return the path of a file that holds *data*."""
        path = self.directory / "tampered.vnfs"
        path.write_bytes(data)
        return path


@pytest.fixture(scope="session")
def desk(tmp_path_factory):
    desk = Desk(tmp_path_factory.mktemp("desk"))
    yield desk
    desk.server.stop()
