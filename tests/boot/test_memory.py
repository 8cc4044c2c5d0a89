"""How small a node may be, what it is told when it is too small, and whether the model is right."""

import re
import time

import pytest

from provisiond.agent.memory import MIB, Load, kexec_peak_bytes
from provisiond.lab.laboratory import console_tail, open_laboratory
from provisiond.lab.machine import Machine
from provisiond.lab.watch import find_sight
from provisiond.statedir import StateDir
from vnfsbuild.manifest import INITRD, KERNEL
from vnfsbuild.reference import parse_reference
from vnfsbuild.store.store import Store

pytestmark = [
    pytest.mark.boot,
    pytest.mark.long,
    pytest.mark.timeout(2400),
    pytest.mark.xdist_group("compute"),
]

NAME = "debian-13-compute"
ENOUGH = Machine(number=1, memory_mib=768)
TOO_SMALL = Machine(number=2, memory_mib=512)
SECONDS = 900
TAKEN = re.compile(r"memory: (\d+) MiB were free, (\d+) MiB at worst: (\d+) MiB were taken")


def console(laboratory, machine):
    return laboratory.console(machine).read_bytes().decode("utf-8", "replace")


def wait_until(condition, laboratory, machine):
    deadline = time.monotonic() + SECONDS
    while not condition():
        told = laboratory.nodes(), console_tail(laboratory, machine, 40)
        assert laboratory.ended(machine) is None, told
        assert time.monotonic() < deadline, "\n".join(map(str, told))
        time.sleep(0.3)


def start(laboratory, machine, method):
    """Power it on and let it boot; return how the node server sees it."""

    def sight():
        return find_sight(laboratory.nodes(), machine)

    laboratory.power_on(machine)
    wait_until(lambda: sight() is not None, laboratory, machine)
    laboratory.set("method", method, sight().name)
    laboratory.set("vnfs", NAME, sight().name)
    return sight


def test_compute_boots_by_kexec_in_768_mib_and_a_smaller_node_is_told(
    built, compute_capsule, tmp_path
):
    with open_laboratory(built.settings(console_dir=tmp_path)) as laboratory:
        for path in (built.bootstrap, compute_capsule):
            laboratory.import_file(path)
        sight = start(laboratory, ENOUGH, "kexec")
        wait_until(lambda: sight().state == "ready", laboratory, ENOUGH)
        told = console(laboratory, ENOUGH)
        assert "Starting new kernel" in told
        verify_model(laboratory, TAKEN.search(told))
        laboratory.power_off(ENOUGH)

        sight = start(laboratory, TOO_SMALL, "kexec")
        wait_until(lambda: sight().state == "failed", laboratory, TOO_SMALL)
        (node,) = [item for item in laboratory.nodes() if item["name"] == sight().name]
        reason = re.compile(
            rf"memory: this node has 4\d\d MiB, \d+ MiB of it free; {NAME}@[0-9a-f]+ "
            r"needs \d+ MiB free for a kexec"
        )
        assert reason.search(console(laboratory, TOO_SMALL))
        assert reason.search(str(node)), node
        assert "loading the kernel" not in console(laboratory, TOO_SMALL)
        # The same machine, left to choose: bootstrap and capsule have the same kernel.
        laboratory.set("method", "auto", sight().name)
        wait_until(lambda: sight().state == "ready", laboratory, TOO_SMALL)
        assert "changing root, the kernel stays" in console(laboratory, TOO_SMALL)


def verify_model(laboratory, found):
    """Compare what was taken with what the agent works out before it fetches."""
    assert found, "the node did not say what memory it took"
    capsule = Store(StateDir(path=laboratory.state_dir).store).get(parse_reference(NAME))
    manifest = capsule.manifest
    load = Load(
        kernel_bytes=manifest.payload(KERNEL).size_bytes,
        initrd_bytes=manifest.payload(INITRD).size_bytes,
        layers_bytes=sum(layer.size_bytes for layer in manifest.layers),
    )
    taken, model = int(found.group(3)), kexec_peak_bytes(load) / MIB
    assert taken <= model, f"{taken} MiB were taken, the model says {model:.0f}"
    assert taken >= 0.8 * model, f"{taken} MiB were taken: the model, {model:.0f}, is too careful"
