"""A node fetches its capsule by NFS: the same digests, the same refusal."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from provisiond.lab.laboratory import console_tail, open_laboratory
from provisiond.lab.machine import Machine
from provisiond.lab.watch import find_sight
from provisiond.statedir import StateDir
from vnfsbuild.manifest import LAYER_SQUASHFS
from vnfsbuild.reference import parse_reference
from vnfsbuild.store.store import Store

from .ganesha import start_ganesha

pytestmark = [pytest.mark.boot, pytest.mark.long, pytest.mark.timeout(1500)]

NAME = "debian-13-minimal"
MACHINE = Machine(number=1)
SECONDS = 600
EXPORTS = '\nexports = ["10.87.0.1:/blobs"]\n'


def configure(text: str) -> str:
    changed = text.replace("\n# exports = []\n", EXPORTS)
    assert changed != text
    return changed


def wait_until(condition, laboratory):
    deadline = time.monotonic() + SECONDS
    while not condition():
        told = laboratory.nodes(), console_tail(laboratory, MACHINE, 40)
        assert laboratory.ended(MACHINE) is None, told
        assert time.monotonic() < deadline, "\n".join(map(str, told))
        time.sleep(0.3)


def spoil(path: Path) -> bytes:
    """Flip a bit in the middle of the file; return what it held."""
    good = path.read_bytes()
    wrong = bytearray(good)
    wrong[len(wrong) // 2] ^= 1
    path.write_bytes(wrong)
    return good


def test_a_node_boots_by_nfs_and_refuses_wrong_bytes_until_they_are_right(built, tmp_path):
    exported = tmp_path / "exported"
    with open_laboratory(built.settings(configure=configure, console_dir=tmp_path)) as laboratory:
        for path in (built.bootstrap, built.capsule):
            laboratory.import_file(path)
        own = StateDir(path=laboratory.state_dir).store
        shutil.copytree(own / "blobs", exported)
        capsule = Store(own).get(parse_reference(NAME))
        layer = next(
            item for item in capsule.manifest.payloads if item.media_type == LAYER_SQUASHFS
        )
        spoiled = exported / layer.digest.replace(":", "/")
        good = spoil(spoiled)
        server = start_ganesha(laboratory, built.places.cache, exported, pseudo="/blobs")
        laboratory.power_on(MACHINE)

        def sight():
            return find_sight(laboratory.nodes(), MACHINE)

        def console():
            return laboratory.console(MACHINE).read_bytes().decode("utf-8", "replace")

        wait_until(lambda: sight() is not None, laboratory)
        laboratory.set("transfer", "nfs", sight().name)
        laboratory.set("vnfs", NAME, sight().name)
        wait_until(lambda: "vnfs: refused" in console(), laboratory)
        assert server.is_running, server.last_lines()
        refusal = next(line for line in console().splitlines() if "vnfs: refused" in line)
        assert f"expected {layer.digest}" in refusal
        assert "(from 10.87.0.1:/blobs)" in console()
        assert "starting the kernel" not in console()
        assert "changing root" not in console()
        # Mended where it lies: the node reads it when it tries again.
        new = spoiled.with_suffix(".new")
        new.write_bytes(good)
        os.replace(new, spoiled)
        # Silent in the middle of it: an error after a while, not a process that hangs for ever.
        wait_until(lambda: "% of" in console()[console().index(refusal) :], laboratory)
        os.kill(server.pid, signal.SIGSTOP)
        silent = "10.87.0.1:/blobs: no answer in time; going on"
        wait_until(lambda: silent in console(), laboratory)
        os.kill(server.pid, signal.SIGCONT)
        wait_until(lambda: sight().state == "ready", laboratory)
        shutil.rmtree(exported)
