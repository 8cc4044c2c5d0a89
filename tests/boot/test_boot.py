"""Virtual nodes, from power-on to ready: nothing of the path is left out, all of it is emulated."""

import json
import os
import subprocess
import sys
import time

import pytest

from provisiond.lab.laboratory import console_tail, open_laboratory, python_paths
from provisiond.lab.machine import Machine
from provisiond.lab.run import Wish, boot
from provisiond.lab.watch import find_sight
from provisiond.statedir import StateDir
from vnfsbuild.manifest import LAYER_SQUASHFS
from vnfsbuild.reference import parse_reference
from vnfsbuild.store.store import Store

pytestmark = pytest.mark.boot

NAME = "debian-13-minimal"
TIMEOUT_SECONDS = 400
MACHINE = Machine(number=1)
AGENT_MEMORY = "/proc/$(systemctl show --property MainPID --value vnfs-agent)/smaps_rollup"


def run_lab(built, *words):
    """Run ``provisionctl lab run`` as a person or a pipeline does."""
    argv = [sys.executable, "-m", "provisiond.ctl", "lab", "run"]
    argv += ["--capsule", str(built.capsule), "--bootstrap", str(built.bootstrap)]
    argv += ["--timeout", str(TIMEOUT_SECONDS), *words]
    places = {"VNFS_SITE": str(built.places.site), "VNFS_CACHE": str(built.places.cache)}
    return subprocess.run(
        argv,
        env={**os.environ, **places, **python_paths()},
        capture_output=True,
        text=True,
        check=False,
    )


def wait_until(condition, laboratory, machine=MACHINE, seconds=TIMEOUT_SECONDS):
    """Wait for *condition*, and show the console when it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        told = laboratory.nodes(), console_tail(laboratory, machine, 40)
        assert laboratory.ended(machine) is None, told
        assert time.monotonic() < deadline, "\n".join(map(str, told))
        time.sleep(0.3)


def sight(laboratory, machine=MACHINE):
    return find_sight(laboratory.nodes(), machine)


def console(laboratory, machine=MACHINE):
    return laboratory.console(machine).read_bytes().decode("utf-8", "replace")


def test_a_bios_node_and_a_uefi_node_become_ready(built, tmp_path):
    check = (
        'test "$(findmnt --noheadings --output FSTYPE /)" = overlay'
        " && grep -q '^n0000[12]$' /etc/hostname && systemctl is-active ssh.service"
        # All of what stays in memory of the agent; its share is less.
        f" && test $(sed -n 's/^Rss: *\\([0-9]*\\) kB/\\1/p' {AGENT_MEMORY}) -le 16384"
    )
    done = run_lab(
        built, "--nodes", "2", "--firmware", "bios", "--firmware", "uefi",
        "--check", check, "--json", "--console-dir", str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-6000:]
    value = json.loads(done.stdout)
    assert (value["ready"], value["emulated"]) == (True, True)
    assert [node["firmware"] for node in value["nodes"]] == ["bios", "uefi"]
    assert {node["name"] for node in value["nodes"]} == {"n00001", "n00002"}
    for node in value["nodes"]:
        seconds = list(node["seconds"].values())
        assert list(node["seconds"]) == ["bootstrap up", "fetched", "kexec", "ready"]
        assert seconds == sorted(seconds)
        assert node["failedUnits"] == []
        assert 0 < node["memoryUsedKib"] < node["memoryTotalKib"]
        assert "power on" in done.stderr
        assert (tmp_path / f"{node['machine']}.console").stat().st_size > 0


def test_a_failing_check_is_told_with_its_reason_and_the_console(built):
    done = run_lab(
        built, "--nodes", "1", "--method", "pivot", "--check", "echo no such luck; exit 7"
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "50-lab-check" in done.stderr
    assert "no such luck" in done.stderr
    assert "Last lines of its console" in done.stderr
    assert "error: laboratory: 1 of 1 nodes not ready: n00001: failed" in done.stderr


def test_a_pivot_keeps_the_kernel(built):
    wish = Wish(capsule=NAME, method="pivot", timeout_seconds=TIMEOUT_SECONDS)
    lines = []
    with open_laboratory(built.settings()) as laboratory:
        laboratory.import_file(built.bootstrap)
        laboratory.import_file(built.capsule)
        (outcome,) = boot(laboratory, [MACHINE], wish, tell=lines.append)
        assert outcome.is_ready, (outcome, lines, console_tail(laboratory, MACHINE, 40))
        assert "kexec" not in outcome.seconds
        assert console(laboratory).count("Linux version") == 1


def test_the_story_of_the_article(built):
    """A node appears, says what it waits for, and goes on by itself once it is told."""
    with open_laboratory(built.settings()) as laboratory:
        laboratory.import_file(built.bootstrap)
        laboratory.import_file(built.capsule)
        laboratory.power_on(MACHINE)
        wait_until(lambda: sight(laboratory) is not None, laboratory)
        assert sight(laboratory).name == "n00001"
        wait_until(lambda: "n00001: waiting: " in console(laboratory), laboratory)
        assert "no VNFS capsule is assigned to n00001" in console(laboratory)

        provisionctl(laboratory, "node", "set", "vnfs", NAME, "n0000[1-9]")
        told = time.monotonic()
        wait_until(lambda: sight(laboratory).state != "init", laboratory)
        assert time.monotonic() - told < 20, "the open request was not answered"
        wait_until(lambda: sight(laboratory).state == "ready", laboratory)

        status = provisionctl(laboratory, "node", "status")
        head, row = status.splitlines()[:2]
        for word in ("HostName", "Status", "IpAddr", "Last Contact"):
            assert word in head
        assert row.split()[:3] == ["n00001", "ready", "10.87.1.1"]
        assert built.digest[7:19] in row


def test_a_flipped_bit_is_refused_by_the_node_until_it_is_gone(built):
    with open_laboratory(built.settings()) as laboratory:
        laboratory.import_file(built.bootstrap)
        laboratory.import_file(built.capsule)
        blob = largest_layer(laboratory)
        flip_bit(blob)
        laboratory.power_on(MACHINE)
        wait_until(lambda: sight(laboratory) is not None, laboratory)
        laboratory.set("vnfs", NAME, "n00001")
        wait_until(lambda: sight(laboratory).state == "failed", laboratory)
        assert "refused debian-13-minimal" in sight(laboratory).text
        assert f"sha256:{blob.name[:8]}" in sight(laboratory).text
        # It keeps trying, each time from the beginning.
        wait_until(lambda: console(laboratory).count("refused debian-13-minimal") > 1, laboratory)
        assert "failed" in provisionctl(laboratory, "node", "status")
        flip_bit(blob)
        wait_until(lambda: sight(laboratory).state == "booting", laboratory)


def provisionctl(laboratory, *words):
    argv = [sys.executable, "-m", "provisiond.ctl", "--socket", str(laboratory.socket), *words]
    done = subprocess.run(
        argv, env={**os.environ, **python_paths()}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def largest_layer(laboratory):
    store = Store(StateDir(path=laboratory.state_dir).store)
    capsule = store.get(parse_reference(NAME))
    layers = [item for item in capsule.manifest.layers if item.media_type == LAYER_SQUASHFS]
    return store.blob_path(max(layers, key=lambda item: item.size_bytes).digest)


def flip_bit(path):
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
