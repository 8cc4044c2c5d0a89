"""The table once more, for what firmware is given: it verifies nothing, so the node server must.

A row is a store with a bootstrap that is not what the site's keys signed, and a machine that asks
for it by plain HTTP: it gets a refusal, an administrator the reason.
"""

import contextlib
import dataclasses
import json
import re
import urllib.error
import urllib.request

import pytest

from vnfsbuild import manifest as m
from vnfsbuild import newc

from . import judges, ways
from .claims import SIGNATURES
from .forge import CONFIG, PAYLOADS, Forgery
from .test_trust_table import replaced, restored
from .trusts import FORBIDS

MACHINE = "52:54:00:00:00:77"
DRIVERS = b"drivers\n" * 55
FILES = {"kernel": PAYLOADS[1][2], "initrd": PAYLOADS[2][2], "drivers": DRIVERS}
NAMES = {"drivers": "drivers.cpio"}
"""As firmware asks for them, where that is another name."""


def as_bootstrap(forgery):
    """Return the bootstrap that is forged in the same way."""
    words = {"artifact_type": m.BOOTSTRAP, "attest": lambda _: []}
    words["payloads"] = (*PAYLOADS[:3], ("drivers", m.DRIVERS, DRIVERS))
    config = {**CONFIG, "layers": [], "name": "bootstrap"}
    return dataclasses.replace(forgery, config=config, **words)


GOOD = as_bootstrap(Forgery())


class Firmware:
    """A machine that is switched on. 0: it starts what was signed."""

    def __init__(self, server):
        self.server = server
        self.url = f"http://127.0.0.1:{server.world.config.boot_port}/boot/"

    def boot(self):
        """Ask for all files; return the verdict."""
        for name, signed in FILES.items():
            status, data = self.get(name)
            if status != 200:
                return self._read_refusal(status, json.loads(data))
            assert data == signed, f"the {name} is another than was signed"
        return judges.Verdict(0, "")

    def get(self, name):
        try:
            url = f"{self.url}{NAMES.get(name, name)}?mac={MACHINE}"
            with urllib.request.urlopen(url) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def _read_refusal(self, status, told):
        assert status == 404
        assert told["hint"], "what is to be typed?"
        events = self.server.world.parts.events.since(0)
        refusals = [event.text for event in events if event.kind == "boot.refused"]
        assert refusals[-1] == f"{MACHINE}: {told['error']}; {told['hint']}"
        return judges.Verdict(2, f"{MACHINE}: {told['error']}")


@pytest.fixture
def firmware(desk):
    where = {"scope": "defaults", "subjects": [""]}
    desk.server.ask("/v1/settings/set", {**where, "values": {"drivers": "true"}})
    yield Firmware(desk.server)
    desk.server.ask("/v1/settings/unset", {**where, "keys": ["drivers"]})


@contextlib.contextmanager
def serving(desk, store):
    """Let the server find *store* when it starts."""
    with desk.server.keeping(store), judges.quick():
        desk.server.world.parts.catalogue.refresh()
        yield


def test_the_good_bootstrap_is_handed_out(desk, firmware, tmp_path):
    GOOD.lay_out(tmp_path / "store")
    with serving(desk, tmp_path / "store"):
        assert firmware.boot().status == 0


BOOTSTRAPS = {
    **{claim: (row.told, as_bootstrap(row.forgery)) for claim, row in SIGNATURES.items()},
    "older than the least serial": (
        "found serial 1, expected at least 2",
        dataclasses.replace(GOOD, config={**GOOD.config, "serial": 1}),
    ),
    "capsule presented as a bootstrap": (
        "not in the store",
        Forgery(config={**CONFIG, "name": "bootstrap"}, announced_type=m.BOOTSTRAP),
    ),
    "capsule of the name": ("not in the store", Forgery(config={**CONFIG, "name": "bootstrap"})),
    "bootstrap of another name": (
        "not in the store",
        dataclasses.replace(
            GOOD, config={**GOOD.config, "name": "canary"}, announced_name="bootstrap"
        ),
    ),
}
"""What is claimed → what the refusal says, and how it is made."""


@pytest.mark.parametrize("claim", BOOTSTRAPS)
def test_a_bootstrap_that_claims(desk, firmware, tmp_path, claim):
    told, forgery = BOOTSTRAPS[claim]
    forgery.lay_out(tmp_path / "store")
    with serving(desk, tmp_path / "store"):
        verdict = firmware.boot().is_refusal(2)
    # One whose papers do not hold is not even listed.
    assert re.search(f"{told}|not in the store", verdict.line), verdict.line


@pytest.mark.parametrize("trust", ["least serial 4", "other keys", "no rules"])
def test_a_trust_that_forbids_it(desk, firmware, tmp_path, trust):
    GOOD.lay_out(tmp_path / "store")
    with contextlib.ExitStack() as stack:
        stack.enter_context(serving(desk, tmp_path / "store"))
        assert firmware.boot().status == 0
        stack.enter_context(restored(desk.server.world.state.trust))
        stack.enter_context(replaced(desk.site / "trust.json", FORBIDS[trust].make()))
        desk.server.world.parts.catalogue.refresh()
        assert re.search(FORBIDS[trust].told, firmware.boot().is_refusal(2).line)


@pytest.mark.parametrize("was_served", [False, True], ids=["at once", "after a good one"])
@pytest.mark.parametrize("way", ways.FILE_WAYS)
@pytest.mark.parametrize("region", FILES)
def test_files_of_a_bootstrap(desk, firmware, tmp_path, region, way, was_served):
    store = tmp_path / "store"
    paths = GOOD.lay_out(store)
    whole = {name: paths[name].read_bytes() for name in FILES}
    with serving(desk, store):
        paths = {name: desk.server.world.state.store / path.relative_to(store)
                 for name, path in paths.items()}  # fmt: skip
        if was_served:
            assert firmware.boot().status == 0
        ways.FILE_WAYS[way](paths[region], paths["source"])
        assert "what was signed" in firmware.boot().is_refusal(2).line
        for name, data in whole.items():  # as another import does
            new = paths[name].with_name("new")
            new.write_bytes(data)
            new.replace(paths[name])
        assert firmware.boot().status == 0


@pytest.mark.parametrize("way", ways.FILE_WAYS)
def test_a_machine_without_need_of_drivers_boots_though_they_are_damaged(desk, tmp_path, way):
    """It gets an archive with nothing in it, that every firmware takes."""
    store = tmp_path / "store"
    paths = GOOD.lay_out(store)
    with serving(desk, store):
        served = desk.server.world.state.store
        damaged, other = (served / paths[name].relative_to(store) for name in ("drivers", "source"))
        ways.FILE_WAYS[way](damaged, other)
        machine = Firmware(desk.server)
        for name in ("kernel", "initrd"):
            assert machine.get(name) == (200, FILES[name])
        assert machine.get("drivers") == (200, newc.render_trailer())
