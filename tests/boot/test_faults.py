"""What goes wrong on a node where firmware, kexec or the kernel is the subject.

All else that goes wrong has its rows in tests/integration/test_faults.py.
"""

import re
import time
from dataclasses import replace
from pathlib import Path

import pytest

from provisiond.lab.laboratory import open_laboratory
from vnfsbuild import manifest as m
from vnfsbuild.reference import parse_reference
from vnfsbuild.signing.keys import find_signing_key, load_trust, sign_manifest
from vnfsbuild.store.store import Store

from .test_boot import MACHINE, NAME, console, provisionctl, sight, wait_until

pytestmark = [pytest.mark.boot, pytest.mark.long]

PANIC = "Kernel panic - not syncing"
SECONDS = 1200


def make_panicking(built, directory: Path) -> Path:
    """Return a capsule like the one that was built, whose kernel finds nothing to start.

    It is signed by the site: nothing tells it from a good one before it runs.
    """
    store = Store(directory / "store")
    now = int(time.time())
    store.import_file(built.capsule, trust=load_trust(built.places.site, now=now), now=now)
    good = store.get(parse_reference(NAME))
    config = replace(
        good.config, serial=good.config.serial + 1,
        kernel=replace(good.config.kernel,
                       arguments=("console=ttyS0", "rdinit=/nothing", "panic=3")),
    )  # fmt: skip
    text = m.render_config(config)
    described = store.add_blob(text, media_type=m.CONFIG)
    manifest = m.render_manifest(replace(good.manifest, config=described))
    key = find_signing_key(built.places.site, "tests")
    store.add_capsule(manifest, text, [sign_manifest(manifest, key)])
    path = directory / "panics.vnfs"
    store.export(parse_reference(NAME), path)
    return path


def shorten(text: str) -> str:
    """Let another boot of a node be no conflict, half a minute after it was heard last."""
    for key, value in (("checkin_seconds", 20), ("session_timeout_seconds", 30)):
        text, count = re.subn(rf"(?m)^(# )?{key} = .*$", f"{key} = {value}", text)
        assert count == 1, key
    return text


@pytest.mark.timeout(4 * SECONDS)
def test_a_kernel_that_panics_after_kexec_three_times_and_a_clock_in_1970(built, tmp_path):
    machine = replace(MACHINE, clock="1970-01-02T00:00:00")
    panics = make_panicking(built, tmp_path)
    with open_laboratory(built.settings(console_dir=tmp_path, configure=shorten)) as laboratory:
        laboratory.import_file(built.bootstrap)
        laboratory.import_file(built.capsule)
        provisionctl(laboratory, "defaults", "set", "vnfs", NAME)
        laboratory.power_on(machine)

        def state():
            seen = sight(laboratory, machine)
            return seen.state if seen else None

        def told():
            return console(laboratory, machine)

        def wait(condition):
            wait_until(condition, laboratory, machine, seconds=SECONDS)

        wait(lambda: state() is not None)
        provisionctl(laboratory, "node", "approve", "n00001")
        wait(lambda: state() == "ready")
        assert re.search(r"the clock was \d{10} s behind; set by the server's", told())
        good = sight(laboratory, machine).capsule

        laboratory.import_file(panics)
        laboratory.power_off(machine)
        laboratory.power_on(machine)
        # From now on nobody touches it: panic= starts it anew, each time.
        wait(lambda: told().count(PANIC) == 3)
        wait(lambda: state() == "ready")
        assert told().count(PANIC) == 3
        assert sight(laboratory, machine).capsule == good
        status = provisionctl(laboratory, "node", "status")
        assert "fallback" in status, status
        assert "no word" in provisionctl(laboratory, "events")
